"""Maximum mean discrepancy between the features of two sets: KVD (Unterthiner et al., 2019; KID's kernel) and JEDi."""
from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.metrics.base import SetMetric, SetScore, register_metric
from evalkit.metrics.frechet import FVD_CLIP
from evalkit.metrics.moments import as_rows
from evalkit.metrics.subsets import Parts, draw_splits, floor_of, interval_around, too_few, variance_at_full_size

KERNEL_SPLITS = 20  # random splits for the interval
_BLOCK = 512  # rows of a kernel matrix held at once


@dataclass(frozen=True)
class PolynomialKernel:
    """k(x, y) = (<x, y> · gamma + coef0)^degree; gamma None is 1/D."""

    degree: int = 3
    coef0: float = 1.0
    gamma: float | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, M) kernel values of (N, D) and (M, D)."""
        return (x @ y.T * (self.gamma or 1 / x.shape[1]) + self.coef0) ** self.degree

    def diagonal(self, x: Tensor) -> Tensor:
        """(N,) values of each row with itself."""
        return (x.square().sum(1) * (self.gamma or 1 / x.shape[1]) + self.coef0) ** self.degree


def mmd2(x: Any, y: Any, kernel: PolynomialKernel | None = None, unbiased: bool = True) -> float:
    """Squared MMD of (N, D) and (M, D): the U-statistic, around 0 for equal distributions, or the V-statistic.

    Raises ValueError below 2 rows a side, on NaN or infinity, and on unequal D.
    """
    x, y = as_rows(x, "x"), as_rows(y, "y")
    whole = [(torch.arange(len(x)), torch.arange(len(y)))]
    return float(mmd2_of_subsets(x, y, whole, kernel, unbiased)[0])


def mmd2_of_subsets(x: Any, y: Any, subsets: Parts, kernel: PolynomialKernel | None = None,
                    unbiased: bool = True) -> np.ndarray:
    """(S,) squared MMDs of many subsets (rows of x, rows of y) in one pass over blocks of the kernel matrices."""
    x, y, kernel = as_rows(x, "x"), as_rows(y, "y"), kernel or PolynomialKernel()
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features of one size, got {x.shape[1]} and {y.shape[1]}")
    smallest = min(min(len(a), len(b)) for a, b in subsets)
    if smallest < 2:
        raise ValueError(f"expected at least 2 samples a side, got {smallest}")
    of_x, of_y = _membership([a for a, _ in subsets], len(x)), _membership([b for _, b in subsets], len(y))
    n, m = of_x.sum(0), of_y.sum(0)
    xx, yy, xy = (_sums(*sides, kernel) for sides in ((x, of_x, x, of_x), (y, of_y, y, of_y), (x, of_x, y, of_y)))
    if unbiased:
        xx, yy = xx - kernel.diagonal(x) @ of_x, yy - kernel.diagonal(y) @ of_y
        return (xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)).numpy()
    return (xx / n**2 + yy / m**2 - 2 * xy / (n * m)).numpy()


def _membership(rows: list[Tensor], count: int) -> Tensor:
    member = torch.zeros(count, len(rows), dtype=torch.float64)
    for column, index in enumerate(rows):
        member[index, column] = 1
    return member


def _sums(x: Tensor, of_x: Tensor, y: Tensor, of_y: Tensor, kernel: PolynomialKernel) -> Tensor:
    """(S,) sums of the kernel over the pairs of each subset."""
    total = torch.zeros(of_x.shape[1], dtype=torch.float64)
    for rows, member in zip(x.split(_BLOCK), of_x.split(_BLOCK), strict=True):
        total += (member * (kernel(rows, y) @ of_y)).sum(0)
    return total


class KernelMetric(SetMetric):
    """Squared MMD with an interval and the floor of real against real.

    subset_size and subsets: the value is the mean over so many random subsets of at most that size (None: of all
    clips at once). Their spread is reported as such; overlapping subsets say nothing of the sampling error, so the
    interval comes from disjoint ones.
    """

    higher_is_better = False
    spec = FVD_CLIP
    kernel = PolynomialKernel()
    unbiased = True
    scale = 1.0
    subset_size: int | None = None
    subsets = 100

    def __init__(self, spec: ClipSpec | None = None, subset_size: int | None = None,
                 subsets: int | None = None) -> None:
        for name, value in {"spec": spec, "subset_size": subset_size, "subsets": subsets}.items():
            if value is not None:
                setattr(self, name, value)

    def parameters_of_protocol(self) -> dict[str, Any]:
        kernel = {"degree": self.kernel.degree, "coef0": self.kernel.coef0, "gamma": self.kernel.gamma or "1/D"}
        return {"kernel": kernel, "unbiased": self.unbiased, "scale": self.scale,
                "subset_size": self.subset_size, "subsets": self.subsets if self.subset_size else None}

    def compute(self, generated: Tensor, reference: Tensor | None, prompts: list[str] | None, seed: int) -> SetScore:
        """The MMD² of (N, D) and (M, D) times the scale; null with the reason below the minimum of clips."""
        short = too_few(self, generated, reference, self.minimum)
        if short:
            return short
        x, y = as_rows(generated, "generated").cpu(), as_rows(reference, "reference").cpu()
        published = self._published_subsets(len(x), len(y), seed)
        halves, quarters = (draw_splits(len(x), len(y), parts, KERNEL_SPLITS, seed) for parts in (2, 4))
        everything = [*published, *chain.from_iterable(halves + quarters)]
        values = self.scale * mmd2_of_subsets(x, y, everything, self.kernel, self.unbiased)
        of_subsets, rest = values[:len(published)], values[len(published):]
        of_halves, of_quarters = rest[:2 * KERNEL_SPLITS], rest[2 * KERNEL_SPLITS:]
        variance = variance_at_full_size(of_halves.reshape(-1, 2), of_quarters.reshape(-1, 4))
        if len(published) > 1:
            variance += float(of_subsets.var(ddof=1)) / len(published)
        value = float(of_subsets.mean())
        floor, floor_n = floor_of(self.point, y, len(x), len(y), seed)
        details = {"n_generated": len(x), "n_reference": len(y), "floor_n": floor_n,
                   "subset_std": float(of_subsets.std()) if len(published) > 1 else None}
        return SetScore(value, interval_around(value, variance, KERNEL_SPLITS), len(x), floor=floor, details=details)

    def point(self, x: Tensor, y: Tensor) -> float:
        """The value of all clips at once."""
        return self.scale * mmd2(x, y, self.kernel, self.unbiased)

    def _published_subsets(self, n: int, m: int, seed: int) -> Parts:
        size = min(self.subset_size or max(n, m), n, m)
        if self.subset_size is None or n == m == size:  # every subset would be the whole set
            return [(torch.arange(n), torch.arange(m))]
        rng = np.random.default_rng([seed, 3])
        return [tuple(torch.from_numpy(rng.choice(count, size, replace=False)) for count in (n, m))
                for _ in range(self.subsets)]


@register_metric("kvd")
class KernelVideoDistance(KernelMetric):
    """KVD on I3D logits: cubic kernel, unbiased, mean over 100 subsets of at most 1000 clips (torch-fidelity's KID)."""

    summary = "unbiased squared MMD of I3D features, cubic kernel"
    extractor_keys = ("i3d",)
    subset_size = 1000


@register_metric("jedi")
class Jedi(KernelMetric):
    """JEDi (Luo et al., 2024): V-JEPA features, quadratic kernel, V-statistic × 100; above 0 for equal sets."""

    summary = "squared MMD of V-JEPA features × 100, biased as published"
    extractor_keys = ("vjepa2",)
    kernel = PolynomialKernel(degree=2, coef0=0.0)
    unbiased = False
    scale = 100.0
    range = (0.0, float("inf"))


@register_metric("jedi_unbiased")
class JediUnbiased(Jedi):
    """JEDi as a U-statistic: around 0 for equal distributions at any number of clips."""

    summary = "squared MMD of V-JEPA features × 100, unbiased"
    unbiased = True
    range = (float("-inf"), float("inf"))
