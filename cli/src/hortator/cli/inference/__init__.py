"""The public inference API, as the command line uses it."""
