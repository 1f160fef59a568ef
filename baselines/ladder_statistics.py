"""Numbers of rungs with intervals: over prompts for one training seed, over prompts and seeds for several."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from evalkit.statistics import Interval, cluster_bootstrap, sign_flip_interval, sign_flip_p, wilson_interval

DRAWS = 2000


@dataclass(frozen=True)
class Mean:
    """p_value: two-sided, that it is 0; None where nothing varies."""

    value: float
    ci95: Interval | None
    p_value: float | None = None

    def within(self, low: float, high: float) -> Mean:
        """With its interval cut to what the number can be: Student's, of a few seeds, knows no ends."""
        if self.ci95 is None:
            return self
        return replace(self, ci95=(min(max(self.ci95[0], low), high), min(max(self.ci95[1], low), high)))

    def row(self) -> dict:
        """JSON-ready."""
        return {"value": self.value, "ci95": self.ci95, "p": self.p_value}


def mean_of(values: np.ndarray, test: bool = False) -> Mean:
    """Mean of (S, P): training seeds by prompts, the same prompts for each.

    One seed: bootstrap over prompts, or, with `test`, the sign-flip test and its interval. Several: crossed random
    effects, var = s_seeds^2 / S + s_prompts^2 / P (of the means over prompts, and over seeds), which counts the
    residual twice and so errs on the wide side; Student's t with Satterthwaite's (1946) degrees of freedom.
    """
    seeds, prompts = values.shape
    mean = float(values.mean())
    if seeds == 1:
        if not test:
            return Mean(mean, cluster_bootstrap(values[0], draws=DRAWS))
        return Mean(mean, sign_flip_interval(values[0], draws=DRAWS), sign_flip_p(values[0], draws=DRAWS))
    parts = [values.mean(1).var(ddof=1) / seeds, values.mean(0).var(ddof=1) / prompts if prompts > 1 else 0.0]
    return student(mean, parts, [seeds - 1, max(1, prompts - 1)])


def student(mean: float, variances: Sequence[float], freedoms: Sequence[int]) -> Mean:
    """The interval of a mean whose variance is a sum of parts, each known with so many degrees of freedom."""
    from scipy.special import stdtr, stdtrit

    total = sum(variances)
    if total <= 0:
        return Mean(mean, (mean, mean))
    freedom = total**2 / sum(part**2 / free for part, free in zip(variances, freedoms, strict=True))
    half = float(stdtrit(freedom, 0.975)) * sqrt(total)
    return Mean(mean, (mean - half, mean + half), float(2 * stdtr(freedom, -abs(mean) / sqrt(total))))


def mean_of_sets(values: Sequence[float], intervals: Sequence[Interval | None]) -> Mean:
    """Of numbers of whole sets, one for each seed with its interval: they share a reference, so that does not average
    out, and what differs between seeds does."""
    if len(values) == 1:
        return Mean(values[0], intervals[0])
    within = float(np.mean([((ci[1] - ci[0]) / 3.92) ** 2 if ci else 0.0 for ci in intervals]))
    return student(float(np.mean(values)), [float(np.var(values, ddof=1)) / len(values), within],
                   [len(values) - 1, 100])


def win_rate(better: np.ndarray, worse: np.ndarray) -> Mean:
    """Share of pairs of samples (S, P, K) in which `better` is above, ties 1/2; a prompt counts as one case."""
    wins = ((better > worse) + 0.5 * (better == worse)).mean(2)  # (S, P)
    share = mean_of(wins - 0.5, test=True)
    if len(wins) == 1:
        return Mean(share.value + 0.5, wilson_interval(share.value + 0.5, wins.shape[1]), share.p_value)
    return Mean(share.value + 0.5, tuple(end + 0.5 for end in share.ci95), share.p_value).within(0.0, 1.0)


@dataclass(frozen=True)
class Fit:
    """R(d) = d (a - b d), the gain at distance d = sqrt(KL) (Gao et al., 2023); peak: where it is largest."""

    a: Mean
    b: Mean
    peak: float | None
    r2: float


def overoptimization(distances: Sequence[float], gains: np.ndarray) -> Fit | None:
    """Least squares through the origin of gains (D, S, P) at distances (D,), each prompt's own; None below 3 of them.

    The fit is linear in the gains: a and b are means over prompts of those of single prompts.
    """
    d = np.asarray(distances, dtype=np.float64)
    if len(np.unique(d[d > 0])) < 3:
        return None
    design = np.stack([d, -d**2], axis=1)
    solved = np.tensordot(np.linalg.pinv(design), gains, axes=1)  # (2, S, P)
    a, b = mean_of(solved[0]), mean_of(solved[1])
    mean = gains.mean((1, 2))
    spread = float(np.square(mean - mean.mean()).sum())
    left = float(np.square(mean - design @ np.array([a.value, b.value])).sum())
    return Fit(a, b, a.value / (2 * b.value) if a.value > 0 and b.value > 0 else None,
               1 - left / spread if spread > 0 else 0.0)
