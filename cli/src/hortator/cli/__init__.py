"""The `hortator` command: everything a person does with Hortator from a terminal."""
