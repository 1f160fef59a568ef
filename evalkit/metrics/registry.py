"""Imports every module of evalkit that registers metrics; packages outside announce theirs as entry points."""
