"""Benchmark suites: prompts, protocols and metrics in one small file each."""
from evalkit.suites.base import Suite, SuitePrompt, available_suites, load_suite, match_videos
from evalkit.suites.importers import IMPORTERS, import_suite

__all__ = ["IMPORTERS", "Suite", "SuitePrompt", "available_suites", "import_suite", "load_suite", "match_videos"]
