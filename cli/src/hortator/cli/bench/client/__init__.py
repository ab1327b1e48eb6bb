"""Load generators that cost little: what is measured is the server, on a machine that runs both."""
