"""What reading a video gives, and the one error it raises."""
from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from av import VideoFrame

MAX_SIDE = 16384  # pixels; beyond this a header is damaged or hostile
MAX_PIXELS = 2**28  # of one frame
MAX_CLIP_BYTES = 2**33  # of all frames that one spec keeps


class VideoError(Exception):
    """A video cannot be read, or is too short for what was asked; the message is one line."""


@dataclass(frozen=True)
class VideoInfo:
    """What the packets and the codec parameters of a file say.

    frames counts packets that give a picture; fps is the mean rate; width and height are of the coded picture, before
    `rotation` (degrees clockwise that a player turns it); duration in seconds, the last frame's included.
    """

    frames: int
    fps: float
    width: int
    height: int
    codec: str
    pixel_format: str
    rotation: int
    variable_rate: bool
    colour_matrix: str  # bt601, bt709, …, or unspecified
    colour_range: str  # limited, full or unspecified
    duration: float


@dataclass(frozen=True)
class Clip:
    """frames (T, 3, H, W) uint8 RGB; fps: of these frames, nan where unknown; first_frame: its index in the video."""

    frames: Tensor
    fps: float
    first_frame: int


@dataclass(frozen=True)
class Timeline:
    """How many frames there are and when each is shown.

    fps is their mean rate, nan where unknown; times (count,) ascending seconds, None where the rate is constant.
    """

    count: int
    fps: float
    times: np.ndarray | None = None


class Source(Protocol):
    """Anything that has frames: a file, a folder of images, an array."""

    timeline: Timeline

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """(index, frame) of the `wanted` indices, which ascend. Raises VideoError where one cannot be had."""


class Deadline:
    """A wall-clock limit for one read."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Raise VideoError when time is up."""
        if time.monotonic() > self._end:
            raise VideoError(f"gave up after {self.seconds:g} s")


def check_size(width: int, height: int) -> None:
    """Raise VideoError for a frame without pixels or of a size that no video has."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise VideoError(f"frame size {width}x{height}: expected 1 to {MAX_SIDE} pixels a side")
