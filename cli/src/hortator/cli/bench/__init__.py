"""Benchmarks: each writes one JSON document that says what was measured, how, where and from which commit."""
