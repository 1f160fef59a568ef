"""evalkit rewards: what a reward measures, how it can be cheated, and how sure it is."""
from __future__ import annotations

import argparse
from importlib import import_module

ACTIONS = {  # name -> what it does; the module of that name in this folder adds its arguments and runs it
    "card": "everything measured of a reward on one page",
    "attack": "the hack suite: does a hacked clip score as high as the clean one?",
    "list": "the rewards there are",
    "train": "fit a preference reward to pairs of videos",
    "score": "any reward of any folder of videos",
    "label": "let a reward choose among samples of the same prompt: pairs for DPO",
    "serve": "answer over HTTP, for trainers that keep rewards in another process",
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
