"""Benchmark suites: prompts, protocols and metrics in one small file each."""
