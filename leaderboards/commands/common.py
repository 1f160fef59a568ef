"""What the commands share: the board that is meant, and a row of it."""
from __future__ import annotations

import argparse
from pathlib import Path

from evalkit.errors import UsageError
from leaderboards.reading import read_board, read_board_rows
from leaderboards.schema import Board, Submission

PLACES = ("boards", "leaderboards/boards")  # where a board that is named without a path is looked for


def add_board_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--board", required=True, metavar="NAME|FILE",
                        help=f"boards/NAME.json, or a name below {' or '.join(PLACES)}")


def open_board(text: str) -> Board:
    """The board that `--board` means. UsageError where there is none, naming those that are."""
    places = [Path(text)] if text.endswith(".json") else [Path(place) / f"{text}.json" for place in PLACES]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        there = sorted(path.stem for place in PLACES for path in Path(place).glob("*.json"))
        raise UsageError(f"no board {text!r}; there are: {', '.join(there) or 'none'}. "
                         "Make one with `evalkit leaderboard init boards/NAME.json --suite standard`")
    return read_board(found)


def find_row(board: Board, text: str) -> Submission:
    """The row of that name or file name. UsageError naming those that are."""
    rows = read_board_rows(board)
    found = [row for row in rows if text in (row.slug, row.name)]
    if not found:
        raise UsageError(f"no row {text!r} on board {board.name}; there are: "
                         f"{', '.join(row.slug for row in rows) or 'none'}")
    return found[0]
