"""Is this machine, this library and this engine what the adapter takes them for? For `hortator doctor`."""
