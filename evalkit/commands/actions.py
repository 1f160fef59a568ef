"""Commands that have commands of their own, such as `evalkit rewards card`."""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module


def add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, str], package: str,
                modules: Mapping[str, str] | None = None) -> None:
    """One subcommand for each of `actions` (name -> what it does), from the module of that name in `package`.

    A module has `add_arguments(parser)` and `main(args) -> exit code`; `modules` renames those whose name would hide a
    builtin. `run_action(args)` runs what was asked for.
    """
    found = parser.add_subparsers(dest="action", required=True, metavar="|".join(actions))
    for name, what in actions.items():
        action = found.add_parser(name, help=what, description=what)
        module = import_module(f"{package}.{(modules or {}).get(name, name)}")
        module.add_arguments(action)
        action.set_defaults(main_of_action=module.main)


def run_action(args: argparse.Namespace) -> int:
    return args.main_of_action(args)
