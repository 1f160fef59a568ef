"""Views of frames that weight-free rewards share: luma, smaller pictures, a fixed subset of frames."""
from __future__ import annotations

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
