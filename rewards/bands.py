"""Smooth maps of a positive measurement to (0, 1): logistic in its logarithm, strictly monotone, never saturated."""
from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST = 1e-5  # added before the logarithm


def rises(x: Tensor, half: float, width: float) -> Tensor:
    """From 0 to 1 with x >= 0, one half at `half`; `width` in e-folds of x."""
    return torch.sigmoid((torch.log(x + SMALLEST) - math.log(half)) / width)


def falls(x: Tensor, half: float, width: float) -> Tensor:
    """From 1 to 0 with x >= 0, one half at `half`; `width` in e-folds of x."""
    return torch.sigmoid((math.log(half) - torch.log(x + SMALLEST)) / width)


def band(x: Tensor, low: float, high: float, width: float) -> Tensor:
    """Near 1 well inside [low, high], one half at its ends, towards 0 outside: too much costs as too little does."""
    return rises(x, low, width) * falls(x, high, width)
