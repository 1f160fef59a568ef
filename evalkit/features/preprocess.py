"""Resizing and normalisation as the papers' own code does them, differentiable, on (N, 3, H, W) in [0, 1]."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def resize_short_side(images: Tensor, size: int, mode: str = "bicubic", antialias: bool = True) -> Tensor:
    """The short side becomes `size`, the long one the integer part of its share; values stay in [0, 1]."""
    height, width = images.shape[-2:]
    short = min(height, width)
    target = (int(size * height / short), int(size * width / short))
    return resize(images, target, mode, antialias)


def resize(images: Tensor, size: tuple[int, int], mode: str = "bilinear", antialias: bool = False) -> Tensor:
    """Exactly (H, W), aspect not kept; half-pixel grid; bicubic overshoot is cut as it is on 8-bit images.

    The gradient passes the cut unchanged: torch's own is 0 at exactly 0 and 1, which would leave black frames without.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    out = F.interpolate(images, size=size, mode=mode, align_corners=False, antialias=antialias)
    return out + (out.clamp(0, 1) - out).detach() if mode == "bicubic" else out


def to_square(frames: Tensor, size: int) -> Tensor:
    """(..., 3, H, W) at `size` squared, aspect not kept: by areas where both sides shrink, bilinear otherwise."""
    if tuple(frames.shape[-2:]) == (size, size):
        return frames
    mode = {"mode": "area"} if min(frames.shape[-2:]) >= size else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(frames.flatten(0, -4), (size, size), **mode).unflatten(0, frames.shape[:-3])


def center_crop(images: Tensor, size: int) -> Tensor:
    """The central `size` x `size` pixels."""
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top: top + size, left: left + size]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel; the channel is the third axis from the end."""
    centre, scale = (torch.tensor(v, dtype=images.dtype, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images - centre) / scale


def per_frame(clips: Tensor, function) -> Tensor:
    """Apply an image function to (B, T, 3, H, W) clips."""
    return function(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
