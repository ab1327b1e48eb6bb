"""Engines: each package here implements the port in `hortator.worker.engine`; they are strangers to each other."""
