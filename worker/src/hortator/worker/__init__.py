"""The worker: hosts an Engine, admits batches as one, streams tokens to gateways and loads to schedulers."""
