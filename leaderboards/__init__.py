"""Leaderboards: rows that can be re-scored, differences with a significance, trade-offs as a picture. Torch-free."""
