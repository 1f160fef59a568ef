"""The next pair to ask: the one from which the Bradley-Terry strengths of the models learn most.

Of two models i, j the log-odds at one prompt are theta_i - theta_j plus a deviation of that prompt, normal with
variance PROMPT: n votes at one prompt are worth n / (1 + n w PROMPT) votes at fresh prompts, w = p (1 - p). The gain of
a vote is that of the Laplace approximation, log(1 + w (worth of one more) Var(theta_i - theta_j)) / 2.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboards.bradley_terry import fit_counts

PRIOR = 4.0  # variance of a strength, in squared log-odds
PROMPT = 1.0
REPEATS = 0.2  # share of questions that another rater has answered: without them no agreement could be told
GOLD_EVERY = 10


@dataclass(frozen=True)
class Strengths:
    """Bradley-Terry strengths (M,) in log-odds, of mean 0, and their covariance (M, M)."""

    theta: np.ndarray
    covariance: np.ndarray

    def variance(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Of theta_i - theta_j."""
        c = self.covariance
        return c[i, i] + c[j, j] - 2 * c[i, j]


def worth(n: np.ndarray, w: np.ndarray | float = 0.25) -> np.ndarray:
    """How many votes at fresh prompts n votes at one prompt are worth."""
    return n / (1 + n * w * PROMPT)


def fit_strengths(wins: np.ndarray) -> Strengths:
    """Posterior mode; wins (M, M): of the row over the column, a tie half a win of each."""
    theta, _, curvature = fit_counts(wins, precision=1 / PRIOR)
    centre = np.eye(len(wins)) - 1 / len(wins)
    return Strengths(theta, centre @ np.linalg.inv(curvature) @ centre)


class Chooser:
    """Chooses among fixed pairs; gold pairs are mixed in at about every tenth place, unpredictably."""

    def __init__(self, pairs: Sequence[tuple[int, str, str]], gold: Sequence[int] = (), gold_every: int = GOLD_EVERY,
                 seed: int | None = None) -> None:
        """pairs: (id, model a, model b), each of one prompt; gold: ids of pairs with known answers."""
        self.models = sorted({name for _, *both in pairs for name in both})
        self.ids = np.array([pair for pair, *_ in pairs], dtype=int)
        row = {name: k for k, name in enumerate(self.models)}
        self.i, self.j = (np.array([row[pair[k]] for pair in pairs], dtype=int) for k in (1, 2))
        self.gold, self.gold_every = list(gold), gold_every
        self._place = {pair: k for k, pair in enumerate(self.ids.tolist())}
        self._rng = np.random.default_rng(seed)

    def __call__(self, standing: Mapping[int, tuple[int, float]], asked: set[int]) -> int | None:
        """The next pair for a rater who was asked `asked`; see `ArenaStore.standing`. None where none is left."""
        gold = [pair for pair in self.gold if pair not in asked]
        free = np.ones(len(self.ids), dtype=bool)
        free[[self._place[pair] for pair in asked if pair in self._place]] = False
        if gold and (not free.any() or self._rng.random() < 1 / self.gold_every):
            return int(self._rng.choice(gold))
        if not free.any():
            return None
        n, _ = counts = self._counts(standing)
        gain = np.where(free, self.gains(*counts), -np.inf)
        if (free & (n > 0)).any() and self._rng.random() < REPEATS:
            gain[n == 0] = -np.inf
        best = np.flatnonzero(gain >= gain.max() * (1 - 1e-9))
        return int(self.ids[self._rng.choice(best)])

    def strengths(self, standing: Mapping[int, tuple[int, float]]) -> Strengths:
        """Of `self.models`."""
        return self._fit(*self._counts(standing))

    def gains(self, n: np.ndarray, wins: np.ndarray) -> np.ndarray:
        """What one more vote on each pair is expected to tell of the strengths, in nats."""
        found = self._fit(n, wins)
        p = 1 / (1 + np.exp(found.theta[self.j] - found.theta[self.i]))
        w = p * (1 - p)
        return np.log1p(w * (worth(n + 1, w) - worth(n, w)) * found.variance(self.i, self.j)) / 2

    def _fit(self, n: np.ndarray, wins: np.ndarray) -> Strengths:
        models, scale = len(self.models), worth(n) / np.maximum(n, 1)
        cells = self.i * models + self.j
        won, lost = (np.bincount(cells, scale * of, models**2).reshape(models, models) for of in (wins, n - wins))
        return fit_strengths(won + lost.T)

    def _counts(self, standing: Mapping[int, tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Votes on each pair, and wins of a; who is still answering counts as a tie."""
        n, wins = np.zeros(len(self.ids)), np.zeros(len(self.ids))
        for pair, (count, total) in standing.items():
            if pair in self._place:
                n[self._place[pair]], wins[self._place[pair]] = count, (count + total) / 2
        return n, wins
