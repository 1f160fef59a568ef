"""Measure video generation models: `from evalkit import evaluate`."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.errors import UsageError as UsageError
    from evalkit.results import Report as Report
    from evalkit.runner import evaluate as evaluate

_HOMES = {"evaluate": "evalkit.runner", "build_reference": "evalkit.runner", "Report": "evalkit.results",
          "UsageError": "evalkit.errors"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:  # lazily: torch takes seconds to import, `evalkit --help` must not
    if name not in _HOMES:
        raise AttributeError(f"module 'evalkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
