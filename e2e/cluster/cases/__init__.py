"""Tables of objects with what an API server must say to them; run on servers and on the mirror in `hortator.api`."""
