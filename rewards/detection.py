"""How well a probability finds a label: AUROC (Mann & Whitney, 1947), balanced accuracy, F1, and their intervals."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.statistics import Interval

DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Figure:
    """A number in [0, 1] with its 95 % interval over clusters; None where fewer than two clusters have each answer."""

    value: float
    ci95: Interval | None


@dataclass(frozen=True)
class Detection:
    """Of one label, `positives` of `n` cases showing it; accuracy and F1 at the threshold."""

    auroc: Figure
    balanced_accuracy: Figure
    f1: Figure
    n: int
    positives: int


def auroc(scores: Sequence[float], present: Sequence[bool]) -> float:
    """Chance that a case with the label scores above one without, ties half; NaN where there is only one kind."""
    from scipy.stats import rankdata

    scores, present = np.asarray(scores, float), np.asarray(present, bool)
    with_it, without = int(present.sum()), int((~present).sum())
    if not with_it or not without:
        return float("nan")
    return float((rankdata(scores)[present].sum() - with_it * (with_it + 1) / 2) / (with_it * without))


def balanced_accuracy(found: np.ndarray, present: np.ndarray) -> float:
    """Mean of the shares found right among cases with and without the label, (N,) bool both."""
    return float((found[present].mean() + (~found[~present]).mean()) / 2)


def f1(found: np.ndarray, present: np.ndarray) -> float:
    """Harmonic mean of precision and recall of (N,) bool; 0 where nothing is found and nothing there."""
    return float(2 * (found & present).sum() / max(1, found.sum() + present.sum()))


def detection(scores: Sequence[float], present: Sequence[bool], clusters: Sequence[str] | None = None,
              threshold: float = 0.5, seed: int = 0) -> Detection:
    """How well `scores` (N,) find what is `present` (N,); intervals by a bootstrap over `clusters` (N,), the clips.

    ValueError where the lengths differ or only one answer occurs.
    """
    scores, present = np.asarray(scores, float), np.asarray(present, bool)
    keys = np.arange(len(scores)) if clusters is None else np.asarray(clusters)
    if not len(scores) == len(present) == len(keys):
        raise ValueError(f"expected as many labels and clusters as scores, got {len(present)}, {len(keys)} and "
                         f"{len(scores)}")
    if present.all() or not present.any():
        raise ValueError(f"expected cases with the label and cases without, got {int(present.sum())} of {len(present)}")
    found = scores > threshold
    values = _three(scores, found, present)
    spans = _intervals(scores, found, present, keys, seed)
    figures = [Figure(value, span) for value, span in zip(values, spans, strict=True)]
    return Detection(*figures, len(scores), int(present.sum()))


def _three(scores: np.ndarray, found: np.ndarray, present: np.ndarray) -> tuple[float, float, float]:
    return auroc(scores, present), balanced_accuracy(found, present), f1(found, present)


def _intervals(scores: np.ndarray, found: np.ndarray, present: np.ndarray, keys: np.ndarray,
               seed: int) -> list[Interval | None]:
    names, member = np.unique(keys, return_inverse=True)
    if min(len(np.unique(member[present])), len(np.unique(member[~present]))) < 2:
        return [None] * 3
    groups = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        rows = np.concatenate([groups[k] for k in rng.integers(0, len(names), len(names))])
        if 0 < present[rows].sum() < len(rows):
            drawn.append(_three(scores[rows], found[rows], present[rows]))
    return [(float(low), float(high)) for low, high in np.quantile(drawn, [0.025, 0.975], axis=0).T]


def calibration_error(chances: Sequence[float], present: Sequence[bool], bins: int = 15) -> float:
    """Mean over cases of |mean chance - share present| of their bin of [0, 1] (Naeini et al., 2015)."""
    chances, present = np.asarray(chances, float), np.asarray(present, float)
    place = np.minimum((chances * bins).astype(int), bins - 1)
    apart = np.bincount(place, chances - present, bins)
    return float(np.abs(apart).sum() / len(chances))
