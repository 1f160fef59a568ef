"""Where one set lies on the other: precision, recall (Kynkäänniemi, 2019), density, coverage (Naeem, 2020)."""
from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from evalkit.metrics.base import SetMetric, SetScore, register_metric
from evalkit.metrics.frechet import FVD_CLIP
from evalkit.metrics.moments import as_rows
from evalkit.metrics.subsets import draw_splits, floor_of, interval_around, split_values, too_few

SPLITS = 10  # random halves for the interval
_BLOCK = 1024  # rows of a distance matrix held at once


def precision(generated: Any, reference: Any, k: int = 3) -> float:
    """Share of generated rows (N, D) inside a ball around some reference row, as wide as its k-th neighbour is far."""
    return _inside_any(as_rows(generated, "generated"), as_rows(reference, "reference"), k)


def recall(generated: Any, reference: Any, k: int = 3) -> float:
    """Share of reference rows (M, D) inside such a ball around some generated row."""
    return _inside_any(as_rows(reference, "reference"), as_rows(generated, "generated"), k)


def density(generated: Any, reference: Any, k: int = 5) -> float:
    """Mean number of reference balls that hold a generated row, over k; about 1 for equal distributions."""
    x, y = as_rows(generated, "generated"), as_rows(reference, "reference")
    radii = _radii(y, k)
    return sum(float((torch.cdist(rows, y) <= radii).sum()) for rows in x.split(_BLOCK)) / (k * len(x))


def coverage(generated: Any, reference: Any, k: int = 5) -> float:
    """Share of reference balls that hold at least one generated row."""
    x, y = as_rows(generated, "generated"), as_rows(reference, "reference")
    nearest = torch.cat([torch.cdist(rows, x).amin(1) for rows in y.split(_BLOCK)])
    return float((nearest <= _radii(y, k)).double().mean())


def _radii(rows: Tensor, k: int) -> Tensor:
    """(N,) distance of each row to its k-th neighbour, itself not counted."""
    if len(rows) <= k:
        raise ValueError(f"expected more than k = {k} samples, got {len(rows)}")
    return torch.cat([torch.cdist(part, rows).kthvalue(k + 1, dim=1).values for part in rows.split(_BLOCK)])


def _inside_any(points: Tensor, balls: Tensor, k: int) -> float:
    radii = _radii(balls, k)
    inside = [(torch.cdist(part, balls) <= radii).any(1) for part in points.split(_BLOCK)]
    return float(torch.cat(inside).double().mean())


class ManifoldMetric(SetMetric):
    """A share of neighbours on I3D features. It depends on the number of clips: the floor is what real reaches.

    The interval is that of disjoint halves, scaled to the full size.
    """

    higher_is_better = True
    range = (0.0, 1.0)
    extractor_keys = ("i3d",)
    spec = FVD_CLIP
    k = 5

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"k": self.k}

    def compute(self, generated: Tensor, reference: Tensor | None, prompts: list[str] | None, seed: int) -> SetScore:
        """The share for (N, D) against (M, D); null with the reason below the minimum of clips."""
        short = too_few(self, generated, reference, self.minimum)
        if short:
            return short
        x, y = as_rows(generated, "generated"), as_rows(reference, "reference")
        value = self.share(x, y)
        halves = split_values(lambda a, b: self.share(x[a], y[b]), draw_splits(len(x), len(y), 2, SPLITS, seed))
        low, high = interval_around(value, float(halves.var(axis=1, ddof=1).mean()) / 2, SPLITS)
        ci95 = max(self.range[0], low), min(self.range[1], high)
        floor, floor_n = floor_of(self.share, y, len(x), len(y), seed)
        return SetScore(value, ci95, len(x), floor=floor, details={"n_reference": len(y), "floor_n": floor_n})

    @abstractmethod
    def share(self, x: Tensor, y: Tensor) -> float:
        """The number for generated (N, D) and reference (M, D)."""


@register_metric("precision")
class Precision(ManifoldMetric):
    """Share of generated clips that look like some real one."""

    summary = "share of generated clips near a real one (I3D features)"
    k = 3

    def share(self, x: Tensor, y: Tensor) -> float:
        return precision(x, y, self.k)


@register_metric("recall")
class Recall(ManifoldMetric):
    """Share of real clips that some generated one looks like."""

    summary = "share of real clips near a generated one (I3D features)"
    k = 3

    def share(self, x: Tensor, y: Tensor) -> float:
        return recall(x, y, self.k)


@register_metric("density")
class Density(ManifoldMetric):
    """How densely real neighbourhoods hold the generated clips; robust to real outliers, unlike precision."""

    summary = "density of generated clips in real neighbourhoods (I3D features)"
    range = (0.0, float("inf"))

    def share(self, x: Tensor, y: Tensor) -> float:
        return density(x, y, self.k)


@register_metric("coverage")
class Coverage(ManifoldMetric):
    """Share of real neighbourhoods that hold a generated clip; robust to generated outliers, unlike recall."""

    summary = "share of real neighbourhoods with a generated clip (I3D features)"

    def share(self, x: Tensor, y: Tensor) -> float:
        return coverage(x, y, self.k)
