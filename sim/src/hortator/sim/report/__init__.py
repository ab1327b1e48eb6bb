"""The report: what a comparison of policies looks like, as one page without anything from elsewhere."""
