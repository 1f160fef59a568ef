"""Weight-free statistics that the learned artifact detector reads beside those of the learned preference."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.features.base import Extractor, register_extractor
from evalkit.features.preprocess import to_square
from rewards.frames import to_luma
from rewards.preference_features import FRAMES, SIDE, clip_statistics
from rewards.temporal_artifacts import STEP

REACH = 3  # pixels at half size that a block may move from frame to frame
AREAS = ((2, 2), (4, 2), (6, 2), (10, 2))  # pixels at half size: side of what may have changed, step to the next
BINS = 6  # of a colour histogram, along luma and two chromas
SHARED = 5 * STEP  # of a frame's change: half as much is made of it
ORDERS = (0, 1, 3, 7, 11, 13, 14)  # of 15 sorted pairs of frames
STATISTICS_KEY = "artifact_statistics"


@register_extractor(STATISTICS_KEY)
class ArtifactStatistics(Extractor):
    """(B, T, 3, H, W) -> (B, n, K): `artifact_statistics` of each of n windows of 16 frames, squeezed to 64 x 64."""

    key = STATISTICS_KEY
    level = "sequence"

    def forward(self, frames: Tensor) -> Tensor:
        parts = windows(to_square(frames.float(), SIDE))
        return artifact_statistics(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])


def windows(frames: Tensor) -> Tensor:
    """(B, T, ...) -> (B, n, 16, ...): windows that cover all frames; a shorter clip runs back from its end."""
    length = frames.shape[1]
    if length < FRAMES:
        there = [k % (2 * length - 2) for k in range(FRAMES)]
        return frames[:, None, [min(k, 2 * length - 2 - k) for k in there]]
    last, count = length - FRAMES, math.ceil(length / FRAMES)
    starts = [round(k * last / max(1, count - 1)) for k in range(count)]
    return torch.stack([frames[:, start:start + FRAMES] for start in starts], dim=1)


def artifact_statistics(frames: Tensor) -> Tensor:
    """(B, K) float32 from (B, 16, 3, 64, 64) in [0, 1]; differentiable, finite for black, still and clipped clips."""
    frames = frames.float()
    luma = to_luma(frames)
    return torch.cat([clip_statistics(frames), _unmatched(frames), _outliers(frames, luma),
                      _palette(frames, luma), _planes(frames),
                      _halos(luma), _coherence(luma), _impulses(luma), _echoes(luma)], dim=1)


def _log(x: Tensor, floor: float = 0.05 * STEP) -> Tensor:
    return (x + floor).log()


def _over_time(series: Tensor) -> Tensor:
    """(B, 15, n) of pairs of frames -> their order statistics, the highest peak above both neighbours, logarithms."""
    peak = F.relu(series[:, 1:-1] - torch.maximum(series[:, :-2], series[:, 2:])).amax(1)
    return torch.cat([_log(series.sort(1).values[:, list(ORDERS)]).flatten(1), _log(peak)], 1)


def _unmatched(frames: Tensor) -> Tensor:
    """What no small shift explains, from frame to frame, back, and both at one place: things that turn into others.

    What moves uncovers and covers strips, each unexplained in one direction; a thing that comes, goes or changes at
    once is an area, and the exchange of one thing for another is one in both directions.
    """
    small = F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])
    now, then = small[:, 1:], small[:, :-1]
    back, forth = _residual(torch.cat([now, then]), torch.cat([then, now])).chunk(2)  # (B, 15, 30, 30)
    left, found = torch.cat([back, forth, torch.minimum(back, forth)]), []
    for side, step in AREAS:
        area = F.avg_pool2d(left, side, step)
        beside = F.max_pool2d(area, 3, 1, 1)
        spike = F.relu(area[:, 1:-1] - torch.maximum(beside[:, :-2], beside[:, 2:]))
        # what half of the picture shares is a cut, a flicker or the camera: nothing can be said of its things
        most, spikes = (_log(_local(one).amax((2, 3)).sort(1).values) for one in (area, spike))
        found += [most, spikes[:, 5:], most[:, -1:] - most[:, 7:8]]
    found.append(_log(left.mean((2, 3))).sort(1).values[:, list(ORDERS)])
    return _side_by_side(found, 3)


def _side_by_side(found: list[Tensor], kinds: int) -> Tensor:
    """(kinds · B, n) each, the kinds one after the other -> (B, kinds · sum of n): launches are dear, rows are not."""
    return torch.cat(torch.cat(found, 1).chunk(kinds), 1)


def _local(left: Tensor) -> Tensor:
    """(B, n, h, w) less what half of the picture shares, and ever less where that is much."""
    shared = left.flatten(2).median(2).values[..., None, None]
    return F.relu(left - shared) / (1 + (shared / SHARED).square())


def _residual(frames: Tensor, others: Tensor) -> Tensor:
    """(B, n, h - 2, w - 2): by how much 3x3 pixels of (B, n, 3, h, w) differ from the best shift of the others."""
    height, width = frames.shape[-2:]
    padded = F.pad(others.flatten(0, 1), (REACH,) * 4, mode="replicate").unflatten(0, others.shape[:2])
    best = None
    for y in range(2 * REACH + 1):
        for x in range(2 * REACH + 1):
            if (y - REACH) ** 2 + (x - REACH) ** 2 <= REACH**2 + 1:
                apart = (frames - padded[..., y:y + height, x:x + width]).abs().mean(2)
                cost = _three(_three(apart, 2), 3)
                best = cost if best is None else torch.minimum(best, cost)
    return best


def _three(rows: Tensor, dim: int) -> Tensor:
    """Means of three neighbours along `dim`, one shorter on either side; far quicker than pooling here."""
    n = rows.shape[dim] - 2
    return (rows.narrow(dim, 0, n) + rows.narrow(dim, 1, n) + rows.narrow(dim, 2, n)) / 3


def _outliers(frames: Tensor, luma: Tensor) -> Tensor:
    """Light, colour and detail beyond all that lay around the same place a frame before or after."""
    detail = (luma - F.avg_pool2d(luma, 5, 1, 2)).abs()
    planes = torch.cat([frames, 2 * detail[:, :, None]], dim=2).flatten(0, 1)
    found = []
    for cell, reach in ((4, 3), (2, 5)):
        level = F.avg_pool2d(planes, cell)
        high, low = (side * F.max_pool2d(side * level, reach, 1, reach // 2) for side in (1, -1))
        level, high, low = (one.unflatten(0, luma.shape[:2]) for one in (level, high, low))
        beyond = torch.cat([F.relu(level[:, now] - high[:, then]) + F.relu(low[:, then] - level[:, now])
                            for now, then in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None)))])
        kinds = torch.stack([beyond[:, :, :3].mean(2), beyond[:, :, 3]]).unflatten(1, (2, -1)).transpose(0, 1)
        one, here = kinds.flatten(0, 2), []
        for side in (1, 2 if cell == 4 else 3):
            area = F.avg_pool2d(one, side, 1)
            spike = F.relu(area[:, 1:-1] - torch.maximum(area[:, :-2], area[:, 2:]))
            most, spikes = (_log(_local(part).amax((2, 3)).sort(1).values) for part in (area, spike))
            here += [most[:, list(ORDERS)], spikes[:, -5:], most[:, -1:] - most[:, 7:8]]
        found.append(_side_by_side(here, 4))
    return torch.cat(found, 1)


def _palette(frames: Tensor, luma: Tensor) -> Tensor:
    """How much of every colour there is, from frame to frame and from half to half: what moves keeps its share."""
    chroma = [frames[:, :, 2] - luma, frames[:, :, 0] - luma]
    small = [one[..., ::2, ::2].flatten(2) for one in (luma, *chroma)]  # (B, 16, 1024)
    bins = [_soft(small[0], 0.0, 1.0, 2 * BINS), *(_soft(one, -0.4, 0.4, BINS) for one in small[1:])]
    joint = torch.einsum("btpi,btpj->btij", bins[1], bins[2]) / small[0].shape[2]
    bins = [one.mean(2) for one in bins]
    bins.append(joint.flatten(2))
    found = []
    for share in bins:  # (B, 16, n)
        steps = share.diff(dim=1).abs()
        found.append(_over_time(torch.stack([steps.sum(2), steps.amax(2)], 2)))
        halves = (share[:, :8].mean(1) - share[:, 8:].mean(1)).abs()
        wide = (share[:, 2:-1] + share[:, 3:] - share[:, :-3] - share[:, 1:-2]).abs() / 2  # two frames against two
        found.append(_log(torch.stack([halves.sum(1), halves.amax(1), wide.sum(2).amax(1), wide.amax((1, 2))], 1)))
    return torch.cat(found, 1)


def _soft(values: Tensor, low: float, high: float, count: int) -> Tensor:
    """(..., P) -> (..., P, count) memberships of bins from `low` to `high`, which add up to 1."""
    at = torch.linspace(low, high, count, device=values.device)
    return F.relu(1 - (values.clamp(low, high)[..., None] - at).abs() * ((count - 1) / (high - low)))


def _planes(frames: Tensor) -> Tensor:
    """Do the edges of red and blue lie upon each other? Correlation of their slopes when one plane is moved."""
    found, some = [], frames[:, ::5]
    for dim in (3, 2):
        slopes = some.diff(dim=dim + 1)
        a, b = (torch.cat([slopes[:, :, plane] for plane in planes]) for planes in ((0, 0, 1), (2, 1, 2)))
        n = a.shape[dim] - 6
        energy = (a.square().mean((1, 2, 3)) * b.square().mean((1, 2, 3)) + 1e-12).sqrt()
        products = [a.narrow(dim, 3, n) * b.narrow(dim, 3 + k, n) for k in range(-3, 4)]
        match, sizes = (torch.stack([one.mean((1, 2, 3)) for one in kind], 1)
                        for kind in (products, [one.abs() for one in products]))
        sizes = _log(sizes, 1e-6) - _log(sizes[:, 3:4], 1e-6)
        for row in (match / energy[:, None], sizes):  # which side is the first does not matter
            left, right = row[:, :3].flip(1), row[:, 4:]
            found += [row[:, 3:4], torch.maximum(left, right), (left - right).abs()]
    return _side_by_side(found, 3)


def _halos(luma: Tensor) -> Tensor:
    """Slopes that turn back within 1 to 4 pixels of a steep one, against those that go on: sharpening, ringing."""
    found = []
    for dim in (3, 2):
        slope = luma[:, ::3].diff(dim=dim)
        power = slope.square().mean((1, 2, 3)) + 1e-6
        some = slope.square().flatten(1)[:, ::5].sort(1).values
        steep = some[:, -some.shape[1] // 50][:, None, None, None]
        weight = torch.sigmoid(4 * (slope.square() / (steep + 1e-6) - 1))
        for reach in (1, 2, 3, 4):
            n = slope.shape[dim] - reach
            product = slope.narrow(dim, 0, n) * slope.narrow(dim, reach, n)
            near = torch.maximum(weight.narrow(dim, 0, n), weight.narrow(dim, reach, n))
            turned = [F.relu(side * product) for side in (-1, 1)]
            found += [one.mean((1, 2, 3)) / power for one in (*turned, *(near * one for one in turned))]
    return _log(torch.stack(found, 1), 1e-3)


def _coherence(luma: Tensor) -> Tensor:
    """Do slopes within a few pixels point one way, as along clean outlines? Structure tensor, at two scales."""
    found, level = [], luma[:, ::3].flatten(0, 1)
    for scale in range(2):
        level = F.avg_pool2d(level, 2) if scale else level
        across, down = level[:, :-1].diff(dim=2), level[:, :, :-1].diff(dim=1)
        for window in (3, 5):
            xx, xy, yy = (F.avg_pool2d(one, window, 1) for one in (across.square(), across * down, down.square()))
            energy = xx + yy
            apart = ((xx - yy).square() + 4 * xy.square() + 1e-12).sqrt()
            found += [apart.sum((1, 2)) / (energy.sum((1, 2)) + 1e-4), (apart / (energy + 1e-4)).mean((1, 2))]
    return torch.stack(found, 1).unflatten(0, (len(luma), -1)).mean(1)


def _impulses(luma: Tensor) -> Tensor:
    """Pixels unlike the middle of their neighbours, in the picture and in time: quantiles, and shares of large ones."""
    rows = luma[:, 1:-1:2]
    sides = torch.stack([rows[..., 1:-1, :-2], rows[..., 1:-1, 2:], rows[..., :-2, 1:-1], rows[..., 2:, 1:-1]])
    sides = sides.sort(0).values
    here = rows[..., 1:-1, 1:-1]
    out = F.relu(here - sides[3]) + F.relu(sides[0] - here)  # above or below all four
    before, after = luma[:, :-2:2][:, :rows.shape[1]], luma[:, 2::2][:, :rows.shape[1]]
    flash = F.relu(rows - torch.maximum(before, after)) + F.relu(torch.minimum(before, after) - rows)
    both = torch.minimum(out, flash[..., 1:-1, 1:-1])
    found = []
    for one in (out, flash, both):
        flat = one.flatten(1)
        order = flat[:, ::3].sort(1).values
        quantiles = _log(order[:, [int(share * order.shape[1]) for share in (0.7, 0.9, 0.97, 0.99, 0.997, 0.999)]])
        large = [torch.sigmoid((flat - level * STEP) / (0.1 * level * STEP)).mean(1) for level in (4, 12, 40, 100)]
        found += [quantiles, _log(torch.stack(large, 1), 1e-5), _log(flat.mean(1, keepdim=True))]
    return torch.cat(found, 1)


def _echoes(luma: Tensor) -> Tensor:
    """Does a pixel's change come back a few frames later, as in a picture with a ghost?"""
    step = luma.diff(dim=1)
    energy = step.square().mean((2, 3))
    found = []
    for lag in range(1, 6):
        match = (step[:, lag:] * step[:, :-lag]).mean((2, 3)) / (energy[:, lag:] * energy[:, :-lag] + 1e-10).sqrt()
        sizes = (step[:, lag:].abs() * step[:, :-lag].abs()).mean((2, 3)) / (
            energy[:, lag:] * energy[:, :-lag] + 1e-10).sqrt()
        found += [match.mean(1), match.amin(1), match.amax(1), sizes.mean(1)]
    return torch.stack(found, 1)
