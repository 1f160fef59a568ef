"""Score a random part (or all) of the samples again and compare."""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from leaderboards.commands.common import add_board_argument, find_row, open_board

EPILOG = """exit codes: 0 verified (the badge is written into the row), 2 cannot be verified, 4 deviates by more than
the board tolerates (a badge that was there is taken away)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", help="of the row")
    add_board_argument(parser)
    parser.add_argument("--samples", required=True, type=Path, metavar="DIR", help="folder of the scored videos")
    parser.add_argument("--share", type=float, default=0.1, help="of the videos, drawn at random (default 0.1; 1: all)")
    parser.add_argument("--by", help="who verifies (default: the user's name)")
    parser.add_argument("--seed", type=int, help="which part; default: nobody can know it beforehand")
    parser.add_argument("--reference", metavar="SET", help="as in `evalkit run`, for set metrics")
    parser.add_argument("--paired", metavar="SET", help="as in `evalkit run`")
    parser.add_argument("--protocol", metavar="NAME", help="as in `evalkit run`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, metavar="N")


def main(args: argparse.Namespace) -> int:
    import getpass

    from evalkit.cli import EXIT_REGRESSION
    from evalkit.table import print_columns
    from leaderboards.submissions import rewrite
    from leaderboards.verify import Scoring, verify_submission

    board = open_board(args.board)
    row = find_row(board, args.name)
    scoring = Scoring(args.reference, args.paired, args.protocol, args.device, args.workers)
    outcome = verify_submission(board, row, args.samples, by=args.by or getpass.getuser(), share=args.share,
                                seed=args.seed, scoring=scoring)
    found = outcome.verification
    print_columns(["score", "largest deviation", "tolerance", ""], [
        [name, f"{deviation:.2e}", f"{board.metrics[name].tolerance:g}", "TOO LARGE" * (name in outcome.excess)]
        for name, deviation in found.deviations.items()], right=("largest deviation", "tolerance"))
    rewrite(replace(row, verification=None if outcome.excess else found))
    if outcome.skipped:
        print(f"not scored again, because evalkit cannot: {', '.join(outcome.skipped)}")
    if row.counts["failed"]:
        print(f"{row.counts['failed']} of {row.counts['found']} videos have an error, and no score")
    print(f"\n{row.name}: {found.videos} videos ({found.share:.0%}) scored again: "
          + ("no badge" if outcome.excess else f"verified by {found.by}"))
    return EXIT_REGRESSION if outcome.excess else 0
