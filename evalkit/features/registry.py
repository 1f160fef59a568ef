"""Imports every module that registers extractors; `make_extractor` reads the names from there."""
