"""evalkit baseline sample and pairs."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

FUNCTIONS = {"sample": "sample", "pairs": "make_pairs"}


def add_arguments(parser: argparse.ArgumentParser, action: str) -> None:
    from baselines.flags import add_flags

    add_flags(parser, import_module(f"baselines.{action}").Config)


def main(args: argparse.Namespace) -> int:
    from baselines.flags import read_flags

    module = import_module(f"baselines.{args.action}")
    print(run_sampling(getattr(module, FUNCTIONS[args.action]), read_flags(args, module.Config)))
    return 0


def run_sampling(function: Callable[..., Path], config: Any) -> Path:
    """With a bar on the terminal; what the user got wrong as a UsageError."""
    from evalkit.errors import UsageError
    from evalkit.features.weights import MissingWeights
    from evalkit.progress import shown_progress

    try:
        with shown_progress("samples") as advance:
            return function(config, lambda stage, done, of: advance(stage, done, of, None))
    except (ValueError, MissingWeights) as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from error
