"""Imports every module of evalkit that registers metrics; packages outside announce theirs as entry points."""
from evalkit.metrics import diversity, frechet, kernel, manifold  # noqa: F401
from evalkit.metrics import clip_score, frame_consistency, full_reference, vbench  # noqa: F401, I001
