"""Engines: each package implements the port in `hortator.worker.engine`; strangers to each other."""
