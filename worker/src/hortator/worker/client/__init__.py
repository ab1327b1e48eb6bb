"""What a worker asks of others: schedulers to listen to (`report`), prefill workers for KV (`kv`)."""
