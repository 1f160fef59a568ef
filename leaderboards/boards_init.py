"""A new board from a suite or a list of metrics; protocols and anchors from runs where these are given. Torch-free."""
from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.catalogue import read_catalogue
from evalkit.results import Report, write_atomic
from evalkit.suites import load_suite
from leaderboards.fields import BoardError
from leaderboards.reading import check_board, read_board
from leaderboards.schema import Anchor, Board, BoardMetric, format_json
from leaderboards.submissions import pin, slug_of


def init_board(path: Path, *, title: str = "", suite: str = "", metrics: Sequence[str] = (), rank_by: str = "",
               weights: Mapping[str, float] | None = None, like: Report | None = None,
               anchors: Sequence[Report] = ()) -> Board:
    """Write `boards/NAME.json`: the metrics named, else the suite's, ranked by `rank_by` (default: the first).

    weights: of the composite and the wins (default: all 1); like: a run whose protocols and prompts the board takes,
    instead of the first row's; anchors: two runs or more whose mean and standard deviation per metric are 0 and 1 of
    the composite. Raises BoardError where the file is there already, or the parts do not fit.
    """
    if path.exists():
        raise BoardError(f"{path} is there already: a board is changed in its file, so that the change can be read")
    if path.suffix != ".json" or path.parent.resolve().name != "boards" or slug_of(path.stem) != path.stem:
        raise BoardError(f"expected boards/NAME.json, NAME of lower-case letters, digits and ._-; got {path}")
    chosen = list(metrics or _metrics_of(suite))
    weights = dict.fromkeys(chosen, 1.0) if weights is None else weights
    strange = sorted({*weights} - {*chosen})
    if strange:
        raise BoardError(f"a weight for {', '.join(strange)}, which the board does not have: {', '.join(chosen)}")
    known = {metric["name"]: metric for metric in read_catalogue()["metrics"]}
    columns = {name: replace(_column(name, known, like), weight=weights.get(name, 0.0), anchor=_anchor(name, anchors))
               for name in chosen}
    board = Board(path.stem, title or path.stem, rank_by or chosen[0], columns, suite=suite, path=path)
    board = pin(board, like) if like is not None else board
    check_board(board)
    write_atomic(path, format_json(board.to_json()))
    return read_board(path)


def _metrics_of(suite: str) -> Sequence[str]:
    try:
        return load_suite(suite or "standard").metrics
    except (ValueError, OSError) as error:
        raise BoardError(str(error)) from error


def _column(name: str, known: Mapping[str, Any], like: Report | None) -> BoardMetric:
    """What evalkit knows of a metric; of others, such as the arena's votes, what the run says."""
    if name in known:
        return BoardMetric(known[name]["better"] == "higher", known[name]["unit"], tuple(known[name]["range"]),
                           known[name]["summary"])
    if like is not None and name in like.scores:
        return BoardMetric(like.scores[name].higher_is_better, like.scores[name].unit)
    raise BoardError(f"unknown metric {name}; there are: {', '.join(known)}, and those of the run given as --like")


def _anchor(name: str, runs: Sequence[Report]) -> Anchor | None:
    """Mean and standard deviation of the runs' values; None where fewer than two have one, or all are equal."""
    values = [run.scores[name].value for run in runs if name in run.scores and run.scores[name].value is not None]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return Anchor(statistics.fmean(values), spread) if spread > 0 else None
