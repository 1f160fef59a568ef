"""Frozen networks and fixed computations whose output several metrics share."""
