"""The scheduler: decides when each forward pass gets its work, and on which DP rank each request sits."""
