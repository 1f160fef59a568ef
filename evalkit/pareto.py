"""Trade-offs: rows that no other dominates, and the hypervolume they cover (Zitzler & Thiele, 1999); numpy only."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def pareto_front(values: Any, higher_is_better: Sequence[bool]) -> np.ndarray:
    """(N,) bool: rows of values (N, M) that no other row equals or beats in all M objectives and beats in one.

    Equal rows stand or fall together; a row with NaN is not on the front. Raises ValueError on other shapes.
    """
    found = _upwards(values, higher_is_better)
    whole = ~np.isnan(found).any(1)
    front = np.zeros(len(found), dtype=bool)
    rows, which = np.unique(found[whole], axis=0, return_inverse=True)
    order = np.lexsort(rows.T[::-1])[::-1]  # best first objective first: only an earlier row can dominate
    kept: list[int] = []
    for i in order:
        if not kept or not (rows[kept] >= rows[i]).all(1).any():
            kept.append(i)
    front[whole] = np.isin(which.ravel(), kept)
    return front


def hypervolume(values: Any, reference_point: Sequence[float], higher_is_better: Sequence[bool]) -> float:
    """Volume between the reference point and the rows of values (N, M) that beat it, exact, for M = 1, 2 or 3.

    Rows that do not beat the reference point in every objective, or hold NaN, add nothing.
    """
    signs = _signs(higher_is_better)
    points = _upwards(values, higher_is_better) - signs * np.asarray(reference_point, dtype=np.float64)
    if points.shape[1] > 3:
        raise ValueError(f"expected 1 to 3 objectives, got {points.shape[1]}")
    points = points[(points > 0).all(1)]
    points = points[pareto_front(points, [True] * points.shape[1])]
    return _volume(points)


def bootstrap_interval(statistic: Callable[[np.ndarray], float], samples: Any, *, draws: int = 1000,
                       level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of `statistic(values (N, M))` when the prompts behind the values vary.

    samples (N, M, K): K prompts' scores of N rows in M objectives, the same prompts for all; `statistic` is given
    their means. Raises ValueError below 2 prompts.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if samples.ndim != 3 or samples.shape[2] < 2:
        raise ValueError(f"expected samples (N, M, K) of at least 2 prompts, got {samples.shape}")
    rng, k = np.random.default_rng(seed), samples.shape[2]
    found = [statistic(samples[:, :, rng.integers(0, k, k)].mean(2)) for _ in range(draws)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _upwards(values: Any, higher_is_better: Sequence[bool]) -> np.ndarray:
    """(N, M) float64 in which higher is better everywhere."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != len(higher_is_better) or not found.shape[1]:
        raise ValueError(f"expected values (N, M) with M = {len(higher_is_better)} directions, got {found.shape}")
    return found * _signs(higher_is_better)


def _signs(higher_is_better: Sequence[bool]) -> np.ndarray:
    return np.where(np.asarray(higher_is_better, dtype=bool), 1.0, -1.0)


def _volume(points: np.ndarray) -> float:
    """Of the union of the boxes from 0 to each of the points (N, M), all positive: slices along the last objective."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    points = points[np.argsort(-points[:, -1], kind="stable")]
    depths = points[:, -1] - np.append(points[1:, -1], 0.0)
    return float(sum(depth * _volume(points[: i + 1, :-1]) for i, depth in enumerate(depths) if depth > 0))
