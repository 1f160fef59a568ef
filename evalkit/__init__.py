"""Measure video generation models."""
