"""The sans-IO core: decisions are functions of state, event and time."""
