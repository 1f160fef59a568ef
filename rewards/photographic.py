"""A weight-free photographic score per frame: sharpness, exposure, contrast, colour and noise as cameras deliver them.

Colourfulness is Hasler & Suesstrunk (2003), noise Immerkaer (1996).
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards import spatial_artifacts
from rewards.frames import to_luma

# Bands and scales from the 10 % to 90 % quantiles of real footage at a short side of at most 256 (10 UCF-101, 9 WebVid
# and 5 natural clips, 48 frames of each), widened to the round numbers next to them.
BLUR = 4.0  # square pixels
NOISE = 0.006  # luma
EXPOSURE = (0.12, 0.6)  # mean luma
CONTRAST = (0.25, 0.8)  # standard deviation of luma over its mean: a gain does not change it, clipping does
COLOUR = (0.04, 0.45)


def photographic(frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Score (B, F) in (0, 1] of frames (B, F, 3, H, W) in [0, 1], and its costs, each (B, F), 0 the best.

    The score is exp(-sum of costs). Each cost rises without end and without a plateau outside of its band, so that
    none of the properties pays for being maximised and a worse frame never scores as the better one.
    """
    frames = frames.float()
    luma = to_luma(frames)
    costs = {
        "sharpness": 0.6 * torch.log1p(spatial_artifacts.blur(luma) / BLUR),
        "noise": 0.35 * torch.log1p((spatial_artifacts.noise(luma) / NOISE).square()),
        "exposure": 0.25 * _outside(luma.mean((2, 3)), *EXPOSURE, width=0.08),
        "clipping": 3.0 * _clipped(frames),
        "contrast": 0.3 * _outside(_contrast(luma), *CONTRAST, width=0.08),
        "colourfulness": 0.3 * _outside(colourfulness(frames), *COLOUR, width=0.04),
    }
    return torch.exp(-sum(costs.values())), costs


def colourfulness(frames: Tensor) -> Tensor:
    """(...,) Hasler-Suesstrunk colourfulness of (..., 3, H, W), of RGB in [0, 1] (theirs is 255 times as large)."""
    red, green, blue = frames.unbind(-3)
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread = (rg.var((-1, -2), correction=0) + yb.var((-1, -2), correction=0) + 1e-8).sqrt()
    mean = (rg.mean((-1, -2)).square() + yb.mean((-1, -2)).square() + 1e-8).sqrt()
    return spread + 0.3 * mean


def _outside(x: Tensor, low: float, high: float, width: float) -> Tensor:
    """By how many `width`s x lies outside [low, high]; smooth, positive, with soft shoulders inside."""
    return F.softplus((low - x) / width) + F.softplus((x - high) / width)


def _clipped(frames: Tensor) -> Tensor:
    """(B, F) share of channel values that are blown out, softly from 0.95 on."""
    return torch.sigmoid((frames - 0.97) / 0.01).mean((2, 3, 4))


def _contrast(luma: Tensor) -> Tensor:
    """(B, F) standard deviation over mean; what is nearly black has none."""
    return (luma.var((2, 3), correction=0) + 1e-8).sqrt() / (luma.mean((2, 3)) + 0.05)
