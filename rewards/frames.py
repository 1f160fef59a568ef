"""Views of frames that rewards share: luma, smaller pictures, a fixed subset of frames, a random one for training."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # BT.601


def to_luma(frames: Tensor) -> Tensor:
    """(..., H, W) float32 luma of (..., 3, H, W)."""
    red, green, blue = frames.float().unbind(-3)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def pooled(frames: Tensor, short_side: int) -> Tensor:
    """(B, T, C, H, W) float32, averaged over whole squares of pixels so that the short side is about `short_side`."""
    square = max(1, round(min(frames.shape[-2:]) / short_side))
    rows = frames.float().flatten(0, 1)
    return (F.avg_pool2d(rows, square) if square > 1 else rows).unflatten(0, frames.shape[:2])


def evenly_spaced(frames: Tensor, count: int) -> Tensor:
    """At most `count` of (B, T, ...) frames, spread over the clip, first and last included."""
    length = frames.shape[1]
    if length <= count:
        return frames
    return frames[:, [round(k * (length - 1) / (count - 1)) for k in range(count)]]


def stratified_triples(frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(B, count, 3, ...): adjacent frames of (B, T, ...), one random triple from each of `count` equal parts, in order.

    For training, where the gradient of all frames costs too much: every triple of a clip is equally likely, so that
    averages over triples are unbiased. `.flatten(0, 1)` makes each a clip of its own, as rewards of motion need them:
    put one behind the other they would jump. Drawn on the device of `generator`, for each clip anew; fewer where the
    clip has fewer than `count`. ValueError for a clip of less than three frames.
    """
    starts = frames.shape[1] - 2
    if starts < 1 or count < 1:
        raise ValueError(f"expected at least 3 frames and 1 triple, got {frames.shape[1]} and {count}")
    count = min(count, starts)
    drawn = torch.rand(len(frames), count, generator=generator, device=generator.device)
    first = ((torch.arange(count, device=drawn.device) + drawn) * (starts / count)).long().clamp_max(starts - 1)
    which = (first[..., None] + torch.arange(3, device=drawn.device)).to(frames.device)
    return frames[torch.arange(len(frames), device=frames.device)[:, None, None], which]
