"""What is said about an LLMService: reasons, conditions, groups to the rank, and `explain`."""
