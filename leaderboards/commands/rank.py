"""The board in the terminal, with intervals and rank ranges."""
from __future__ import annotations

import argparse

from leaderboards.commands.common import add_board_argument, open_board

NOTE = ("rank: 1 + the models that are significantly better; the range holds the true rank, for all rows at once with "
        "95 %. *: on the Pareto front of the weighted metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_board_argument(parser)
    parser.add_argument("--by", metavar="METRIC|composite|wins", help="default: what the board says")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws over prompts")
    parser.add_argument("--seed", type=int, default=0)


def main(args: argparse.Namespace) -> int:
    from evalkit.errors import UsageError
    from evalkit.table import format_value, print_columns
    from leaderboards.checks import check_submission
    from leaderboards.ranking import rank_board
    from leaderboards.reading import read_board_rows

    if not 100 <= args.draws <= 100_000 or args.seed < 0:
        raise UsageError(f"expected --draws from 100 to 100000 and a --seed of at least 0, got {args.draws} and "
                         f"{args.seed}")
    board = open_board(args.board)
    rows = read_board_rows(board)
    for row in rows:
        check_submission(row, board)
    ranking = rank_board(board, rows, args.by, draws=args.draws, seed=args.seed)
    print(f"{board.title}, by {ranking.by} ({'higher' if ranking.higher_is_better else 'lower'} is better)\n")
    print_columns(["rank", "range", "", "name", ranking.by, "95 % interval", "composite", "status", ""], [
        [str(one.rank or ""), "–".join(map(str, dict.fromkeys(one.rank_range))) if one.rank_range else "",
         "*" if one.pareto else "", one.submission.name, "" if one.value is None else format_value(one.value),
         f"[{format_value(one.ci95[0])}, {format_value(one.ci95[1])}]" if one.ci95 else "",
         "" if one.composite is None else format_value(one.composite), one.submission.status, one.reason or ""]
        for one in ranking.rows], right=("rank", ranking.by, "composite"))
    print(f"\n{NOTE}")
    return 0
