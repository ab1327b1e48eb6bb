"""What stands between a client and the API server: adaptation to 1.20, and faults that a test asks for."""
