"""Ranks of a board by a metric, by an anchored composite, or by paired wins, with ranges from a bootstrap over prompts.

Torch-free. Composite scores stand on fixed anchors, so no row moves another.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evalkit.pareto import pareto_front
from leaderboards.bradley_terry import fit_strengths
from leaderboards.checks import check_scores
from leaderboards.fields import BoardError
from leaderboards.rank_ranges import rank_ranges
from leaderboards.schema import COMPOSITE, WINS, Board, Submission
from leaderboards.tables import read_columns, read_numbers

_NORMAL95 = 1.959964


@dataclass(frozen=True)
class RankedRow:
    """A row with what ranks it. Without a rank, `reason` says why."""

    submission: Submission
    value: float | None  # the score, the composite, or the log strength of the wins
    ci95: tuple[float, float] | None
    rank: int | None  # 1 + the number of models that are significantly better
    rank_range: tuple[int, int] | None  # all true ranks of the board lie in their ranges with 95 % at once
    pareto: bool
    composite: float | None  # weighted mean of anchored z-scores, higher is better
    reason: str | None = None


@dataclass(frozen=True)
class Ranking:
    """The rows of a board: the ranked ones best first, then those without a rank."""

    by: str
    higher_is_better: bool
    rows: tuple[RankedRow, ...]


def rank_board(board: Board, rows: Sequence[Submission], by: str | None = None, *, draws: int = 1000,
               seed: int = 0) -> Ranking:
    """Rank the rows `by` a metric, "composite" or "wins" (default: what the board says).

    Withdrawn rows, reference rows and nulls are unranked. Raises BoardError for an unknown `by`, for a composite
    without anchors, and for rows under other protocols than the board's.
    """
    by = by or board.rank_by
    weights = _weights(board, by)
    for row in rows:
        check_scores(row, board)
    reasons = {row.slug: _why_unranked(row, by, weights) for row in rows}
    ranked = [row for row in rows if reasons[row.slug] is None]
    higher = board.metrics[by].higher_is_better if by in board.metrics else True
    found = _estimate(board, ranked, by, weights, draws, seed)
    sign = 1.0 if higher else -1.0
    ranges = rank_ranges(found.values, found.draws, prompts=found.prompts)
    front = _front(board, ranked)
    order = sorted(range(len(ranked)), key=lambda i: (-found.values[i], ranked[i].slug))
    best_first = [RankedRow(ranked[i], sign * float(found.values[i]), _interval(found, ranked[i], i, by),
                            int(ranges[i, 0]), (int(ranges[i, 0]), int(ranges[i, 1])), bool(front[i]),
                            composite(board, ranked[i])) for i in order]
    others = [_unranked(board, row, by, reasons[row.slug]) for row in rows if reasons[row.slug] is not None]
    return Ranking(by, higher, (*best_first, *others))


def composite(board: Board, row: Submission) -> float | None:
    """Weighted mean of (score − anchor mean) / anchor std, the sign turned where lower is better.

    None where a weighted metric has no value or no anchor. Depends on the row and the board file alone.
    """
    weighted = {name: metric for name, metric in board.metrics.items() if metric.weight}
    if not weighted or any(metric.anchor is None or row.scores[name].value is None
                           for name, metric in weighted.items()):
        return None
    total = sum(metric.weight * _z(board, name, row.scores[name].value) for name, metric in weighted.items())
    return total / sum(metric.weight for metric in weighted.values())


def _z(board: Board, name: str, value: Any) -> Any:
    metric = board.metrics[name]
    return (1 if metric.higher_is_better else -1) * (value - metric.anchor.mean) / metric.anchor.std


def _weights(board: Board, by: str) -> dict[str, float]:
    """Metric -> its share in what ranks."""
    if by in board.metrics:
        return {by: 1.0}
    if by not in (COMPOSITE, WINS):
        raise BoardError(f"board {board.name}: cannot rank by {by!r}; there are: {COMPOSITE}, {WINS}, "
                         f"{', '.join(board.metrics)}")
    weights = {name: metric.weight for name, metric in board.metrics.items() if metric.weight}
    if not weights:
        raise BoardError(f"board {board.name}: no metric has a weight, so there is no {by} to rank by")
    unanchored = [name for name in weights if board.metrics[name].anchor is None]
    if by == COMPOSITE and unanchored:
        raise BoardError(f"board {board.name}: no anchor for {', '.join(unanchored)}: the composite has no scale")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _why_unranked(row: Submission, by: str, weights: dict[str, float]) -> str | None:
    if row.withdrawal:
        return f"withdrawn: {row.withdrawal.reason}"
    if row.kind == "reference":
        return "reference row"
    lacking = [name for name in weights if row.scores[name].value is None]
    if lacking and by != WINS:
        return f"{lacking[0]}: {row.scores[lacking[0]].reason}"
    return None if len(lacking) < len(weights) else "none of the compared metrics has a value"


@dataclass(frozen=True)
class _Estimate:
    """values (M,) and draws (S, M), higher is better; prompts: how many were resampled, None without any."""

    values: np.ndarray
    draws: np.ndarray
    prompts: int | None

    def known(self) -> _Estimate:
        """One prompt says nothing of how another would differ: no rank is excluded."""
        return replace(self, draws=np.full_like(self.draws, np.inf), prompts=None) if self.prompts == 1 else self


def _estimate(board: Board, rows: Sequence[Submission], by: str, weights: dict[str, float], draws: int,
              seed: int) -> _Estimate:
    rng = np.random.default_rng(seed)
    tables = [read_prompt_scores(row, list(weights)) for row in rows]
    keys = sorted({key for table in tables for sums in table.values() for key in sums.index})
    resampled = rng.multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=draws) if keys else None
    prompts = len(keys) or None
    if by == WINS:
        return _wins(board, rows, tables, keys, weights, resampled).known()
    values, drawn = np.zeros(len(rows)), np.zeros((draws, len(rows)))
    for name, weight in weights.items():
        def scaled(x: Any, name: str = name) -> Any:
            return _z(board, name, x) if by == COMPOSITE else (1 if board.metrics[name].higher_is_better else -1) * x

        for i, (row, table) in enumerate(zip(rows, tables, strict=True)):
            values[i] += weight * scaled(row.scores[name].value)
            drawn[:, i] += weight * scaled(_resampled(row, table, name, keys, resampled, rng, draws))
    return _Estimate(values, drawn, prompts).known()


def read_prompt_scores(row: Submission, names: Sequence[str]) -> dict[str, Any]:
    """Metric -> DataFrame (sum, count) by prompt, or by video without one; of metrics with a column in the table."""
    import pandas as pd

    table = read_columns(row.locate(row.videos), ["video", "prompt", *names])
    columns = [name for name in names if name in table.column_names]
    if not columns:
        return {}
    keys = [prompt or video for prompt, video in zip(*(table[key].to_pylist() for key in ("prompt", "video")),
                                                     strict=True)]
    places, prompts = pd.factorize(np.array(keys, dtype=object))
    found = {}
    for name in columns:
        values = read_numbers(table, name, row.videos.path)
        known = ~np.isnan(values)
        sums = np.bincount(places[known], values[known], len(prompts))
        found[name] = pd.DataFrame({"sum": sums, "count": np.bincount(places[known], minlength=len(prompts))}, prompts)
    return found


def _resampled(row: Submission, table: dict[str, Any], name: str, keys: list[str], resampled: Any,
               rng: np.random.Generator, draws: int) -> np.ndarray:
    """(S,) means over resampled prompts; for a number of a whole set, draws from its own interval."""
    score = row.scores[name]
    if name in table:
        sums = table[name].reindex(keys, fill_value=0).to_numpy(np.float64)
        total = resampled @ sums
        return np.where(total[:, 1] > 0, total[:, 0] / np.maximum(total[:, 1], 1), score.value)
    if score.ci95 is None:
        return np.full(draws, np.inf)  # nothing is known of its error: no rank is excluded
    return score.value + (score.ci95[1] - score.ci95[0]) / (2 * _NORMAL95) * rng.normal(size=draws)


def _wins(board: Board, rows: Sequence[Submission], tables: list[dict[str, Any]], keys: list[str],
          weights: dict[str, float], resampled: Any) -> _Estimate:
    compared = [name for name in weights if any(name in table for table in tables)]
    if not compared and rows:
        raise BoardError(f"board {board.name}: wins need scores per video, and none of {', '.join(weights)} has any")
    if len(rows) < 2:
        return _Estimate(np.zeros(len(rows)), np.zeros((1, len(rows))), None)
    scores = []
    for name in compared:
        sign = 1 if board.metrics[name].higher_is_better else -1
        means = np.full((len(keys), len(rows)), np.nan)
        for i, table in enumerate(tables):
            if name in table:
                found = table[name].reindex(keys)
                means[:, i] = sign * (found["sum"] / found["count"].where(found["count"] > 0)).to_numpy(np.float64)
        scores.append(means)
    fitted = fit_strengths(scores, [weights[name] for name in compared], [board.metrics[name].tie for name in compared])
    return _Estimate(fitted.log_strength, fitted.log_strength + (resampled - 1) @ fitted.influence, len(keys))


def _interval(found: _Estimate, row: Submission, i: int, by: str) -> tuple[float, float] | None:
    """A metric's own interval; for composites and wins, of the bootstrap."""
    if by in row.scores:
        return row.scores[by].ci95
    if not np.isfinite(found.draws[:, i]).all():
        return None
    from scipy.special import stdtrit

    k = found.prompts
    half = (float(stdtrit(k - 1, 0.975)) * np.sqrt(k / (k - 1)) if k else _NORMAL95) * float(found.draws[:, i].std())
    return float(found.values[i] - half), float(found.values[i] + half)


def _front(board: Board, ranked: Sequence[Submission]) -> np.ndarray:
    names = [name for name, metric in board.metrics.items() if metric.weight] or list(board.metrics)
    names = [name for name in names if any(row.scores[name].value is not None for row in ranked)]
    if not names:
        return np.zeros(len(ranked), dtype=bool)
    values = [[row.scores[name].value for name in names] for row in ranked]
    return pareto_front(np.array(values, dtype=np.float64), [board.metrics[name].higher_is_better for name in names])


def _unranked(board: Board, row: Submission, by: str, reason: str) -> RankedRow:
    score = row.scores.get(by)
    mixed = composite(board, row)
    value = score.value if score else mixed if by == COMPOSITE else None
    return RankedRow(row, value, score.ci95 if score else None, None, None, False, mixed, reason)
