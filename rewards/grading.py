"""Colour grading: colourfulness (Hasler & Suesstrunk 2003), exposure, and how steady palette and grade stay over time.

Saturation, brightness and contrast are scored by natural bands: too much costs as too little does.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.bands import band, falls, rises

# Quantiles .025 and .975 over 95 real clips (60 UCF-101, 9 WebVid, 9 Kinetics and others, 17 of FETV) of the means
# over 16 frames at a short side of 96; for shares of clipped pixels the quantile .975.
BRIGHTNESS = (0.075, 0.67)
CONTRAST = (0.064, 0.34)
HIGHLIGHTS = 0.12
SHADOWS = 0.58
# Quantiles .05 and .99: real scenes may be lit by a sunset, so the upper end is wide and steep; fading costs gently.
COLOURFULNESS = (10.4, 143.0)
# Quantile .95 over the same clips: what changes from one frame to the next of 12
PALETTE_CHANGE = 7.6
GRADE_CHANGE = 7.0
CHROMA = 16.0  # the same clips' median rms of a*, b*: chroma is judged relative to the clip's own
LEAST_CHROMA = 1.0  # rounding to 8 bits alone

SHOULDER = 0.25  # e-folds: how softly a band ends
PALETTE_SIDE = 24  # short side, pixels, at which palettes are compared
RGB_TO_XYZ = ((0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0178, 0.1095, 0.8727))  # sRGB; white is 1, 1, 1


def lab_of(frames: Tensor) -> Tensor:
    """CIE L*a*b* (..., 3, H, W) of sRGB (..., 3, H, W) in [0, 1]."""
    linear = torch.where(frames > 0.04045, ((frames.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, frames / 12.92)
    xyz = torch.einsum("dc,...chw->...dhw", frames.new_tensor(RGB_TO_XYZ), linear)
    edge = 216 / 24389  # below it the cube root becomes a line, and its gradient stays finite
    x, y, z = torch.where(xyz > edge, xyz.clamp_min(edge) ** (1 / 3), (24389 / 27 * xyz + 16) / 116).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def colourfulness(frames: Tensor) -> Tensor:
    """(...) colourfulness M of (..., 3, H, W) in [0, 1], on the paper's scale: 0 grey, 33 moderate, 109 extreme."""
    r, g, b = (255 * frames).flatten(-2).unbind(-2)
    opponents = torch.stack([r - g, (r + g) / 2 - b], dim=-2)
    mean = opponents.mean(-1)
    spread = (opponents - mean[..., None]).square().mean(-1).sum(-1)
    return (spread + 1e-4).sqrt() + 0.3 * (mean.square().sum(-1) + 1e-4).sqrt()  # 1e-4: a gradient on grey


def palette(frames: Tensor) -> Tensor:
    """(B,) of (B, T, 3, H, W): 1 for a colourfulness within the natural band, less for dull and for garish ones."""
    found, (low, high) = colourfulness(frames).mean(1), COLOURFULNESS
    return rises(found, low, 2 * SHOULDER) * falls(found, high, SHOULDER)


def exposure(luma: Tensor) -> Tensor:
    """(B,) of (B, T, H, W): 1 where brightness, contrast and the shares of clipped pixels are natural."""
    brightness, contrast = luma.mean((1, 2, 3)), (_variance(luma) + 1e-8).sqrt().mean(1)
    highlights, shadows = (torch.sigmoid(x / 0.01).mean((1, 2, 3)) for x in (luma - 0.95, 0.04 - luma))
    return (band(brightness, *BRIGHTNESS, SHOULDER) * band(contrast, *CONTRAST, SHOULDER)
            * falls(highlights, HIGHLIGHTS, SHOULDER) * falls(shadows, SHADOWS, SHOULDER))


def grading(lab: Tensor, same_shot: Tensor) -> Tensor:
    """(B,): 1 where palette and grade of (B, T, 3, H, W) L*a*b* frames hold from frame to frame.

    same_shot (B, T-1) is 1.0 where two neighbours belong to one shot; the others are left out. Chroma counts
    relative to the clip's own, so that fading the colours does not pass for steadying them.
    """
    chroma = (lab[:, :, 1:].square().sum(2).mean((1, 2, 3)) + 1e-4).sqrt()
    scale = (CHROMA / (chroma + LEAST_CHROMA))[:, None, None, None, None]
    lab = torch.cat([lab[:, :, :1], lab[:, :, 1:] * scale], dim=2)
    changes = {PALETTE_CHANGE: palette_change(lab), GRADE_CHANGE: grade_change(lab)}
    count = same_shot.sum(1).clamp_min(1.0)
    score = 1.0
    for half, change in changes.items():
        score = score * falls((change * same_shot).sum(1) / count, half, 2 * SHOULDER)
    return score


def palette_change(lab: Tensor) -> Tensor:
    """(B, T-1) earth mover's distances between palettes of neighbouring frames, summed over the axes L*, a*, b*.

    On an axis the optimal transport pairs sorted values: exact, and differentiable, as k-means palettes are not.
    """
    height, width = lab.shape[-2:]
    ratio = max(1, min(height, width) // PALETTE_SIDE)
    values = F.avg_pool2d(lab.flatten(0, 1), ratio).flatten(2).sort(dim=-1).values.unflatten(0, lab.shape[:2])
    return values.diff(dim=1).abs().mean(-1).sum(-1)


def grade_change(lab: Tensor) -> Tensor:
    """(B, T-1) distances between neighbouring frames of the mean and of the spread of L*a*b*, added up."""
    mean, spread = lab.mean((-2, -1)), (_variance(lab) + 1e-4).sqrt()
    return sum((moment.diff(dim=1).square().sum(-1) + 1e-8).sqrt() for moment in (mean, spread))


def _variance(maps: Tensor) -> Tensor:
    """(...) over the pixels of (..., H, W)."""
    return (maps - maps.mean((-2, -1), keepdim=True)).square().mean((-2, -1))
