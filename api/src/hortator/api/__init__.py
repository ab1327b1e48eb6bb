"""LLMService: types, validation and arithmetic. Imports nothing else of Hortator."""
