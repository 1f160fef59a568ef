"""evalkit leaderboard: rows that can be re-scored, ranked with their uncertainty, drawn as a site."""
from __future__ import annotations

import argparse

from evalkit.commands.actions import add_actions, run_action

ACTIONS = {  # name -> what it does; the module of that name in this folder adds its arguments and runs it
    "init": "a new board: which metrics, under which protocols, and which one ranks",
    "add": "a run as a row: one JSON file, with its per-video scores and features beside it",
    "verify": "score a random part (or all) of the samples again and compare",
    "rank": "the board in the terminal, with intervals and rank ranges",
    "withdraw": "take a row out of the ranking; it stays, with the reason",
    "build": "the board as a static site",
    "serve": "look at a built site locally",
    "arena": "people compare pairs of videos in the browser",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    add_actions(parser, ACTIONS, __name__)


def main(args: argparse.Namespace) -> int:
    return run_action(args)
