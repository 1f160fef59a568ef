"""A weight-free photographic score per frame: sharpness, exposure, contrast, colour and noise as cameras deliver them.

Colourfulness is Hasler & Suesstrunk (2003), noise Immerkaer (1996).
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards import spatial_artifacts
from rewards.frames import pooled, to_luma

# Bands are round numbers set by hand: they hold most of 33 real clips (UCF-101, WebVid), dim stages too, and were tried
# on those clips' over-exposure ladders and against human ratings of 89 clips (FETV). What blur, noise and blocks cost
# was searched for on the tuning part of the hack suite (`hack_clips`), then rounded.
GRAIN_SIDE, SIDE = 256, 128  # short sides, in pixels, at which noise and everything else are read
BLUR = 16.0  # square pixels
NOISE = 0.066  # luma, above the grain of cameras, whose removal is not to pay
BLOCKS = 4.0  # as `blockiness` measures them; compressed footage has up to as many
EXPOSURE = (0.04, 0.6)  # mean luma
CONTRAST = (0.2, 1.0)  # standard deviation of luma over its mean: a gain does not change it, clipping does
COLOUR = (0.1, 1.2)  # colourfulness over mean luma: that a gain raises it makes no picture more colourful


def photographic(frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Score (B, F) in (0, 1] of frames (B, F, 3, H, W) in [0, 1], and its costs, each (B, F), 0 the best.

    The score is exp(-sum of costs). Each cost is flat inside its band and rises outside of it, so that none of the
    properties pays for being maximised. Brightening gains next to nothing, even in the dark, so that over-exposure
    costs what it clips; the price is that moderate darkening is free, and helps where highlights were blown.
    """
    frames = pooled(frames, GRAIN_SIDE)
    small = pooled(frames, SIDE)
    luma = to_luma(small)
    contrast = (luma.var((2, 3), correction=0) + 1e-8).sqrt()
    costs = {
        "sharpness": 4.6 * torch.log1p(spatial_artifacts.blur(luma) / BLUR),
        "noise": 15.0 * torch.log1p((spatial_artifacts.noise(to_luma(frames)) / NOISE).pow(6)),
        "blockiness": 0.56 * torch.log1p(_blocks(frames) / BLOCKS),
        "exposure": 0.25 * _outside(luma.mean((2, 3)), *EXPOSURE, widths=(0.03, 0.08)),
        "clipping": 3.0 * _clipped(small),
        "contrast": 0.3 * _outside(_relative(contrast, luma), *CONTRAST, widths=(0.08, 0.08)),
        "colourfulness": 0.3 * _outside(_relative(colourfulness(small), luma), *COLOUR, widths=(0.1, 0.1)),
    }
    return torch.exp(-sum(costs.values())), costs


def _blocks(frames: Tensor) -> Tensor:
    """(B, F) blockiness, frame by frame."""
    luma = to_luma(frames)
    return spatial_artifacts.blockiness(luma.flatten(0, 1)[:, None]).view(luma.shape[:2])


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


def _relative(measured: Tensor, luma: Tensor) -> Tensor:
    """(B, F) over the mean of luma (B, F, H, W), 0 where that is black: a gain does not change the ratio."""
    return measured / (luma.mean((2, 3)) + 0.05)
