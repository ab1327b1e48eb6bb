"""What every process needs: settings, logs, metrics, lifecycle, gRPC servers, errors. No domain words."""
