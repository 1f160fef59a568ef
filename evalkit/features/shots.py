"""Hard cuts: where consecutive frames show different pictures, not the same one brighter, shifted or noisier."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.devices import at_once

SIZE = 16  # short side at which pictures are compared: coarse enough that noise and fine texture are gone
REACH = 3  # shifts searched, in pixels of SIZE: 19 % of the short side
SUSPECT = 0.1  # unlikeness of a pair above which it is looked at closely
UNLIKE = 0.2  # unlikeness, after the best shift, that two shots have at least
FRAMES = {"cpu": 16, "cuda": 4096}  # at a time
SUSPECTS = {"cpu": 16, "cuda": 512}  # pairs that may be cuts, at a time
ACROSS, WITHIN = [(0, 2), (0, 3), (1, 2), (1, 3)], [(0, 1), (2, 3)]  # of the frames t-1 to t+2
CONTRAST = 0.02  # luma deviation of a frame below which it counts as blank: without it 0/0 decides


def shrink(frames: Tensor, short_side: int) -> Tensor:
    """(..., C, H, W) shrunk with antialiasing to `short_side`, aspect kept; unchanged where it is small already."""
    height, width = frames.shape[-2:]
    ratio = short_side / min(height, width)
    if ratio >= 1:
        return frames
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    rows = frames.reshape(-1, *frames.shape[-3:]).split(at_once(FRAMES, frames.device))
    small = [F.interpolate(chunk, size=size, mode="bilinear", antialias=True) for chunk in rows]
    return torch.cat(small).reshape(*frames.shape[:-2], *size)


@torch.no_grad()
def hard_cuts(frames: Tensor) -> Tensor:
    """(B, T-1) of 0.0 and 1.0 from (B, T, 3, H, W): 1.0 where frame t+1 begins another shot. No gradient.

    Pictures are compared by their correlation over pixels and colours, which gain and offset leave alone, at the best
    of the shifts a fast pan could have made. At a cut both frames before differ from both frames after, so that a
    flash of one frame is none; and they differ more than frames do on either side.
    """
    small = shrink(frames.float(), SIZE)
    cuts = small.new_zeros(small.shape[0], small.shape[1] - 1)
    plain = _unlikeness(small[:, :-1].flatten(0, 1), small[:, 1:].flatten(0, 1), reach=0).view_as(cuts)
    clip, t = (plain > SUSPECT).nonzero(as_tuple=True)
    size = at_once(SUSPECTS, small.device)
    for rows in zip(clip.split(size), t.split(size), strict=True):
        cuts[rows] = _are_cuts(small, *rows).to(cuts.dtype)
    return cuts


def _are_cuts(frames: Tensor, clip: Tensor, t: Tensor) -> Tensor:
    """(N,) whether another shot begins between frames t and t+1 of those clips of (B, T, 3, h, w)."""
    near = t[:, None] + torch.arange(-1, 3, device=t.device)  # two frames before, two after
    there = (near >= 0) & (near < frames.shape[1])
    first, second = torch.tensor(ACROSS + WITHIN, device=t.device).T
    pictures = frames[clip[:, None], near.clamp(0, frames.shape[1] - 1)]
    pairs = (pictures[:, side].flatten(0, 1) for side in (first, second))
    found = _unlikeness(*pairs, REACH).view(-1, len(ACROSS + WITHIN))
    seen, count = there[:, first] & there[:, second], len(ACROSS)
    gap = found[:, :count].masked_fill(~seen[:, :count], torch.inf).amin(1)
    usual = found[:, count:].masked_fill(~seen[:, count:], -torch.inf).amax(1)
    return (gap > UNLIKE) & (gap > 3 * usual)


def _unlikeness(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """(N,) one minus the correlation of (N, 3, h, w) pictures at the best shift up to `reach`, borders left out."""
    height, width = first.shape[-2:]
    down, across = min(reach, (height - 1) // 2), min(reach, (width - 1) // 2)
    core = first[..., down:height - down, across:width - across].flatten(1)
    moved = F.unfold(second, (height - 2 * down, width - 2 * across))  # (N, 3 * core, shifts)
    core, moved = core - core.mean(1, keepdim=True), moved - moved.mean(1, keepdim=True)
    blank = CONTRAST**2 * core.shape[1]
    product = torch.einsum("np,nps->ns", core, moved) + blank
    norm = (core.square().sum(1, keepdim=True) + blank) * (moved.square().sum(1) + blank)
    return 1 - (product / norm.sqrt()).amax(1)
