"""Ranges that hold all true ranks at once: differences, step-down (Romano & Wolf, 2005; Mogstad et al., 2024)."""
from __future__ import annotations

import numpy as np

_CHUNK = 4_000_000  # numbers held at once while comparing all pairs
_MOST, _FEWEST = 200_000_000, 200  # differences that are looked at, and draws: the largest of many pairs varies little


def rank_ranges(values: np.ndarray, draws: np.ndarray, *, level: float = 0.95,
                prompts: int | None = None) -> np.ndarray:
    """(M, 2) lowest and highest rank, 1 the best, of values (M,) where higher is better.

    draws (S, M): the values that other prompts would give, the same prompts for all models of a draw; infinite where
    nothing is known of a model. A rank lies as low as the number of models that are significantly better allows, as
    high as those that are significantly worse: all M ranges hold with `level` at once. prompts: how many were
    resampled; the normal tail then becomes Student's, for few prompts spread too little. Raises ValueError on shapes.
    """
    m = len(values)
    if draws.ndim != 2 or draws.shape[1] != m:
        raise ValueError(f"expected draws (S, {m}), got {draws.shape}")
    unknown = ~np.isfinite(draws).all(0)
    known = np.where(unknown, 0.0, draws)
    centred = known - known.mean(0)
    error = _errors_of_differences(centred, prompts)
    error[unknown] = error[:, unknown] = np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.where(values[:, None] == values[None, :], 0.0, (values[:, None] - values[None, :]) / error)
    better = np.zeros((m, m), dtype=bool)  # row significantly better than column
    while True:
        bar = _critical(centred, error, ~better & ~np.eye(m, dtype=bool), level, prompts)
        found = better | (seen > bar)
        if (found == better).all():
            return np.stack([1 + better.sum(0), m - better.sum(1)], axis=1)
        better = found


def _errors_of_differences(centred: np.ndarray, prompts: int | None) -> np.ndarray:
    covariance = centred.T @ centred / len(centred)
    variance = np.diag(covariance)
    found = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0.0))
    found[found < 1e-9 * np.sqrt(variance.max(initial=0.0))] = 0.0  # what rounding leaves of two equal rows
    return found * (np.sqrt(prompts / (prompts - 1)) if prompts and prompts > 1 else 1.0)


def _critical(centred: np.ndarray, error: np.ndarray, open_pairs: np.ndarray, level: float,
              prompts: int | None) -> float:
    """The bar that the largest studentised difference among the open pairs passes by chance with 1 - level."""
    from scipy.special import ndtr, stdtrit

    with np.errstate(divide="ignore"):
        inverse = np.where(open_pairs & (error > 0), 1 / error, 0.0).astype(np.float32)
    if not inverse.any():
        return 0.0
    if prompts and prompts > 1:
        inverse = inverse * np.float32(np.sqrt(prompts / (prompts - 1)))
    largest, draws = [], centred[: max(_FEWEST, _MOST // inverse.size)].astype(np.float32)
    for start in range(0, len(draws), step := max(1, _CHUNK // inverse.size)):
        part = draws[start:start + step]
        largest.append(((part[:, :, None] - part[:, None, :]) * inverse).max((1, 2)))
    bar = float(np.quantile(np.concatenate(largest), level))
    return bar if not prompts or prompts < 2 else float(-stdtrit(prompts - 1, ndtr(-bar)))
