"""Fréchet distance between Gaussians fitted to the features of two sets: FVD (Unterthiner et al., 2018) and kin."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.metrics.base import SetMetric, SetScore, register_metric
from evalkit.metrics.moments import as_rows
from evalkit.metrics.subsets import (
    draw_splits,
    floor_of,
    interval_around,
    split_values,
    splits_for,
    take,
    too_few,
    variance_at_full_size,
)
from evalkit.statistics import UnpairedComparison, verdict

# 16 consecutive frames, from the middle: the same on every run, and clear of titles and fades at the ends.
FVD_CLIP = ClipSpec(num_frames=16, min_frames=16, placement="center", size=None)
# StyleGAN-V: one clip per video at a random place (drawn from the seed and the video's content), 256 x 256 centre
# crop. UCF-101 is 320 x 240, so 256 rows of it are 341 columns.
STYLEGANV_CLIP = ClipSpec(num_frames=16, min_frames=16, placement="random", size=(256, 341), crop=256,
                          interpolation="bilinear")


def frechet_distance(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """‖μ1−μ2‖² + tr Σ1 + tr Σ2 − 2 tr (Σ1^½ Σ2 Σ1^½)^½ in float64, from means (D,) and covariances (D, D).

    Exact for singular covariances too. Raises ValueError on NaN, infinity, or shapes that do not belong together.
    """
    means = [_checked(mean, 1, "mean") for mean in (mean1, mean2)]
    covs = [_checked(cov, 2, "covariance") for cov in (cov1, cov2)]
    d = len(means[0])
    if len(means[1]) != d or any(cov.shape != (d, d) for cov in covs):
        shapes = [tuple(value.shape) for value in (*means, *covs)]
        raise ValueError(f"expected two means (D,) and two covariances (D, D) of one D, got {shapes}")
    return _distance(*means, *(_root(cov) for cov in covs))


def frechet_distance_from_features(x: Any, y: Any, ddof: int = 1) -> float:
    """The same from features (N, D) and (M, D), exact at any N: no covariance is formed where N < D.

    ddof 1 divides the scatter by N − 1 as TF-GAN does, ddof 0 by N. Raises ValueError below 2 rows a side, on NaN or
    infinity, and on unequal D.
    """
    x, y = as_rows(x, "x"), as_rows(y, "y")
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"expected at least 2 samples a side, got {len(x)} and {len(y)}: one has no covariance")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features of one size, got {x.shape[1]} and {y.shape[1]}")
    return _between(x, y, ddof)


def _between(x: Tensor, y: Tensor, ddof: int) -> float:
    return _distance(x.mean(0), y.mean(0), _factor(x, ddof), _factor(y, ddof))


def _distance(mean1: Tensor, mean2: Tensor, root1: Tensor, root2: Tensor) -> float:
    # Σ = RᵀR on both sides, so the eigenvalues of Σ1 Σ2 are the squared singular values of R1 R2ᵀ: a nuclear norm,
    # without the matrix square root that loses half the digits of a singular product.
    trace = root1.square().sum() + root2.square().sum() - 2 * torch.linalg.svdvals(root1 @ root2.T).sum()
    return max(0.0, float((mean1 - mean2).square().sum() + trace))


def _factor(rows: Tensor, ddof: int) -> Tensor:
    """R (min(N, D), D) with RᵀR the covariance."""
    centred = (rows - rows.mean(0)) / (len(rows) - ddof) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(rows) > rows.shape[1] else centred


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(torch.float64).eps  # the size of a zero eigenvalue
    return torch.where(values > noise, values, 0.0).sqrt()[:, None] * vectors.T


def _checked(value: Any, ndim: int, name: str) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.ndim != ndim or not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name}: expected {ndim} finite dimensions, got {tuple(tensor.shape)}, or NaN in it")
    return tensor


def frechet_with_interval(x: Any, y: Any, ddof: int = 1, *, splits: int | None = None,
                          seed: int = 0) -> tuple[float, tuple[float, float]]:
    """The distance of (N, D) and (M, D), and the 95 % interval of what other samples of this size would give.

    About the distance at this N, bias included: it does not hold the distance of the distributions, which lies lower.
    """
    value, halves, variance = _with_variance(as_rows(x, "x"), as_rows(y, "y"), ddof, splits, seed)
    return value, interval_around(value, variance, len(halves))


def frechet_infinity(x: Any, y: Any, ddof: int = 1, *, splits: int | None = None,
                     seed: int = 0) -> tuple[float, tuple[float, float]]:
    """The distance of the distributions (Chong & Forsyth, 2020) with its 95 % interval.

    The bias of a finite set falls as 1/N: the line through the full sets and their random halves is read at 1/N = 0.
    Without bias, so below 0 about as often as above where there is no difference; needs at least 8 rows a side.
    """
    value, halves, variance = _with_variance(as_rows(x, "x"), as_rows(y, "y"), ddof, splits, seed)
    infinity = 2 * value - float(halves.mean())
    # the mean over random halves is not quite the mean over all of them
    variance += float(halves.mean(1).var(ddof=1)) / len(halves)
    return infinity, interval_around(infinity, variance, len(halves))


def _with_variance(x: Tensor, y: Tensor, ddof: int, splits: int | None, seed: int) -> tuple[float, np.ndarray, float]:
    if min(len(x), len(y)) < 8:
        raise ValueError(f"expected at least 8 samples a side for an interval, got {len(x)} and {len(y)}")
    value = frechet_distance_from_features(x, y, ddof)

    def statistic(a: Tensor, b: Tensor) -> float:
        return _between(x[a], y[b], ddof)  # checked once, not for every subset

    halves, quarters = _halves_and_quarters(statistic, len(x), len(y), splits, seed)
    return value, halves, variance_at_full_size(halves, quarters)


def _halves_and_quarters(statistic: Callable[[Tensor, Tensor], float], n: int, m: int, splits: int | None,
                         seed: int) -> tuple[np.ndarray, np.ndarray]:
    count = splits or splits_for(n, m)
    halves, quarters = (split_values(statistic, draw_splits(n, m, parts, count, seed)) for parts in (2, 4))
    return halves, quarters


def frechet_difference(a: Any, b: Any, reference: Any, ddof: int = 1, *, splits: int | None = None,
                       seed: int = 0) -> UnpairedComparison:
    """Distance of B minus distance of A to one reference: (N, D), (N, D) and (M, D), rows of A and B in one order.

    Both see the same subsets, so what the reference and the prompts contribute to the noise of both cancels.
    """
    from scipy.special import stdtr

    a, b, reference = as_rows(a, "a"), as_rows(b, "b"), as_rows(reference, "reference")
    if len(a) != len(b):
        raise ValueError(f"expected sets of one size, got {len(a)} and {len(b)}: the distance depends on it")

    difference = (frechet_distance_from_features(b, reference, ddof)
                  - frechet_distance_from_features(a, reference, ddof))

    def statistic(i: Tensor, j: Tensor) -> float:
        return _between(b[i], reference[j], ddof) - _between(a[i], reference[j], ddof)

    halves, quarters = _halves_and_quarters(statistic, len(a), len(reference), splits, seed)
    variance = variance_at_full_size(halves, quarters)
    p_value = float(difference == 0)
    if variance > 0:
        p_value = float(2 * stdtr(len(halves) - 1, -abs(difference) / variance**0.5))
    word = verdict(difference, p_value, len(a), None, False).replace("prompts", "clips")
    return UnpairedComparison(difference, interval_around(difference, variance, len(halves)), p_value, word)


class FrechetMetric(SetMetric):
    """Fréchet distance with an interval and the floor of real against real.

    sample_size: clips a side, drawn at random where there are more (None: all there are); fewer give no number.
    repeats: draws of that size whose mean is the value; their standard deviation is in the details.
    """

    higher_is_better = False
    range = (0.0, float("inf"))
    spec = FVD_CLIP
    ddof = 1
    sample_size: int | None = None
    repeats = 1

    def __init__(self, spec: ClipSpec | None = None, ddof: int | None = None, sample_size: int | None = None,
                 repeats: int | None = None) -> None:
        given = {"spec": spec, "ddof": ddof, "sample_size": sample_size, "repeats": repeats}
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"ddof": self.ddof, "sample_size": self.sample_size, "repeats": self.repeats}

    def compute(self, generated: Tensor, reference: Tensor | None, prompts: list[str] | None, seed: int) -> SetScore:
        """The distance of (N, D) to (M, D); null with the reason below the minimum of clips."""
        short = too_few(self, generated, reference, max(self.minimum, self.sample_size or 0))
        if short:
            return short
        x, y = as_rows(generated, "generated"), as_rows(reference, "reference")
        rng = np.random.default_rng([seed, 2])
        varies = self.sample_size is not None and max(len(x), len(y)) > self.sample_size
        drawn = [(take(x, self.sample_size, rng), take(y, self.sample_size, rng))
                 for _ in range(self.repeats if varies else 1)]
        first = drawn[0]
        value, ci95 = self.estimate(*first, seed)
        details: dict[str, Any] = {"n_generated": len(first[0]), "n_reference": len(first[1])}
        if len(drawn) > 1:
            values = [value] + [self.point(*pair, seed) for pair in drawn[1:]]
            shift = float(np.mean(values)) - value
            value, ci95 = value + shift, (ci95[0] + shift, ci95[1] + shift)
            details |= {"repeats": values, "std": float(np.std(values))}
        elif self.repeats > 1:
            details["note"] = f"exactly {self.sample_size} clips a side: one draw, so no spread over repeats"
        floor, details["floor_n"] = floor_of(lambda a, b: self.point(a, b, seed), y, *map(len, first), seed)
        return SetScore(value, ci95, len(first[0]), floor=floor, details=details)

    def estimate(self, x: Tensor, y: Tensor, seed: int) -> tuple[float, tuple[float, float]]:
        """The value and its 95 % interval."""
        return frechet_with_interval(x, y, self.ddof, seed=seed)

    def point(self, x: Tensor, y: Tensor, seed: int) -> float:
        """The value alone."""
        return frechet_distance_from_features(x, y, self.ddof)


@register_metric("fvd")
class FrechetVideoDistance(FrechetMetric):
    """FVD on the 400 logits of Kinetics-400 I3D, covariance as in TF-GAN, all clips there are.

    It falls with the number of clips: compare equal numbers only, or use fvd_inf.
    """

    summary = "distance of I3D features to the reference's; depends on the number of clips"
    extractor_keys = ("i3d",)


@register_metric("fvd_inf")
class FrechetVideoDistanceInfinity(FrechetMetric):
    """FVD extrapolated to infinitely many clips: comparable between sets of different size."""

    summary = "FVD without the bias of a finite set"
    extractor_keys = ("i3d",)
    range = (float("-inf"), float("inf"))  # without bias, hence on either side of 0 for equal distributions

    def estimate(self, x: Tensor, y: Tensor, seed: int) -> tuple[float, tuple[float, float]]:
        return frechet_infinity(x, y, self.ddof, seed=seed)

    def point(self, x: Tensor, y: Tensor, seed: int) -> float:
        halves = split_values(lambda a, b: frechet_distance_from_features(x[a], y[b], self.ddof),
                              draw_splits(len(x), len(y), 2, 5, seed))
        return 2 * frechet_distance_from_features(x, y, self.ddof) - float(halves.mean())


@register_metric("fvd2048_16f")
class FrechetVideoDistance2048(FrechetMetric):
    """StyleGAN-V's protocol: 2048 clips of 16 frames a side, one per video, 256 x 256; covariance by N − 1."""

    summary = "FVD of 2048 clips a side as StyleGAN-V samples them, covariance by N − 1"
    extractor_keys = ("i3d",)
    spec = STYLEGANV_CLIP
    sample_size = 2048


@register_metric("fvd2048_16f_ddof0")
class FrechetVideoDistance2048Biased(FrechetVideoDistance2048):
    """The same with the covariance divided by N, as StyleGAN-V's and cd-fvd's code do: 0.04 % lower at 2048."""

    summary = "FVD of 2048 clips a side as StyleGAN-V computes it, covariance by N"
    ddof = 0


@register_metric("fvd_videomae")
class FrechetVideoMAEDistance(FrechetMetric):
    """Content-debiased FVD (Ge et al., 2024): VideoMAE features, which motion moves more than I3D's."""

    summary = "distance of VideoMAE features to the reference's"
    extractor_keys = ("videomae",)


@register_metric("frechet_squeezenet")
class FrechetSqueezeNetDistance(FrechetMetric):
    """Distance of SqueezeNet features averaged over 16 frames: appearance only, blind to the order of frames."""

    summary = "distance of frame-averaged SqueezeNet features; blind to time"
    extractor_keys = ("squeezenet",)
    spec = ClipSpec(num_frames=16, min_frames=16, placement="uniform")


@register_metric("fvd_mini")
class FrechetMiniDistance(FrechetMetric):
    """Distance of the shipped mini video network's features over 2 s at 8 frames a second, 64 x 64 pixels.

    The network was trained on the made-up world to see defects, motion and the order of frames. No published FVD.
    """

    summary = "distance of features of a small network of the made-up world (shipped); sees time, not comparable to fvd"
    extractor_keys = ("mini_video",)
    spec = ClipSpec(num_frames=16, min_frames=16, placement="center", fps=8.0, size=(64, 64))
