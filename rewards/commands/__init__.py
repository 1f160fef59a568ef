"""evalkit rewards: what a reward measures, how it can be cheated, and how sure it is."""
from __future__ import annotations

import argparse
from importlib import import_module

ACTIONS = {  # name -> what it does; the module of that name in this folder adds its arguments and runs it
    "list": "the rewards there are",
}
_MODULES = {"list": "listing"}  # where a name would hide a builtin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name, what in ACTIONS.items():
        action = actions.add_parser(name, help=what, description=what)
        module = import_module(f"rewards.commands.{_MODULES.get(name, name)}")
        module.add_arguments(action)
        action.set_defaults(run=module.main)


def main(args: argparse.Namespace) -> int:
    return args.run(args)
