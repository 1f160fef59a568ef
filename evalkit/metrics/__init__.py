"""Metrics: the contract, and evalkit's own."""
