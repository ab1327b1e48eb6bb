"""The scheduler's admin service, as the command line sees it."""
