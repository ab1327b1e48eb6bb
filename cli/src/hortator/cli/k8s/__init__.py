"""`hortator k8s`: LLMServices on a cluster, as the person who runs them sees them."""
