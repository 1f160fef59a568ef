"""Imports every module that registers extractors; `make_extractor` reads the names from there."""
from evalkit.features import (  # noqa: F401
    aesthetic,
    dinov2,
    i3d,
    mini_clip,
    mini_video,
    motion,
    openclip,
    raft,
    squeezenet,
    videomae,
    vjepa,
)
