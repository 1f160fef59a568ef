"""The one library of dialled defects: every corruption has five severities and is deterministic by seed.

Severities are nested: one random field is scaled, or one random order of frames is read further, so that a
higher severity contains a lower one. Severity 1 is just visible, 3 plain, 5 severe.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
Kind = Literal["spatial", "colour", "temporal"]


@dataclass(frozen=True)
class Dial:
    """What a corruption is told besides the frames: how much, with which randomness, at which frame rate."""

    severity: int
    rng: np.random.Generator
    fps: float

    def __call__(self, *levels: float) -> float:
        """The entry of five `levels` at this severity."""
        return levels[self.severity - 1]

    def frames(self, seconds: float) -> int:
        """A duration in frames, at least the severity, so that low frame rates keep five distinct steps."""
        return max(self.severity, round(seconds * self.fps))


@dataclass(frozen=True)
class Corruption:
    """A registered defect.

    function(frames, dial) takes uint8 (T, 3, H, W) and returns uint8, or floats on the scale 0..255.
    kind: "spatial" and "colour" treat every frame alike, "temporal" needs at least two frames.
    """

    name: str
    summary: str
    kind: Kind
    function: Callable[[Tensor, Dial], Tensor]


CORRUPTIONS: dict[str, Corruption] = {}


def register_corruption(name: str, kind: Kind) -> Callable[[Callable], Callable]:
    """Function decorator: makes the defect known as `name`; its docstring's first line is the summary."""

    def add(function: Callable[[Tensor, Dial], Tensor]) -> Callable[[Tensor, Dial], Tensor]:
        if name in CORRUPTIONS:
            owner = CORRUPTIONS[name].function.__module__
            raise ValueError(f"corruption {name!r} is registered already, by {owner}")
        summary = (function.__doc__ or name).strip().splitlines()[0]
        CORRUPTIONS[name] = Corruption(name, summary, kind, function)
        return function

    return add


def available_corruptions() -> list[str]:
    """The names of all registered corruptions, sorted."""
    return sorted(CORRUPTIONS)


def corrupt(frames: Tensor, name: str, severity: int, *, seed: int = 0, fps: float | None = None) -> Tensor:
    """uint8 (T, 3, H, W) `frames` with the defect `name` at `severity` 1..5 (0 returns them unchanged).

    Same shape, dtype and device out. `seed` (not negative) fixes all randomness, across severities too; `fps`
    (25 where None) turns defects that last a time into frames. Raises ValueError for unknown names, other
    severities, frames that are not uint8 (T, 3, H, W), and temporal defects of a single frame.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; there are: {', '.join(available_corruptions())}")
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity: expected 0 (unchanged) to 5, got {severity!r}")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
        raise ValueError(f"frames: expected uint8 (T, 3, H, W), got {frames.dtype} {tuple(frames.shape)}")
    if CORRUPTIONS[name].kind == "temporal" and len(frames) < 2:
        raise ValueError(f"{name}: expected at least 2 frames, got 1")
    if severity == 0:
        return frames.clone()
    rng = np.random.Generator(np.random.PCG64([seed, crc32(name.encode())]))
    result = CORRUPTIONS[name].function(frames, Dial(severity, rng, fps or 25.0))
    if result.dtype != torch.uint8:
        result = result.clamp(0, 255).round_().to(torch.uint8)
    return result


# The defects register themselves; last, because they import the decorator from here.
from evalkit.data import spatial_defects, temporal_defects  # noqa: E402, F401
