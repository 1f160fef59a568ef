"""Which frames of a video a `ClipSpec` reads: arithmetic on indices and timestamps, no pixels."""
from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from evalkit.clips import ClipSpec
from evalkit.data.video_types import Timeline, VideoError

MAX_FRAMES = 10_000_000  # of a resampled video: damaged timestamps can claim centuries
TIE = 1e-6  # seconds; targets halfway between two frames take the earlier one, whatever the rounding


@dataclass(frozen=True)
class Pick:
    """One clip: the indices of its frames in the video, ascending, and their rate (nan where unknown)."""

    indices: np.ndarray  # (T,) int
    fps: float


def pick_frames(timeline: Timeline, spec: ClipSpec, random: Random) -> list[Pick]:
    """The clips that `spec` reads, at least one.

    A video of variable rate is resampled to its mean rate first, so that frames are evenly spaced in time.
    `clips_per_video` = k gives k windows one after the other ("start", "center": as many as fit), k independent draws
    ("random"), k interleaved sets ("uniform", which takes the middles of num_frames equal parts), or k windows from
    the first frames to the last, which may overlap, or be the same ones ("spread").
    Raises VideoError where the video is too short or, with `spec.fps`, has no known rate.
    """
    sequence, fps = resample(timeline, spec.fps)
    stride = 1 if spec.placement == "uniform" else spec.stride
    available = (len(sequence) - 1) // stride + 1
    needed = spec.min_frames if spec.num_frames is None else spec.num_frames
    if available < needed:
        how = "" if available == timeline.count else f" ({timeline.count} before resampling)"
        raise VideoError(f"too short: {available} frames{how}, needs {needed}")
    length = spec.num_frames or min(spec.max_frames, available)
    if spec.placement == "uniform":
        return _spread(sequence, length, spec.clips_per_video or 1, fps)
    offsets = _offsets(spec, len(sequence), (length - 1) * stride + 1, length * stride, random)
    return [Pick(sequence[at : at + length * stride : stride][:length], fps / stride) for at in offsets]


def resample(timeline: Timeline, fps: float | None) -> tuple[np.ndarray, float]:
    """Indices of the frames nearest to the times 0, 1/fps, 2/fps …, and that rate; fps None: the video's mean rate."""
    if fps is None and timeline.times is None:
        return np.arange(timeline.count), timeline.fps
    if not timeline.fps > 0:
        raise VideoError(f"no frame rate to resample to {fps:g} fps from: give one with the video")
    rate = fps or timeline.fps
    if timeline.count * rate / timeline.fps > MAX_FRAMES:
        raise VideoError(f"lasts {timeline.count / timeline.fps:.3g} s by its timestamps: too long to resample")
    count = max(1, int(timeline.count * rate / timeline.fps + TIE))
    times = np.arange(timeline.count) / timeline.fps if timeline.times is None else timeline.times
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, np.arange(count) / rate - TIE), rate


def _spread(sequence: np.ndarray, length: int, clips: int, fps: float) -> list[Pick]:
    places = (np.arange(length * clips) + 0.5) * len(sequence) / (length * clips)
    every = sequence[places.astype(int)]
    return [Pick(every[clip::clips], fps * length / len(sequence)) for clip in range(clips)]


def _offsets(spec: ClipSpec, total: int, span: int, step: int, random: Random) -> list[int]:
    """Where windows of `span` frames start; neighbours are `step` apart."""
    fitting = (total - span) // step + 1
    if spec.placement == "random" and spec.clips_per_video is not None:
        return sorted(random.randrange(total - span + 1) for _ in range(spec.clips_per_video))
    if spec.placement == "spread":
        return np.linspace(0, total - span, spec.clips_per_video).round().astype(int).tolist()
    count = min(fitting, spec.clips_per_video or fitting)
    room = total - span - (count - 1) * step
    first = {"start": 0, "center": room // 2, "random": random.randrange(room + 1)}[spec.placement]
    return [first + clip * step for clip in range(count)]
