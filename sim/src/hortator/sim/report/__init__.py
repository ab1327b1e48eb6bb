"""The report: a page of policies compared, made of data alone. Pure: the same data, the same bytes."""
