"""The gateway as a client: of the scheduler, and of every worker that runs one of its requests."""
