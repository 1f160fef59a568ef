"""Clips of several shapes: buckets of resolution, aspect and length, and the one that a video fits without stretching.

Batches are of one bucket each, as in NovelAI's aspect-ratio bucketing (2022); an image is a clip of one frame.
"""
from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from baselines.model import VideoDiffusion, check_frame_count
from evalkit.clips import ClipSpec
from evalkit.data.items import VideoItem
from evalkit.data.video_types import Deadline, VideoError
from evalkit.errors import UsageError

ASPECTS = (1.0, 4 / 3, 16 / 9)  # long side by short, beside the preset's own; each is there upright, too
NEAR = 0.1  # log of a ratio: an aspect that close to another has no bucket of its own
RESOLUTIONS = (1.0, 0.5)  # of the preset's sides
ENLARGED = math.sqrt(2)  # at most: beyond it the next resolution is nearer
SECONDS = 60.0  # for a look at one video


@dataclass(frozen=True)
class Mixed:
    """Flags of stages that read videos."""

    buckets: bool = False  # batches of one resolution, aspect and length each; without, all are stretched to one shape
    images: str = ""  # with --buckets: captioned images, a table or WebDataset tars; images among the videos count, too
    image_share: float = 0.0  # of steps, with --buckets, that see images; 0: as many as images are among all clips
    places: int = 1  # clips of each video, evenly from its start to its end; 1: its start alone
    mirrored: bool = False  # each clip also mirrored: not where prompts say left or right
    changes: bool = False  # each also changed, as `views.CHANGES` names it, alone or together; its prompt says how

    def check(self, data: str) -> None:
        """UsageError where the flags do not go together, or with the made-up world."""
        if (self.images or self.image_share) and not self.buckets:
            raise UsageError("--images and --image-share: expected --buckets with them: an image has its own shape")
        if self.buckets and data == "world":
            raise UsageError("--buckets: expected --data with videos: clips of the made-up world are all of one shape")
        if data == "world" and (self.places != 1 or self.mirrored or self.changes):
            raise UsageError("--places, --mirrored and --changes: expected --data with videos with them")


@dataclass(frozen=True)
class Bucket:
    """The shape of clips that are trained on together."""

    num_frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Buckets:
    """All shapes for a model: every duration (frames) with every (height, width), by resolution; largest first."""

    durations: tuple[int, ...]
    sizes: tuple[tuple[tuple[int, int], ...], ...]

    def row(self) -> list[Any]:
        """JSON-ready, for keys of caches."""
        return [list(self.durations), [[list(size) for size in same] for same in self.sizes]]

    def of(self, num_frames: int, height: int, width: int) -> Bucket:
        """The longest that a video fills, nearest to its aspect, and as large as it is. VideoError: too short."""
        duration = next((frames for frames in self.durations if frames <= num_frames), None)
        if duration is None:
            raise VideoError(f"too short: {num_frames} frames, and the shortest bucket has {self.durations[-1]}")
        nearest = [min(same, key=lambda size: abs(math.log(height * size[1] / (width * size[0]))))
                   for same in self.sizes]
        size = next((size for size in nearest if max(size[0] / height, size[1] / width) <= ENLARGED), nearest[-1])
        return Bucket(duration, *size)


def buckets_of(model: VideoDiffusion) -> Buckets:
    """About as many pixels as a clip of the model's preset, or a quarter, in sides and lengths that it takes.

    Lengths are the preset's, about half of it, and so on, down to one frame where VAE and patches allow it.
    """
    preset, (time, space) = model.preset, grain(model)
    lengths = [model.latent_shape[1] // time]
    while lengths[-1] > 1:
        lengths.append((lengths[-1] + 1) // 2)
    return Buckets(tuple((length * time - 1) * model.latents.time + 1 for length in lengths),
                   tuple(_sizes(preset.height, preset.width, space, scale) for scale in RESOLUTIONS))


def grain(model: VideoDiffusion) -> tuple[int, int]:
    """How many latent frames, and how many pixels of a side, make a token."""
    time, *sides = model.preset.transformer["patch_size"]
    return time, math.lcm(*sides) * model.latents.space


def clip_bucket(model: VideoDiffusion, frames: Tensor | None = None, latents: Tensor | None = None) -> Bucket:
    """The shape of a clip that is given as frames (T, 3, H, W) or as latents (C, t, h, w)."""
    if latents is None:
        return Bucket(frames.shape[0], *frames.shape[2:])
    time, space = model.latents.time, model.latents.space
    return Bucket((latents.shape[1] - 1) * time + 1, latents.shape[2] * space, latents.shape[3] * space)


def check_bucket(model: VideoDiffusion, bucket: Bucket) -> None:
    """ValueError for a shape that the model's patches or its VAE would not bring back whole."""
    check_frame_count(model.preset, bucket.num_frames)
    side = grain(model)[1]
    if bucket.num_frames < 1 or min(bucket.height, bucket.width) < 1 or bucket.height % side or bucket.width % side:
        raise ValueError(f"expected at least one frame and sides that are multiples of {side}, got "
                         f"{bucket.num_frames} frames of {bucket.height}x{bucket.width}")


def fitting(item: VideoItem, buckets: Buckets, fps: float) -> tuple[ClipSpec, Bucket]:
    """How to read the bucket that a video or image fits, from its start at `fps`: resized to cover it; `cut_middle`
    takes what is too much. VideoError where it cannot be read, or is too short for all.
    """
    num_frames, height, width = measure(item, fps)
    bucket = buckets.of(num_frames, height, width)
    scale = max(bucket.height / height, bucket.width / width)
    covering = max(bucket.height, round(scale * height)), max(bucket.width, round(scale * width))
    return ClipSpec(num_frames=bucket.num_frames, fps=fps if bucket.num_frames > 1 else None, size=covering), bucket


def cut_middle(frames: Tensor, bucket: Bucket) -> Tensor:
    """The middle of (T, 3, H, W), as large as the bucket."""
    top, left = (frames.shape[2] - bucket.height) // 2, (frames.shape[3] - bucket.width) // 2
    return frames[:, :, top: top + bucket.height, left: left + bucket.width].contiguous()


def measure(item: VideoItem, fps: float) -> tuple[int, int, int]:
    """Frames at `fps`, height and width as shown. VideoError where it cannot be read, or more than one frame has no
    rate.
    """
    from evalkit.data.colour import Orientation
    from evalkit.data.frame_sampling import resample
    from evalkit.data.video import open_source

    with open_source(item.source, Deadline(SECONDS), item.fps, "pyav") as opened:
        timeline = opened.timeline
        num_frames = 1 if timeline.count == 1 else len(resample(timeline, fps)[0])
        _, first = next(iter(opened.frames([0])))
        return num_frames, *Orientation.of(first).swap((first.height, first.width))


def step_shares(counts: Sequence[int], images: Sequence[bool], image_share: float) -> list[float]:
    """The share of steps that each group of clips gets: by its clips, or, of all groups of images, `image_share`.

    UsageError where that is not from 0 to less than 1, or there are no images, or nothing else.
    """
    if not 0 <= image_share < 1:
        raise UsageError(f"--image-share: expected a share from 0 to less than 1, got {image_share}")
    total = sum(counts)
    if not image_share:
        return [number / total for number in counts]
    still = sum(number for number, image in zip(counts, images, strict=True) if image)
    if still in (0, total):
        raise UsageError(f"--image-share {image_share}: expected images and videos, found {still} images among {total} "
                         "clips; give --images, or leave the share out")
    return [image_share * number / still if image else (1 - image_share) * number / (total - still)
            for number, image in zip(counts, images, strict=True)]


def schedule(shares: Sequence[float], seed: int) -> Iterator[tuple[int, int]]:
    """For step 0, 1, ...: which group it takes, and how many steps before it took the same one.

    Each group comes at even intervals, from a moment on that the seed draws: never far from its share.
    """
    phases = torch.rand(len(shares), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()

    def moments(group: int) -> Iterator[tuple[float, int, int]]:
        return (((k + phases[group]) / shares[group], group, k) for k in count())

    for _, group, k in heapq.merge(*map(moments, range(len(shares)))):
        yield group, k


def _sizes(height: int, width: int, side: int, scale: float) -> tuple[tuple[int, int], ...]:
    """(height, width) of about the same area, in multiples of `side`, one for each aspect that differs."""
    area, own = height * width * scale**2, max(height, width) / min(height, width)
    found: list[tuple[int, int]] = []  # (short, long)
    for aspect in (own, *ASPECTS):
        if all(abs(math.log(aspect * short / long)) > NEAR for short, long in found):
            short = max(1, round(math.sqrt(area / aspect) / side)) * side
            found.append((short, max(short, round(short * aspect / side) * side)))
    return tuple(dict.fromkeys(size for short, long in found for size in ((short, long), (long, short))))
