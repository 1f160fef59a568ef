"""Imports every module of evalkit that registers metrics; packages outside announce theirs as entry points."""
from evalkit.metrics import (  # noqa: F401
    clip_score,
    diversity,
    frame_consistency,
    frechet,
    full_reference,
    kernel,
    manifold,
    temporal,
    vbench,
)
