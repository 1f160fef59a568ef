"""evalkit rewards: what a reward measures, how it can be cheated, and how sure it is."""
from __future__ import annotations

import argparse

from evalkit.commands.actions import add_actions, run_action

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
    add_actions(parser, ACTIONS, __name__, _MODULES)


def main(args: argparse.Namespace) -> int:
    return run_action(args)
