"""Temporal defects of small frames, weight-free: ghosting, duplicate frames, flicker, vanishing objects.

The functions take luma (B, T, h, w) in [0, 1], short side about 64, and `whole` (B, T-1), 1.0 for pairs of frames
within one shot and 0.0 across a cut, and returns (B,). Raw measurements, not yet levels.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEP = 1 / 255  # one code value of 8-bit video
CELLS = 8  # vanishing is looked for in cells of an eighth of the short side
LINEAR = 0.25  # a pixel whose course bends by less than this share of its change is mixed, not moved
LIGHT = 0.02  # added to mean luma where light is divided out
LAG = 0.125  # seconds: neighbours at 8 frames a second
SAME = 0.15  # a pair that differs by less than this share of the clip's usual difference is a duplicate


def mean_over(values: Tensor, weight: Tensor) -> Tensor:
    """(B,) mean of (B, n) `values` where `weight` is 1; 0 where it is nowhere."""
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def duplicate_frames(luma: Tensor, whole: Tensor) -> Tensor:
    """Share of pairs, in [0, 1], in which the second frame repeats the first."""
    change = luma.diff(dim=1).abs().mean((2, 3))
    usual = (mean_over(change.square(), whole) + 1e-10).sqrt()[:, None]
    alike = 1 / (1 + (change / (SAME * usual + 0.05 * STEP)).square())
    return mean_over(alike, whole)


def flicker(luma: Tensor, whole: Tensor) -> Tensor:
    """Mean absolute second difference of the frames' mean luma: motion changes it slowly, flicker does not."""
    mean = luma.mean((2, 3))
    bend = _smooth_abs(mean[:, 2:] - 2 * mean[:, 1:-1] + mean[:, :-2], 0.02 * STEP)
    return mean_over(bend, whole[:, 1:] * whole[:, :-1])


def ghosting(luma: Tensor, whole: Tensor) -> Tensor:
    """Share of all change, in [0, 1], in pixels that fade linearly from frame to frame, as mixed frames do.

    What moves bends the course of the pixels it passes; cross-fades and temporal blur straighten it.
    """
    change = 0.5 * (luma[:, 2:] - luma[:, :-2]).abs()
    bend = luma[:, 2:] - 2 * luma[:, 1:-1] + luma[:, :-2]
    linear = torch.exp(-(bend / (LINEAR * change + 0.5 * STEP)).square())
    triples = (whole[:, 1:] * whole[:, :-1])[:, :, None, None]
    change = change * triples
    return (change * linear).sum((1, 2, 3)) / (change.sum((1, 2, 3)) + 0.5 * STEP * max(1, change[0].numel()))


def vanishing(luma: Tensor, whole: Tensor) -> Tensor:
    """Height of local spikes of change over the same cell's change just before and after, as luma.

    A fourth-power mean over cells and time, so that one object which goes in one frame shows in a long clip.
    """
    cell = max(1, min(luma.shape[-2:]) // CELLS)
    return spikes(F.avg_pool2d(luma.diff(dim=1).abs(), cell), whole)


def detail_spikes(luma: Tensor, whole: Tensor) -> Tensor:
    """How suddenly detail comes or goes in one place, in e-folds, and stays: things that vanish take their edges along.

    Detail that moves crosses the border of a cell over several frames. Of the places and times the most sudden count.
    """
    cell = max(1, min(luma.shape[-2:]) // CELLS)
    detail = (luma - F.avg_pool2d(luma, 5, 1, 2, count_include_pad=False)).abs()
    level = (F.avg_pool2d(detail, min(2 * cell, *luma.shape[-2:]), cell) + 2 * STEP).log()
    return spikes(level.diff(dim=1).abs(), whole, power=8)


def spikes(change: Tensor, whole: Tensor, power: int = 4) -> Tensor:
    """(B,) power mean over (B, T-1, h, w) of how far a change tops those just before and after, in its place.

    What all places share is the camera's or the light's, and is taken off. 0 for fewer than four frames.
    """
    change = change.flatten(2)
    if change.shape[1] < 3:
        return change.sum((1, 2)) * 0
    spike = F.relu(change[:, 1:-1] - torch.maximum(change[:, :-2], change[:, 2:]))
    spike = F.relu(spike - spike.median(2, keepdim=True).values)
    spike = spike * (whole[:, :-2] * whole[:, 1:-1] * whole[:, 2:])[:, :, None]
    return (spike.pow(power).mean((1, 2)) + (0.05 * STEP) ** power).pow(1 / power)


def colour_flicker(frames: Tensor, whole: Tensor) -> Tensor:
    """Mean length of the second difference of the mean colour of (B, T, 3, h, w), less what R, G and B share."""
    mean = frames.mean((3, 4))
    bend = mean[:, 2:] - 2 * mean[:, 1:-1] + mean[:, :-2]
    bend = bend - bend.mean(2, keepdim=True)
    length = (bend.square().sum(2) + (0.02 * STEP) ** 2).sqrt() - 0.02 * STEP
    return mean_over(length, whole[:, 1:] * whole[:, :-1])


def evenly_lit(luma: Tensor) -> Tensor:
    """Luma (B, T, h, w) brought to the clip's mean in every frame: what is left changes by motion, not by light."""
    mean = luma.mean((2, 3), keepdim=True)
    return luma * ((mean.mean(1, keepdim=True) + LIGHT) / (mean + LIGHT))


def persistence(luma: Tensor, whole: Tensor, fps: Tensor) -> Tensor:
    """(B,) correlation, in [-1, 1], of a pixel's change with its own change `LAG` seconds before, fps (B,).

    Where things move, a pixel's change is soon another; where frames are mixed, changes drag on or come back. Read in
    cells, which count by how much they change, so that one place that fades does not speak for the picture. Changes
    of up to a code value are noise. 0 for clips too short for two changes so far apart.
    """
    change = luma.diff(dim=1)
    change = change.sign() * F.relu(change.abs() - STEP) * whole[:, :, None, None]
    return torch.stack([_autocorrelation(*one) for one in zip(change, lag_in_frames(fps).tolist(), strict=True)])


def lag_in_frames(fps: Tensor) -> Tensor:
    """(B,) int64: `LAG` at rates fps (B,), at least one frame."""
    return (LAG * fps).round().clamp_min(1).long()


def _autocorrelation(change: Tensor, lag: int) -> Tensor:
    """Of (T-1, h, w), a scalar: the mean over cells, each weighing as much as the root of its power."""
    cell = max(1, min(change.shape[-2:]) // CELLS)
    later, earlier = change[lag:], change[:-lag]
    shared = F.avg_pool2d((later * earlier).sum(0)[None], cell)
    power = F.avg_pool2d((0.5 * (later.square() + earlier.square())).sum(0)[None], cell) + 1e-6
    return (shared / power.sqrt()).sum() / power.sqrt().sum()


def _smooth_abs(x: Tensor, width: float) -> Tensor:
    return (x.square() + width**2).sqrt() - width
