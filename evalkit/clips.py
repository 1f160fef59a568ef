"""The one tensor convention, checked once: `(B, T, C, H, W)` float in [0, 1]; and which frames a score reads."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipSpec:
    """Which frames of a video a score reads, and at what size: part of its protocol.

    placement: "start" takes consecutive frames from the beginning, "center" from the middle, "random" from a
    start drawn from the seed and the video's content; "uniform" spreads `num_frames` over the whole video; "spread"
    takes `clips_per_video` windows whose starts are evenly apart, from its first frames to its last.
    """

    num_frames: int | None = None  # exactly this many (too short is an error); None: the window, up to max_frames
    max_frames: int = 128  # the window's length where num_frames is None
    min_frames: int = 2  # fewer is an error
    placement: Literal["start", "center", "random", "uniform", "spread"] = "start"
    stride: int = 1  # take every n-th frame (ignored by "uniform")
    fps: float | None = None  # resample by timestamp to this rate first; None: the video's own rate
    clips_per_video: int | None = 1  # None: every non-overlapping clip
    size: int | tuple[int, int] | None = 256  # int: short side at most this, aspect kept; (H, W): exactly; None: native
    crop: int | None = None  # then the central square, at most this wide, offset a multiple of 2
    interpolation: Literal["area", "bicubic", "bilinear"] = "area"

    def __post_init__(self) -> None:
        if self.placement == "uniform" and self.num_frames is None:
            raise ValueError('ClipSpec: placement "uniform" needs num_frames')
        if self.placement == "spread" and (self.clips_per_video or 0) < 2:
            raise ValueError('ClipSpec: placement "spread" needs at least 2 clips_per_video')
        smallest = min(self.min_frames, self.max_frames, self.stride, self.num_frames or 1)
        if smallest < 1:
            raise ValueError(f"ClipSpec: expected counts of at least 1, got {smallest}")

    def protocol(self) -> dict[str, Any]:
        """The fields as JSON-ready values, for the protocol id."""
        return asdict(self) | {"size": list(self.size) if isinstance(self.size, tuple) else self.size}


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal length and size with what is known about them.

    frames (B, T, 3, H, W) float in [0, 1]; prompts one per clip; fps (B,) float; index (B,) int, the position of each
    clip's video in the data set; features: extractor key -> what that extractor returned for these frames; checked:
    whoever made the frames vouches for them (uint8 divided by 255), and they are not read once more to see.
    Raises ValueError naming what was expected and what came.
    """

    frames: Tensor
    prompts: Sequence[str] | None = None
    fps: Tensor | None = None
    index: Tensor | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = False

    def __post_init__(self) -> None:
        if not self.checked:
            check_frames(self.frames)
        batch = self.frames.shape[0]
        if isinstance(self.prompts, str):
            raise ValueError("prompts: expected a list with one string per clip, got one string")
        for name in ("prompts", "fps", "index"):
            value = getattr(self, name)
            if value is not None and len(value) != batch:
                raise ValueError(f"{name}: expected one per clip ({batch}), got {len(value)}")

    def __len__(self) -> int:
        return self.frames.shape[0]


def check_frames(frames: Tensor) -> Tensor:
    """Return `frames` if it is (B, T, 3, H, W) floating point, finite and in [0, 1]; raise ValueError otherwise."""
    if not isinstance(frames, Tensor) or frames.ndim != 5 or frames.shape[2] != 3:
        got = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"frames: expected (B, T, 3, H, W), got {got}")
    if not frames.is_floating_point():
        raise ValueError(f"frames: expected float in [0, 1], got {frames.dtype}; divide uint8 by 255")
    if frames.numel() == 0:
        raise ValueError(f"frames: expected at least one frame and pixel, got {tuple(frames.shape)}")
    low, high = (x.item() for x in torch.aminmax(frames.detach()))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
        raise ValueError(f"frames: expected finite values in [0, 1], got a range of [{low:.4g}, {high:.4g}]")
    return frames
