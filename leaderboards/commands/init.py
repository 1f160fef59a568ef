"""A new board: which metrics, under which protocols, and which one ranks."""
from __future__ import annotations

import argparse
from pathlib import Path

from evalkit.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="boards/NAME.json")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--suite", default="", metavar="NAME", help="its metrics (default: standard)")
    which.add_argument("--metrics", metavar="A,B", help="names from `evalkit list metrics`")
    parser.add_argument("--title", default="")
    parser.add_argument("--rank-by", default="", metavar="METRIC|composite|wins", help="default: the first metric")
    parser.add_argument("--weights", metavar="A=1,B=0.5", help="in the composite and the wins (default: all 1)")
    parser.add_argument("--like", type=Path, metavar="RUN", help="take protocols and prompts from this run; default: "
                                                                "from the first row")
    parser.add_argument("--anchors", type=Path, nargs="+", default=[], metavar="RUN",
                        help="two runs or more whose mean and spread are 0 and 1 of the composite, for good")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import split_names
    from evalkit.results import Report
    from leaderboards.boards_init import init_board

    def load(path: Path) -> Report:
        try:
            return Report.load(path)
        except (ValueError, OSError) as error:
            raise UsageError(str(error)) from error

    board = init_board(args.path, title=args.title, suite=args.suite, metrics=split_names(args.metrics) or (),
                       rank_by=args.rank_by, weights=parse_weights(args.weights),
                       like=load(args.like) if args.like else None, anchors=[load(path) for path in args.anchors])
    open_protocols = [name for name, metric in board.metrics.items() if metric.protocol is None]
    if open_protocols:
        print(f"the first row fixes the protocols of {', '.join(open_protocols)}")
    print(args.path)
    return 0


def parse_weights(text: str | None) -> dict[str, float] | None:
    """"a=1,b=0.5" -> numbers by name; UsageError where it is not that."""
    if text is None:
        return None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        weights = {name.strip(): float(number) for name, number in pairs}
    except ValueError as error:
        raise UsageError(f"--weights: expected NAME=NUMBER,…, got {text!r}") from error
    if not all(0 <= weight < float("inf") for weight in weights.values()):
        raise UsageError(f"--weights: expected numbers of at least 0, got {text!r}")
    return weights
