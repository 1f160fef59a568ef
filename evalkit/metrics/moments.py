"""Mean and covariance of feature rows in one pass, float64 whatever comes in (Chan, Golub & LeVeque, 1983)."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Moments:
    """Count, mean (D,) and scatter (D, D) of all rows seen so far, on the CPU.

    float32 sums would make the Fréchet distance of a set to itself 0.7 instead of 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, rows: Any) -> Moments:
        """Add rows (N, D) of any float type. ValueError on another shape, another D, NaN or infinity."""
        rows = as_rows(rows).cpu()
        if self.count and rows.shape[1] != len(self.mean):
            raise ValueError(f"features: expected {len(self.mean)} columns, got {rows.shape[1]}")
        mean = rows.mean(0)
        centred = rows - mean
        return self._add(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Add everything that `other` has seen; `other` is left as it is."""
        return self._add(other.count, other.mean, other.scatter) if other.count else self

    def covariance(self, ddof: int = 1) -> Tensor:
        """(D, D); ValueError below `ddof + 1` rows."""
        if self.count <= ddof:
            raise ValueError(f"covariance: expected at least {ddof + 1} rows, got {self.count}")
        return self.scatter / (self.count - ddof)

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> Moments:
        if not self.count:
            self.count, self.mean, self.scatter = count, mean.clone(), scatter.clone()
            return self
        total, step = self.count + count, mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total
        return self


def as_rows(features: Any, name: str = "features") -> Tensor:
    """(N, D) float64, or ValueError: at least one row and column, all finite."""
    rows = torch.as_tensor(features, dtype=torch.float64)
    if rows.ndim != 2 or rows.numel() == 0:
        raise ValueError(f"{name}: expected (N, D) with at least one row, got {tuple(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        bad = int((~torch.isfinite(rows)).any(1).sum())
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in {bad} of {len(rows)} rows")
    return rows
