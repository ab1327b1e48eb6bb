"""Clients of the operator: of the Kubernetes API server, and of a service's scheduler."""
