"""Losses of pairwise preferences (Bradley & Terry 1952; ties: Rao & Kupper 1967), their calibration and accuracy.

Pure functions. `margins` (N,) are rewards of a less rewards of b; `labels` (N,) are 1 where a is preferred, -1 where b
is, 0 for a tie.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.statistics import Interval, wilson_interval

K = 5.0  # of Rao and Kupper's model: equal rewards tie with probability (k - 1) / (k + 1) = 2/3
BINS = 15


def bradley_terry(margins: Tensor, labels: Tensor, flip: float | Tensor = 0.0) -> Tensor:
    """(N,) -log P(label), P(a > b) = sigmoid(margin); a tie counts as half a win of each side.

    flip in [0, 0.5): the probability with which a label that is no tie names the wrong side, so that
    P(label) = (1 - flip) P(true label) + flip P(other label). ValueError for another shape, label or flip.
    """
    _check(margins, labels, flip)
    wins, losses = F.logsigmoid(margins), F.logsigmoid(-margins)
    return -torch.where(labels == 0, (wins + losses) / 2, _noisy(wins, losses, labels, flip))


def bradley_terry_with_ties(margins: Tensor, labels: Tensor, k: float = K, flip: float | Tensor = 0.0) -> Tensor:
    """(N,) -log P(label) after Rao & Kupper (1967), eq. 2.1 with theta = k > 1:

    P(a > b) = sigmoid(margin - ln k), P(b > a) = sigmoid(-margin - ln k) and
    P(tie) = (k^2 - 1) e^(r_a + r_b) / ((e^r_a + k e^r_b) (k e^r_a + e^r_b)) = (k^2 - 1) P(a > b) P(b > a).
    flip and errors as `bradley_terry`; also ValueError for a k that is not above 1.
    """
    _check(margins, labels, flip)
    if not k > 1:
        raise ValueError(f"k: expected more than 1, got {k}; bradley_terry is the form without ties")
    wins, losses = F.logsigmoid(margins - math.log(k)), F.logsigmoid(-margins - math.log(k))
    return -torch.where(labels == 0, wins + losses + math.log(k * k - 1), _noisy(wins, losses, labels, flip))


def _noisy(wins: Tensor, losses: Tensor, labels: Tensor, flip: float | Tensor) -> Tensor:
    right, wrong = torch.where(labels >= 0, wins, losses), torch.where(labels >= 0, losses, wins)
    if not isinstance(flip, Tensor):
        if flip == 0:
            return right
        flip = right.new_tensor(flip)
    return torch.logaddexp(right + torch.log1p(-flip), wrong + flip.log())


def _check(margins: Tensor, labels: Tensor, flip: float | Tensor) -> None:
    if margins.ndim != 1 or margins.shape != labels.shape:
        raise ValueError(f"expected margins and labels (N,), got {tuple(margins.shape)} and {tuple(labels.shape)}")
    if not bool(((labels == 1) | (labels == -1) | (labels == 0)).all()):
        raise ValueError(f"labels: expected 1, -1 or 0 (a tie), got {sorted(set(labels.tolist()))[:5]}")
    share = float(flip.detach()) if isinstance(flip, Tensor) else flip
    if not 0 <= share < 0.5:
        raise ValueError(f"flip: expected 0 or more and less than 0.5, got {share}")


@dataclass(frozen=True)
class Calibration:
    """P(a is truly better) = sigmoid(margin / temperature); annotators name the wrong side with probability flip."""

    temperature: float
    flip: float

    def probabilities(self, margins: Tensor) -> Tensor:
        """(N,) that a is better, given that they are no tie."""
        return torch.sigmoid(margins.double() / self.temperature)


def fit_calibration(margins: Tensor, labels: Tensor, noisy: bool = True) -> Calibration:
    """Temperature scaling (Guo et al., 2017) by maximum likelihood on held-out labels, ties left out.

    With `noisy` the share of wrong labels is fitted along: where pairs far apart still disagree, the labels err and
    not the rewards. ValueError where fewer than 20 labels are no ties.
    """
    from scipy.optimize import minimize

    told = labels != 0
    if int(told.sum()) < 20:
        raise ValueError(f"calibration: expected at least 20 labels that are no ties, got {int(told.sum())}")
    signed = (margins[told].double() * labels[told]).detach().cpu().numpy()
    scale = max(float(np.abs(signed).mean()), 1e-12)
    signed = signed / scale

    def loss(parameters: np.ndarray) -> float:
        flip = 0.49 / (1 + math.exp(-parameters[1])) if noisy else 0.0
        right = 0.5 * (1 + np.tanh(signed * math.exp(-parameters[0]) / 2))
        # a weak prior keeps the temperature of separable labels finite and their flip at 0
        return float(-np.log((1 - flip) * right + flip * (1 - right) + 1e-12).mean()) + 1e-4 * parameters[0] ** 2

    starts = [(t, f) for t in (-2.0, -0.5, 1.0) for f in ((-4.0, 0.0) if noisy else (0.0,))]
    found = [minimize(loss, start, method="L-BFGS-B", bounds=[(-8, 8), (-8, 8)]) for start in starts]
    log_temperature, logit = min(found, key=lambda one: one.fun).x
    flip = 0.49 / (1 + math.exp(-logit)) if noisy else 0.0
    return Calibration(scale * math.exp(log_temperature), flip)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Mean over pairs of |confidence - accuracy| of their bin (Naeini et al., 2015), in [0, 1]; ties left out.

    probabilities (N,) that a is better; confidence, max(p, 1 - p), falls into `bins` equal bins of [0.5, 1]. NaN
    without a label that is no tie.
    """
    told = labels != 0
    p, label = probabilities[told].double(), labels[told]
    if not len(p):
        return math.nan
    confidence = torch.maximum(p, 1 - p)
    right = ((p > 0.5) == (label > 0)).double()
    right = torch.where(p == 0.5, 0.5, right)
    row = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, row, right - confidence)
    return float(gaps.abs().sum() / len(p))


@dataclass(frozen=True)
class Share:
    """A share of n independent cases with Wilson's 95 % interval."""

    value: float
    n: int
    ci95: Interval | None

    @classmethod
    def of(cls, credit: Tensor) -> Share:
        """Of (N,) credits in [0, 1]; NaN and no interval where N = 0."""
        if not len(credit):
            return cls(math.nan, 0, None)
        value = float(credit.double().mean())
        return cls(value, len(credit), wilson_interval(value, len(credit)))


def accuracy(margins: Tensor, labels: Tensor) -> Share:
    """Of the labels that are no ties, those whose side has the higher reward; equal rewards count half."""
    told = labels != 0
    signs = margins[told].sign()
    return Share.of(torch.where(signs == 0, 0.5, (signs == labels[told]).double()))


def accuracy_with_ties(margins: Tensor, labels: Tensor, threshold: float) -> Share:
    """Of all labels those met by: a tie where |margin| <= threshold, else the higher reward.

    Always read beside `tie_floor`. Never choose the threshold on the pairs it is judged by.
    """
    answers = torch.where(margins.abs() <= threshold, torch.zeros_like(margins), margins.sign())
    return Share.of((answers == labels).double())


def tie_floor(labels: Tensor) -> float:
    """The accuracy with ties of a scorer that always answers "tie": the share of ties. NaN without labels."""
    return float((labels == 0).double().mean())


def best_tie_threshold(margins: Tensor, labels: Tensor) -> float:
    """The threshold, 0 or more, of the highest `accuracy_with_ties` on these labels: to be used on others.

    The middle between two neighbouring |margins|. ValueError without labels.
    """
    if not len(labels):
        raise ValueError("expected at least one label, got none")
    size, order = margins.abs().double().sort()
    tie = (labels[order] == 0).long()
    right = (margins[order].sign() == labels[order]).long() * (1 - tie)
    # row i: the i smallest margins are called ties
    correct = F.pad(tie.cumsum(0), (1, 0)) + F.pad(right.flip(0).cumsum(0).flip(0), (0, 1))
    best = int(correct.argmax())
    if best == 0:
        return 0.0
    return float(size[best - 1] + (size[best] if best < len(size) else size[best - 1])) / 2
