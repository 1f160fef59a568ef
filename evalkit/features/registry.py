"""Imports every module that registers extractors; `make_extractor` reads the names from there."""
from evalkit.features import motion  # noqa: F401
