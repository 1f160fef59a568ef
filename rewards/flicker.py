"""Temporal flicker: brightness or colour that jumps from frame to frame where nothing moved."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.features.median import median_of_rows
from evalkit.features.shots import hard_cuts, shrink
from evalkit.metrics.base import Measurement
from rewards.base import Reward

SIZE = 16  # short side at which frames are compared: texture, noise and small motion average out
REACH = 3  # whole-frame shifts searched, in pixels of SIZE: 19 % of the short side
NEAR = 1  # pixels of SIZE within which local motion may explain a change
DARK = 0.04  # added before the logarithm: below it a gain is not visible
HALF = 0.05  # flicker amplitude that halves the score: a gain with a standard deviation of 5 % per frame
AGREE = 0.01  # log gain by which pixels may differ and still agree
OUTLIER = 0.25  # luma difference beyond which a pixel counts no more when shifts are compared
REST = 6e-5  # luma per pixel of shift: what a shift has to save, so that a blank picture stays where it is
TILE = 6  # pixels of SIZE over which local change is averaged: small moving things cancel out
LUMA = (0.299, 0.587, 0.114)


class TemporalFlicker(Reward):
    """Mean over frames of 1 / (1 + (a / 0.05)^2), a the flicker amplitude at the frame; 1 is steady.

    Between consecutive frames, aligned by the best whole-frame shift, each pixel votes for the log gain of every
    channel; a robust mean takes the gain that most agree on, so that moving things are outvoted. Flicker is the
    *change* of that gain from one pair to the next: a second difference in time, to which fades and exposure ramps
    are nothing and smooth motion is next to nothing at any frame rate. It is scaled so that an independent gain of
    standard deviation s per frame gives a root mean square amplitude s. a^2 adds luma, colour (channels against luma)
    and local flicker: regions that brighten and darken again, beyond the common gain, where no content from nearby
    explains it. As every frame's share is bounded, one flash or lost frame costs what three bad frames cost.

    Triples of frames across a hard cut are left out; a clip without any triple left counts as steady.
    Components: luma, colour, local (root mean square amplitudes), cuts (their number). Curves: "flicker" (B, T), the
    amplitude at each frame, 0 at shot borders; "cut" (B, T), 1.0 where a frame begins a new shot.
    """

    name = "temporal_flicker"
    summary = "steadiness of luma and colour, motion and cuts aside; 1 = steady"
    spec = ClipSpec(size=16, max_frames=128, min_frames=3)
    min_frames = 3

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"size": SIZE, "reach": REACH, "near": NEAR, "tile": TILE, "dark": DARK, "half": HALF, "agree": AGREE}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        small = shrink(frames.float(), SIZE)
        cuts = hard_cuts(small)
        valid = (1 - cuts[:, :-1]) * (1 - cuts[:, 1:])
        count = valid.sum(1).clamp_min(1)
        energies = {name: energy * valid for name, energy in _energies(small).items()}
        total = sum(energies.values())
        lost = (total / (total + HALF**2)).sum(1) / count
        components = {name: _root(energy.sum(1) / count) for name, energy in energies.items()}
        curves = {"flicker": F.pad(_root(total), (1, 1)), "cut": F.pad(cuts, (1, 0))}
        return Measurement(1 - lost, components | {"cuts": cuts.sum(1)}, curves)


def _root(energy: Tensor) -> Tensor:
    """Square root with a finite gradient at 0, where it is 0."""
    return (energy + 1e-12).sqrt() - 1e-6


def _energies(small: Tensor) -> dict[str, Tensor]:
    """Luma, colour and local flicker energy (B, T-2) at each inner frame of (B, T, 3, h, w)."""
    logs = (small.clamp_min(0) + DARK).log()
    first = logs[:, :-1].flatten(0, 1)
    moved, inside = _aligned(small, logs)
    gains = _agreed((moved - first).flatten(2), inside.flatten(1))  # (N, 3)
    weights = small.new_tensor(LUMA)
    remainder = _unexplained(*(torch.einsum("nchw,c->nhw", x, weights) for x in (first, moved)), gains @ weights)
    pairs = (small.shape[0], small.shape[1] - 1)
    jumps = gains.unflatten(0, pairs).diff(dim=1)
    luma = jumps @ weights
    colour = (jumps - luma[..., None]).square().mean(-1)
    local = _reversals((remainder * inside).unflatten(0, pairs))
    return {"luma": luma.square() / 6, "colour": colour / 6, "local": local}  # 6: variance of a second difference


def _aligned(small: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Log of every later frame (N, 3, h, w), moved back onto the one before; and (N, h, w) what it really shows."""
    height, width = small.shape[-2:]
    dy, dx = _shift(small.detach())
    y = dy[:, None, None] + torch.arange(height, device=small.device)[:, None]
    x = dx[:, None, None] + torch.arange(width, device=small.device)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    rows = torch.arange(len(dy), device=small.device)[:, None, None]
    later = logs[:, 1:].flatten(0, 1).permute(0, 2, 3, 1)
    moved = later[rows, y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return moved.permute(0, 3, 1, 2), inside.to(small.dtype)


def _shift(small: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (N,) by which each frame's content moves until the next, found in luma of equal mean."""
    luma = torch.einsum("btchw,c->hwbt", small, small.new_tensor(LUMA))  # pairs innermost: the loops are long
    luma = luma - luma.mean((0, 1), keepdim=True)
    first, second = (luma[:, :, :, part].flatten(2) for part in (slice(-1), slice(1, None)))
    height, width = ((side + 1) // 2 for side in first.shape[:2])  # every second row and column decides as well
    padded = F.pad(second.permute(2, 0, 1)[:, None], [REACH] * 4, mode="replicate")[:, 0].permute(1, 2, 0).contiguous()
    shifted = padded.unfold(0, 2 * height - 1, 1).unfold(1, 2 * width - 1, 1)[..., ::2, ::2].permute(0, 1, 3, 4, 2)
    steps = torch.arange(-REACH, REACH + 1, device=small.device)
    dy, dx = (part.flatten() for part in torch.meshgrid(steps, steps, indexing="ij"))
    windows = 2 * REACH + 1
    cost = (shifted[:windows, :windows] - first[::2, ::2]).abs_().clamp_max_(OUTLIER).mean((2, 3)).flatten(0, 1)
    best = (cost + REST * torch.hypot(dy.float(), dx.float())[:, None]).min(0).indices
    return dy[best], dx[best]


def _agreed(ratios: Tensor, inside: Tensor) -> Tensor:
    """(N, C) the log gain that most of the pixels of (N, C, P) agree on: Geman-McClure mean around the median."""
    fixed = ratios.detach()[..., ::2]  # half of the pixels tell median and spread as well
    median = median_of_rows(fixed)
    spread = median_of_rows((fixed - median).abs())
    weight = inside[:, None] * (1 + ((ratios.detach() - median) / (1.5 * spread + AGREE)).square()).pow(-2)
    return (weight * ratios).sum(-1) / weight.sum(-1).clamp_min(1)


def _unexplained(first: Tensor, moved: Tensor, gain: Tensor) -> Tensor:
    """(N, h, w) log luma change beyond `gain` (N,) that no pixel within NEAR explains: the least, with its sign."""
    height, width = moved.shape[-2:]
    around = F.pad(moved[:, None], [NEAR] * 4, mode="replicate")[:, 0]
    still = first + gain[:, None, None]
    reach = range(2 * NEAR + 1)
    least, *others = (around[:, y:y + height, x:x + width] - still for y in reach for x in reach)
    for change in others:
        least = torch.where(change.abs() < least.abs(), change, least)
    return least


def _reversals(change: Tensor) -> Tensor:
    """(B, T-2) energy, over tiles of (B, T-1, h, w), of changes that the next pair takes back."""
    tile = min(TILE, *change.shape[-2:])
    tiles = F.avg_pool2d(change.flatten(0, 1)[:, None], tile, stride=max(1, tile // 2)).flatten(1)
    tiles = tiles.unflatten(0, change.shape[:2])
    before, after = tiles[:, :-1], tiles[:, 1:]
    size = torch.minimum(before.abs(), after.abs())
    return (size.square() * (before * after < 0)).mean(-1)
