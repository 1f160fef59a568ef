"""The whole board as files: CSV and Parquet with a row per model, JSON with everything that ranks."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.ranking import RankedRow, Ranking
from leaderboards.schema import Board
from leaderboards.site_data import as_json

if TYPE_CHECKING:
    import pandas as pd

_SCORE = ("value", "ci95", "n", "reason", "floor")  # direction, unit and protocol are the board's


def write_downloads(board: Board, ranking: Ranking, folder: Path) -> None:
    """`board.csv`, `board.parquet` and `board.json`."""
    table = make_table(board, ranking)
    table.to_parquet(folder / "board.parquet", index=False)
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    for_sheets = table.assign(**{column: table[column].map(_disarm) for column in texts})
    for_sheets.to_csv(folder / "board.csv", index=False, lineterminator="\n")
    head = as_json({"board": board.to_json(), "ranked_by": ranking.by})
    lines = ",\n".join(as_json(_row(row)) for row in ranking.rows)  # a line each: thousands stay readable as a diff
    (folder / "board.json").write_text(f'{head[:-1]},"rows":[\n{lines}\n]}}\n', encoding="ascii")


def make_table(board: Board, ranking: Ranking) -> pd.DataFrame:
    """A row per submission, best first: who, its rank range, then value, interval, n and reason of each metric."""
    import pandas as pd

    return pd.DataFrame([_flat(board, row) for row in ranking.rows]).astype(
        {"rank_low": "Int64", "rank_high": "Int64", "step": "Int64"} if ranking.rows else {})


def _flat(board: Board, row: RankedRow) -> dict[str, Any]:
    it = row.submission
    low, high = row.rank_range or (None, None)
    found = {"slug": it.slug, "name": it.name, "kind": it.kind, "status": it.status, "submitted": it.submitted,
             "commit": it.commit, "rank_low": low, "rank_high": high, "pareto": row.pareto, "composite": row.composite,
             "run": it.checkpoint.run if it.checkpoint else None, "step": it.checkpoint.step if it.checkpoint else None}
    for name in board.metrics:
        score = it.scores[name]
        ends = score.ci95 or (None, None)
        found |= {name: score.value, f"{name}.low": ends[0], f"{name}.high": ends[1], f"{name}.n": score.n,
                  f"{name}.reason": score.reason}
    return found


def _row(row: RankedRow) -> dict[str, Any]:
    """What ranks a submission, and its own file without what the board's has."""
    slim = replace(row.submission, scores={}, protocols={}).to_json()
    scores = {name: {key: value for key, value in vars(score).items() if key in _SCORE and value is not None}
              for name, score in row.submission.scores.items()}
    content = {key: value for key, value in slim.items() if key not in ("schema", "protocols")}
    return {"slug": row.submission.slug, "rank_range": row.rank_range, "pareto": row.pareto,
            "composite": row.composite, "unranked": row.reason} | content | {"scores": scores}


def _disarm(text: Any) -> Any:
    """A cell that a spreadsheet would run as a formula, as plain text."""
    return f"'{text}" if isinstance(text, str) and text[:1] in "=+-@\t\r" and text else text
