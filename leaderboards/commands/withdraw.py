"""Take a row out of the ranking; it stays, with the reason."""
from __future__ import annotations

import argparse

from leaderboards.commands.common import add_board_argument, find_row, open_board


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the row")
    add_board_argument(parser)
    parser.add_argument("--reason", required=True)


def main(args: argparse.Namespace) -> int:
    from leaderboards.submissions import withdraw

    print(withdraw(find_row(open_board(args.board), args.name), args.reason).path)
    return 0
