"""Guarded temporal coherence: smooth motion, paid only where something moves and nothing repeats, fades or smears."""
from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards import temporal_artifacts
from rewards.frames import to_luma
from rewards.temporal_artifacts import STEP, mean_over

# Prices per unit of measurement, and what is usual of real footage: at less of it little is gained. Fitted to the
# tuning part of the hack suite (`hack_clips`) and to clips of it made to tremble, flicker, comb or stutter, then
# rounded: real clips there pay about 0.4 in all.
PRICES = {
    "midpoint": 0.24,
    "residual": 6.0,
    "jerk": 80.0,
    "luma_jerk": 4.5,
    "chroma_jerk": 25.0,
    "detail_spike": 1.7,
    "duplicates": 0.5,
    "ghosting": 0.3,
    "persistence": 1.2,
}
# What a clip loses by being unsteady, each measurement by itself, grows ever more slowly beyond LIMIT: mixing or
# repeating the frames of a clip that trembles makes it steadier, and must not save more than it costs.
UNSTEADY = ("midpoint", "residual", "jerk", "luma_jerk", "chroma_jerk", "detail_spike")
LIMIT = 0.2
USUAL = {"midpoint": 1.85, "residual": 0.0155, "jerk": 0.048}
# The correlation at which half of the price of persistence is due, and the width of the slope: a constant, and a term
# per frame's time in LAGs, since even courses alone make changes alike that follow each other directly.
PERSISTENT = (0.16, 0.37)
PERSISTENT_WIDTH = (0.03, 0.22)
DISTINCT = 0.95  # of a duplicate is held for one, so that a still clip costs a finite price
# Of the mean luma: a clip whose `variation` is this much gets half. In the tuning part every moving real clip varies by
# .0275 or more (639 of them; median .15), the world's by .0113 (700; .10), a still one by less than .0001.
DYNAMIC_FLOOR = 0.01


def coherence(motion: Mapping[str, Tensor], fps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Coherence (B,) in [0, 1) from the features of the "motion" extractor and fps (B,), and its parts, each (B,).

    floor * exp(-sum of costs); a cost is price * measurement, or LIMIT * log(1 + price * measurement / LIMIT) of
    what is UNSTEADY. Parts are the measurements, 0 the best, and "dynamic_floor" in [0, 1): midpoint, the bend of
    pixels' courses relative to their change (a mid-frame's residual); residual, what motion compensation leaves;
    jerk, the second difference of the camera's step; luma_jerk and chroma_jerk, that of the mean luma and colour;
    detail_spike, how suddenly detail comes or goes in one place; duplicates, by how many e-folds repeated frames
    thin out the clip, so that halving its rate costs the same at any rate; ghosting, the squared share of linear
    fading, of which real footage has a little; persistence, in (0, 1), how long pixels keep changing the same way.
    Changes of light are divided out before spikes, fades and duplicates are looked for.
    """
    luma, whole = to_luma(motion["thumbs"]), 1 - motion["cut"]
    lit = temporal_artifacts.evenly_lit(luma)
    parts = {
        "midpoint": midpoint(luma, whole),
        "residual": _beyond(mean_over(motion["residual"], whole), USUAL["residual"]),
        "jerk": _beyond(jerk(motion["transform"], whole), USUAL["jerk"]),
        "luma_jerk": temporal_artifacts.flicker(luma, whole),
        "chroma_jerk": temporal_artifacts.colour_flicker(motion["thumbs"], whole),
        "detail_spike": temporal_artifacts.detail_spikes(lit, whole),
        "duplicates": -torch.log1p(-DISTINCT * temporal_artifacts.duplicate_frames(lit, whole)),
        "ghosting": temporal_artifacts.ghosting(lit, whole).square(),
        "persistence": _persistent(lit, whole, fps),
    }
    change = variation(luma, motion["cut"]) / (luma.mean((1, 2, 3)) + temporal_artifacts.LIGHT)
    floor = change / (DYNAMIC_FLOOR + change)
    price = sum(cost_of(name, part) for name, part in parts.items())
    return floor * torch.exp(-price), parts | {"dynamic_floor": floor}


def cost_of(name: str, part: Tensor) -> Tensor:
    """What the measurement `part` called `name` costs; of what is UNSTEADY, less and less per unit beyond LIMIT."""
    cost = PRICES[name] * part
    return LIMIT * torch.log1p(cost / LIMIT) if name in UNSTEADY else cost


def _persistent(lit: Tensor, whole: Tensor, fps: Tensor) -> Tensor:
    """(B,) level, in (0, 1), of `persistence`: about 0 for what is usual of real footage."""
    touching = 1 / temporal_artifacts.lag_in_frames(fps).to(lit)
    half, width = (constant + slope * touching for constant, slope in (PERSISTENT, PERSISTENT_WIDTH))
    return torch.sigmoid((temporal_artifacts.persistence(lit, whole, fps) - half) / width)


def _beyond(x: Tensor, usual: float) -> Tensor:
    """By how much x >= 0 exceeds `usual`, smoothly 0 below."""
    width = 0.3 * usual
    return width * F.softplus((x - usual) / width)


def variation(luma: Tensor, cut: Tensor) -> Tensor:
    """(B,) mean over pixels of the standard deviation in time, within shots, of luma (B, T, h, w) less its mean.

    How much moves at all. Unlike the displacement from frame to frame, shuffling and trembling hardly raise it.
    """
    pixels = (luma - luma.mean((2, 3), keepdim=True)).flatten(2)
    shot = F.pad(cut, (1, 0)).cumsum(1)
    same = (shot[:, :, None] == shot[:, None, :]).to(pixels.dtype)
    apart = pixels - same @ pixels / same.sum(2, keepdim=True)
    return (apart.square().mean(1) + 1e-10).sqrt().mean(1)


def midpoint(luma: Tensor, whole: Tensor) -> Tensor:
    """(B,) mean |x_t-1 - 2 x_t + x_t+1| over mean |x_t+1 - x_t-1| / 2 of luma (B, T, h, w), less that of real motion.

    Not relative, it would pay for standing still. The ratio is 0 for a fade, about 1.5 for real motion and 3.5 for
    frames in random order; below what is usual little is gained, smoothly.
    """
    triples = whole[:, 1:] * whole[:, :-1]
    bend = mean_over((luma[:, 2:] - 2 * luma[:, 1:-1] + luma[:, :-2]).abs().mean((2, 3)), triples)
    change = mean_over(0.5 * (luma[:, 2:] - luma[:, :-2]).abs().mean((2, 3)), triples)
    ratio = (bend + 0.1 * STEP) / (change + 0.1 * STEP)
    return 0.3 * F.softplus((ratio - USUAL["midpoint"]) / 0.3)


def jerk(transform: Tensor, whole: Tensor) -> Tensor:
    """(B,) mean length of the second difference of the camera's step (B, T-1, 4), in fractions of the short side.

    Turning and zooming count by how far they move the edge of the picture. 0 for fewer than four frames.
    """
    if transform.shape[1] < 3:
        return transform.sum((1, 2)) * 0
    steps = transform * transform.new_tensor([1.0, 1.0, 0.5, 0.5])
    bend = steps[:, 2:] - 2 * steps[:, 1:-1] + steps[:, :-2]
    length = (bend.square().sum(2) + 1e-12).sqrt() - 1e-6
    return mean_over(length, whole[:, 2:] * whole[:, 1:-1] * whole[:, :-2])
