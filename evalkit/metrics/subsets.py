"""Sampling error of a number that belongs to two sets, from subsets without replacement (Politis & Romano, 1994).

A bootstrap repeats samples, which a Fréchet distance or an MMD takes for a narrower set: it is wrong here.
"""
from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.metrics.base import SetMetric, SetScore

Parts = list[tuple[Tensor, Tensor]]  # one split: (rows of x, rows of y) per part, disjoint
FLOOR_SPLITS = 5  # random halves of the reference that the floor is a mean of


def draw_splits(n: int, m: int, parts: int, splits: int, seed: int) -> list[Parts]:
    """`splits` random partitions of n rows of x and m rows of y into `parts` disjoint pairs of parts."""
    rng = np.random.default_rng([seed, parts])
    drawn = []
    for _ in range(splits):
        cut_x, cut_y = (np.array_split(rng.permutation(size), parts) for size in (n, m))
        drawn.append([(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(cut_x, cut_y, strict=True)])
    return drawn


def split_values(statistic: Callable[[Tensor, Tensor], float], splits: list[Parts]) -> np.ndarray:
    """(splits, parts) values of `statistic(rows of x, rows of y)`."""
    return np.array([[statistic(a, b) for a, b in parts] for parts in splits])


def splits_for(n: int, m: int) -> int:
    """Random splits for an interval: small sets need more, and each costs less."""
    return 100 if min(n, m) <= 256 else 40


def variance_at_full_size(halves: np.ndarray, quarters: np.ndarray) -> float:
    """Sampling variance of the statistic at N, from its values (S, 2) at N/2 and (S, 4) at N/4.

    The parts of one split share no sample, so their variance is without bias the variance at their size. It falls as
    a/N + b/N², b being all there is between equal distributions: from N/2 to N by 2 where a rules, by 4 where b does.
    The second size tells which. The share of b is noisy, and wrong on the short side once believed, so it enters to
    the fourth power: equal distributions keep their narrow interval, the others lose next to nothing.
    """
    at_half, at_quarter = (values.var(axis=1, ddof=1).mean() for values in (halves, quarters))
    if at_half == 0:
        return 0.0
    share = np.clip((at_quarter / at_half - 2) / 2, 0, 1)  # of b at N/2
    return float(at_half / 2 * (1 - share**4 / 2))


def interval_around(value: float, variance: float, splits: int) -> tuple[float, float]:
    """The 95 % interval by Student's t: the variance is itself an estimate, from so many splits."""
    from scipy.special import stdtrit

    half = float(stdtrit(splits - 1, 0.975)) * sqrt(variance)
    return value - half, value + half


def take(rows: Tensor, size: int | None, rng: np.random.Generator) -> Tensor:
    """`size` of the rows at random without replacement, in their order; all where that is all there are."""
    if size is None or size >= len(rows):
        return rows
    return rows[torch.from_numpy(np.sort(rng.choice(len(rows), size, replace=False)))]


def floor_of(statistic: Callable[[Tensor, Tensor], float], reference: Tensor, n: int, m: int,
             seed: int) -> tuple[float, list[int]]:
    """Real against disjoint real, mean over random cuts, and the two sizes: n and m, or as near as (M, D) allows."""
    rng = np.random.default_rng([seed, 1])
    n = min(n, len(reference) // 2)
    m = min(m, len(reference) - n)
    found = []
    for _ in range(FLOOR_SPLITS):
        order = torch.from_numpy(rng.permutation(len(reference)))
        found.append(statistic(reference[order[:n]], reference[order[n:n + m]]))
    return float(np.mean(found)), [n, m]


def too_few(metric: SetMetric, generated: Any, reference: Any, minimum: int) -> SetScore | None:
    """The empty score with its reason where a side has fewer than `minimum` clips."""
    n, m = len(generated), 0 if reference is None else len(reference)
    if min(n, m) >= minimum:
        return None
    reason = f"{metric.name}: expected at least {minimum} clips a side, got {n} generated and {m} reference"
    return SetScore(None, None, n, reason)
