"""Hortator beside other routers, on the same simulated engine, in real time (`make peers`)."""
