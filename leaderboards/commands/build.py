"""The board as a static site."""
from __future__ import annotations

import argparse
from pathlib import Path

from leaderboards.commands.common import add_board_argument, open_board

EPILOG = """The site is a folder of plain files: open index.html from the disk, or put the folder on any web server.
Files are held against the hashes in their submissions; `evalkit leaderboard rank` also computes every mean and interval
again. The same board gives the same bytes.

examples:
  evalkit leaderboard build --board t2v --out site/
  evalkit leaderboard build --board t2v --out site/ --cards cards/   # cards/farm.html of `evalkit rewards card farm`
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add_board_argument(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or a site to be replaced")
    parser.add_argument("--cards", type=Path, metavar="DIR", help="reward cards as METRIC.html, to be linked")


def main(args: argparse.Namespace) -> int:
    from evalkit.progress import shown_progress
    from leaderboards.site import build_site

    board = open_board(args.board)
    with shown_progress("rows") as advance:
        page = build_site(board, args.out, cards=args.cards, progress=lambda n, of: advance("rows", n, of, None))
    print(f"wrote {page}; look at it there, or with `evalkit leaderboard serve {args.out}`")
    return 0
