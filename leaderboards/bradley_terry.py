"""Bradley–Terry with ties (Davidson, 1970): win, tie and loss of i against j as p_i : ν√(p_i p_j) : p_j."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRIOR = 0.05  # precision of a normal prior on the log strengths: a model that wins everything stays finite
_NEWTON_STEPS, _CLOSE = 100, 1e-9


@dataclass(frozen=True)
class Strengths:
    """Fitted log strengths (M,), mean 0; the log of ν; and what each prompt adds to them to first order."""

    log_strength: np.ndarray
    log_tie: float
    influence: np.ndarray  # (K, M): a resample that weighs the prompts w (K,) has log_strength + (w - 1) @ influence


def outcomes(scores: np.ndarray, tie: float = 0.0) -> np.ndarray:
    """(M, M) of one prompt's scores (M,), higher is better: 1 where the row wins, ½ for a tie, NaN if either is NaN."""
    difference = scores[:, None] - scores[None, :]
    found = np.where(difference > tie, 1.0, np.where(difference < -tie, 0.0, 0.5))
    found[np.isnan(difference)] = np.nan
    np.fill_diagonal(found, np.nan)
    return found


def fit_strengths(scores: Sequence[np.ndarray], weights: Sequence[float], ties: Sequence[float]) -> Strengths:
    """Strengths from paired wins on every prompt of every metric.

    scores: one (K, M) per metric, a row per prompt, higher is better, NaN where a model has none; weights and ties: how
    much a metric counts, and the largest difference that is a tie. Raises ValueError below 2 models.
    """
    k, m = scores[0].shape
    if m < 2:
        raise ValueError(f"expected at least 2 models to compare, got {m}")
    share = np.asarray(weights, dtype=float) / np.sum(weights)

    def prompts():
        for i in range(k):
            yield [(w, outcomes(matrix[i], tie)) for w, matrix, tie in zip(share, scores, ties, strict=True)]

    wins, drawn = np.zeros((m, m)), np.zeros((m, m))
    for prompt in prompts():
        for w, found in prompt:
            wins += w * (found == 1.0)
            drawn += w * (found == 0.5)
    theta, eta, curvature = fit_counts(wins, drawn)
    tied, half = _expected(theta, eta)
    gradients = np.zeros((k, m + 1))
    for i, prompt in enumerate(prompts()):
        for w, found in prompt:
            seen = ~np.isnan(found)
            gradients[i, :m] += w * np.where(seen, np.nan_to_num(found) - half, 0.0).sum(1)
            gradients[i, m] += w * (np.where(seen, (found == 0.5) - tied, 0.0).sum() / 2)
    influence = np.linalg.solve(curvature, gradients.T).T[:, :m]
    return Strengths(theta, float(eta), influence - influence.mean(1, keepdims=True))


def _expected(theta: np.ndarray, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """(M, M) chances of a tie, and of a win with ties counted half."""
    gap = (theta[:, None] - theta[None, :]) / 2
    win, loss, tie = np.exp(gap), np.exp(-gap), np.exp(eta)
    total = win + loss + tie
    return tie / total, (win + tie / 2) / total


def _curvature(theta: np.ndarray, eta: float, games: np.ndarray) -> np.ndarray:
    """Negative second derivatives of the log likelihood, (M + 1, M + 1), the last for log ν."""
    m = len(theta)
    tied, half = _expected(theta, eta)
    spread = games * (half * (1 - half) - tied / 4)  # variance of the result 1, ½, 0
    skew = games * tied * (0.5 - half)  # covariance of the result with being a tie
    found = np.zeros((m + 1, m + 1))
    found[:m, :m] = np.diag(spread.sum(1)) - spread
    found[:m, m] = found[m, :m] = skew.sum(1)
    found[m, m] = (games * tied * (1 - tied)).sum() / 2
    return found


def fit_counts(wins: np.ndarray, drawn: np.ndarray | None = None, precision: float = PRIOR) -> tuple:
    """Log strengths (M,) of mean 0, the log of ν, and the curvature (P, P) at the mode, by Newton's method.

    wins (M, M): of the row over the column; drawn (M, M), symmetric: ties. Without `drawn` no tie is modelled (ν = 0,
    P = M, a tie in `wins` is half a win of each); with it P = M + 1, the last for log ν. precision: of the prior.
    """
    m = len(wins)
    ties = np.zeros((m, m)) if drawn is None else drawn
    games, free = wins + wins.T + ties, m if drawn is None else m + 1
    at = np.zeros(m + 1)
    at[m] = 0.0 if free > m else -np.inf

    def loss(at: np.ndarray) -> float:
        gap = (at[:m, None] - at[None, :m]) / 2
        log_total = np.logaddexp(np.logaddexp(gap, -gap), at[m])
        tied = (ties.sum() / 2) * at[m] if free > m else 0.0
        likelihood = (wins * gap).sum() + tied - (games * log_total).sum() / 2
        return float(-likelihood + precision / 2 * at[:free] @ at[:free])

    def bend(at: np.ndarray) -> np.ndarray:
        return _curvature(at[:m], at[m], games)[:free, :free] + precision * np.eye(free)

    for _ in range(_NEWTON_STEPS):
        tied, half = _expected(at[:m], at[m])
        gradient = np.append((wins + ties / 2 - games * half).sum(1), (ties - games * tied).sum() / 2)[:free]
        step = np.zeros(m + 1)
        step[:free] = np.linalg.solve(bend(at), gradient - precision * at[:free])
        size, here = 1.0, loss(at)
        while loss(at + size * step) > here + 1e-12 * abs(here) and size > 1e-6:
            size /= 2
        at = at + size * step
        if np.abs(size * step).max() < _CLOSE:
            break
    return at[:m] - at[:m].mean(), float(at[m]), bend(at)
