"""The study: what is simulated to prove the claims, and what the results say."""
