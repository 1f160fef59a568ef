"""How far raters agree beyond chance: Krippendorff's alpha (2011) of any number of them, Cohen's kappa (1960) of two.

Torch-free; an answer is any number or name, compared by equality or, at the level "interval", by squared distance.
"""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.statistics import Interval

LEVELS = ("nominal", "interval")


@dataclass(frozen=True)
class Agreement:
    """1: always, 0: as by chance, below: less. None where nothing varies or no unit has two answers."""

    value: float | None
    ci95: Interval | None
    units: int  # that two raters or more have answered


def krippendorff_alpha(units: Sequence[Sequence], level: str = "nominal", *, mirrored: bool = False,
                       draws: int = 2000, seed: int = 0) -> Agreement:
    """1 - observed / expected disagreement over units (questions), each with the answers it got, in any order.

    Units with fewer than two answers say nothing and are left out. level: "nominal" for names, "interval" for numbers.
    mirrored: x could as well have been written -x, unit by unit (which of two things is called the first): chance then
    knows no side, and raters who all prefer the first agree. The interval is a percentile bootstrap over units.
    ValueError for another level.
    """
    if level not in LEVELS:
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
    units = [unit for unit in units if len(unit) > 1]
    if not units:
        return Agreement(None, None, 0)
    values = sorted({answer for unit in units for answer in unit} | {-answer for unit in units for answer in unit
                                                                     if mirrored})
    distance = _distances(values, level)
    counts = np.array([[list(unit).count(value) for value in values] for unit in units], dtype=float)  # (U, V)
    per_unit = _coincidences(counts)
    if mirrored:  # the values are in order and symmetric
        per_unit = (per_unit + per_unit[:, ::-1, ::-1]) / 2
    value = _alpha(per_unit.sum(0)[None], distance)[0]
    if not np.isfinite(value):
        return Agreement(None, None, len(units))
    weights = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), size=draws)
    sums = (weights @ per_unit.reshape(len(units), -1)).reshape(draws, len(values), len(values))
    ends = np.nanquantile(_alpha(sums, distance), [0.025, 0.975])  # a resample may not vary
    return Agreement(float(value), (float(ends[0]), float(ends[1])), len(units))


def _distances(values: Sequence, level: str) -> np.ndarray:
    """(V, V)."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    numbers = np.array(values, dtype=float)
    return (numbers[:, None] - numbers) ** 2


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """(U, V) -> (U, V, V): ordered pairs of answers within each unit, weighted so that each answer counts once."""
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return pairs / (counts.sum(1) - 1)[:, None, None]


def _alpha(coincidences: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(K, V, V) -> (K,); NaN where nothing varies."""
    marginals = coincidences.sum(2)
    observed = (coincidences * distance).sum((1, 2))
    expected = np.einsum("kc,kd,cd->k", marginals, marginals, distance) / (marginals.sum(1) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - np.where(expected > 0, observed / expected, np.nan)


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """(observed - chance) / (1 - chance) agreement of two raters on the same questions (N,), paired by position.

    None where chance alone would agree always, or without a question. ValueError for unequal lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"expected as many answers of both raters, got {len(a)} and {len(b)}")
    if not len(a):
        return None
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    chance = sum(list(a).count(value) * list(b).count(value) for value in {*a, *b}) / len(a) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)
