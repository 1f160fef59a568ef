"""A weight-free photographic score per frame: sharpness, exposure, contrast, colour and noise as cameras deliver them.

Colourfulness is Hasler & Suesstrunk (2003), noise Immerkaer (1996).
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards import spatial_artifacts
from rewards.frames import pooled, to_luma

# Bands and scales are round numbers set by hand, with the quantiles of 33 real clips (UCF-101, WebVid) in view and
# wider than those where grading ladders or human ratings of generated clips spoke against the price.
GRAIN_SIDE, SIDE = 256, 128  # short sides, in pixels, at which noise and everything else are read
BLUR = 1.0  # square pixels
NOISE = 0.012  # luma
EXPOSURE = (0.05, 0.6)  # mean luma
CONTRAST = (0.2, 1.0)  # standard deviation of luma over its mean: a gain does not change it, clipping does
COLOUR = (0.04, 0.45)


def photographic(frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Score (B, F) in (0, 1] of frames (B, F, 3, H, W) in [0, 1], and its costs, each (B, F), 0 the best.

    The score is exp(-sum of costs). Each cost rises without end and without a plateau outside of its band, so that
    none of the properties pays for being maximised and a worse frame never scores as the better one.
    """
    frames = pooled(frames, GRAIN_SIDE)
    small = pooled(frames, SIDE)
    luma = to_luma(small)
    costs = {
        "sharpness": 0.6 * torch.log1p(spatial_artifacts.blur(luma) / BLUR),
        "noise": 0.25 * torch.log1p((spatial_artifacts.noise(to_luma(frames)) / NOISE).square()),
        "exposure": 0.25 * _outside(luma.mean((2, 3)), *EXPOSURE, widths=(0.03, 0.08)),
        "clipping": 3.0 * _clipped(small),
        "contrast": 0.3 * _outside(_contrast(luma), *CONTRAST, widths=(0.08, 0.08)),
        "colourfulness": 0.3 * _outside(colourfulness(small), *COLOUR, widths=(0.04, 0.04)),
    }
    return torch.exp(-sum(costs.values())), costs


def colourfulness(frames: Tensor) -> Tensor:
    """(...,) Hasler-Suesstrunk colourfulness of (..., 3, H, W), of RGB in [0, 1] (theirs is 255 times as large)."""
    red, green, blue = frames.unbind(-3)
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread = (rg.var((-1, -2), correction=0) + yb.var((-1, -2), correction=0) + 1e-8).sqrt()
    mean = (rg.mean((-1, -2)).square() + yb.mean((-1, -2)).square() + 1e-8).sqrt()
    return spread + 0.3 * mean


def _outside(x: Tensor, low: float, high: float, widths: tuple[float, float]) -> Tensor:
    """By how many widths x lies outside [low, high]; smooth, positive, with soft shoulders inside."""
    return F.softplus((low - x) / widths[0]) + F.softplus((x - high) / widths[1])


def _clipped(frames: Tensor) -> Tensor:
    """(B, F) share of channel values that are blown out, softly from 0.95 on."""
    return torch.sigmoid((frames - 0.97) / 0.01).mean((2, 3, 4))


def _contrast(luma: Tensor) -> Tensor:
    """(B, F) standard deviation over mean; what is nearly black has none."""
    return (luma.var((2, 3), correction=0) + 1e-8).sqrt() / (luma.mean((2, 3)) + 0.05)
