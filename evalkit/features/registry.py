"""Imports every module that registers extractors; `make_extractor` reads the names from there."""
from evalkit.features import motion  # noqa: F401
from evalkit.features import aesthetic, dinov2, i3d, openclip, raft, squeezenet, videomae, vjepa  # noqa: F401
