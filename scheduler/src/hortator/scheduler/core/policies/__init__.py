"""Policies: when a batch is released, and where each request sits. One module each, one registry."""
