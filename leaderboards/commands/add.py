"""A run as a row: one JSON file, with its per-video scores and features beside it."""
from __future__ import annotations

import argparse
from pathlib import Path

from evalkit.errors import UsageError
from leaderboards.commands.common import add_board_argument, open_board
from leaderboards.commands.generation import add_generation_arguments, read_generation

EPILOG = """example:
  evalkit leaderboard add runs/my-model --board t2v --name "My model" --seeds 0,1 --prompts-rewritten no \\
      --sampler unipc --steps 50 --guidance 5 --size 832x480 --fps 16 --link code=https://… --commit 0123abc
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, help="folder that `evalkit run --out` wrote")
    add_board_argument(parser)
    parser.add_argument("--name", help="as the board shows it (default: the run's model)")
    add_generation_arguments(parser)
    parser.add_argument("--reference-row", action="store_true", help="frozen, shuffled, noise or real videos: shown, "
                                                                     "never ranked")
    parser.add_argument("--link", action="append", default=[], metavar="code=URL")
    parser.add_argument("--commit", default="", help="of the code that made the samples")
    parser.add_argument("--checkpoint", metavar="RUN@STEP", help="rows of one training run draw its history")
    parser.add_argument("--clips", type=int, default=0, metavar="N",
                        help="keep copies of the N first, best and worst videos for the site")


def main(args: argparse.Namespace) -> int:
    from leaderboards.submissions import add_run

    board = open_board(args.board)
    name = args.name or _model_of(args.run)
    row, _ = add_run(board, args.run, name, clips=args.clips, kind="reference" if args.reference_row else "model",
                     generation=None if args.reference_row else read_generation(args), links=_pairs(args.link),
                     commit=args.commit, checkpoint=_checkpoint(args.checkpoint))
    nulls = [metric for metric, score in row.scores.items() if score.value is None]
    if nulls:
        print(f"without a value, and unranked by it: {', '.join(nulls)}")
    print(row.path)
    return 0


def _model_of(run: Path) -> str:
    from evalkit.results import Report

    try:
        return Report.load(run).model
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _pairs(links: list[str]) -> dict[str, str]:
    wrong = [link for link in links if "=" not in link]
    if wrong:
        raise UsageError(f"--link: expected NAME=URL, got {wrong[0]!r}")
    return dict(link.split("=", 1) for link in links)


def _checkpoint(text: str | None):
    from leaderboards.schema import Checkpoint

    if text is None:
        return None
    run, _, step = text.rpartition("@")
    if not run or not step.isdecimal():
        raise UsageError(f"--checkpoint: expected RUN@STEP, got {text!r}")
    return Checkpoint(run, int(step))
