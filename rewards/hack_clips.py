"""Which clips tune a reward and which judge it, fixed before any constant was tuned, and the reading of both.

The split: world seeds below 10^6 and UCF-101 groups 8-25 tune. UCF-101 groups 1-7, WebVid, every other footage and the
world's seeds from 10^6 on judge. Groups of UCF-101 share actor and scene, so that no scene is on both sides.
"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.data.datasets import VideoItem, find_videos
from evalkit.data.scene import FPS, SPLITS
from evalkit.data.video import VideoError, read_clips
from evalkit.workers import map_in_processes

Part = Literal["tune", "judge"]
Progress = Callable[[str, int, int], None]
PARTS = ("tune", "judge")
FIRST_JUDGING_SEED = SPLITS["test"]  # 10^6
LAST_JUDGING_GROUP = 7  # of UCF-101's 25
# Speed of the fastest 5 %, in % of the short side a second, below which footage has no motion to spoil: VBench's
# threshold of motion, 6 pixels of 256 per eighth of a second. Clips below are left out, for a clip that stands still
# hardly differs from its hacked twins.
LEAST_MOTION = 100 * 6 / 256 * 8
STRETCH = 32  # frames of a clip, about 1.3 s at 25 fps; a video gives up to three, one after the other
SPEC = ClipSpec(max_frames=3 * STRETCH, min_frames=12, size=128, placement="center")
_UCF = re.compile(r"v_\w+_g(\d+)_c(\d+)")


@dataclass(frozen=True)
class CleanClip:
    """frames uint8 (T, 3, H, W), before any hack; `scene` is shared by clips that are not independent."""

    name: str
    frames: Tensor
    fps: float
    prompt: str | None
    scene: str
    motion: float | None = None  # dynamic degree in % of the short side a second; None: not measured


def part_of_seed(seed: int) -> Part:
    """The side of the split that a world seed is on."""
    return "judge" if seed >= FIRST_JUDGING_SEED else "tune"


def part_of_item(item: VideoItem) -> Part:
    """The side of the split that a video is on: by its UCF-101 group, and "judge" for any other footage."""
    found = _UCF.fullmatch(Path(item.name).stem)
    return "tune" if found and int(found[1]) > LAST_JUDGING_GROUP else "judge"


def world_clips(n: int, part: Part = "judge", seed: int = 0, workers: int = 1) -> list[CleanClip]:
    """`n` clips of the world (16 frames, 8 fps, 64 pixels) with their captions; another `seed`, other clips.

    ValueError for an unknown part, and where `seed` x `n` leaves the tuning seeds.
    """
    _check_part(part)
    first = seed * n + (FIRST_JUDGING_SEED if part == "judge" else 0)
    if n < 1 or seed < 0 or part_of_seed(first + n - 1) != part:
        raise ValueError(f"expected n of at least 1 and seeds of the {part} part, got n {n} and seed {seed}")
    seeds = range(first, first + n)
    return list(map_in_processes(_render, seeds, workers, _render))


def _render(seed: int) -> CleanClip:
    from evalkit.data.captions import caption
    from evalkit.data.scene import make_scene
    from evalkit.data.synthetic import render_scene
    from evalkit.memory import keep_freed_memory

    keep_freed_memory()
    scene = make_scene(seed)
    return CleanClip(f"world/{seed}", render_scene(scene), FPS, caption(scene), f"world/{seed}")


def real_videos(where: Sequence[str | Path], part: Part = "judge") -> list[VideoItem]:
    """The videos of one part, first one clip of every scene, then the second ones: a prefix has the most scenes.

    where: spelt as `evalkit.data.datasets.find_videos` has it. ValueError where there is no video at all; the list may
    be empty for one part.
    """
    _check_part(part)
    found = [item for place in where for item in find_videos(str(place))]
    mine = [item for item in found if part_of_item(item) == part]
    turn: Counter[str] = Counter()
    order = []
    for item in mine:
        order.append((turn[_scene(item)], len(order)))
        turn[_scene(item)] += 1
    return [mine[index] for _, index in sorted(order)]


def _scene(item: VideoItem) -> str:
    """Clips of one UCF-101 group are cut from one video."""
    return re.sub(r"_c\d+$", "", item.name.rsplit(".", 1)[0]) if _UCF.fullmatch(Path(item.name).stem) else item.name


def real_clips(where: Sequence[str | Path], n: int, part: Part = "judge", workers: int = 1,
               progress: Progress = lambda *_: None) -> tuple[list[CleanClip], dict[str, int]]:
    """Up to `n` clips of one part that move at least by LEAST_MOTION, and how many before them were left out, why.

    Raises ValueError as `real_videos` does.
    """
    videos = real_videos(where, part)
    clips: list[CleanClip] = []
    left_out: Counter[str] = Counter()
    for done, found in enumerate(map_in_processes(_read, videos, workers, lambda _: ["crashed the decoder"]), 1):
        for one in found:
            if isinstance(one, str):
                left_out[one] += 1
            elif len(clips) < n:  # as arrays between processes: every tensor would hold a file open
                clips.append(CleanClip(one[0], torch.from_numpy(one[1]), *one[2:]))
        progress("reading real clips", len(clips) if len(videos) > n else done, min(n, len(videos)))
        if len(clips) == n:
            break
    return clips, dict(left_out)


def _read(item: VideoItem) -> list[tuple | str]:
    """Of every stretch of the video the fields of a CleanClip, or why there is none."""
    try:
        found = read_clips(item.source, [SPEC], fps=item.fps)[SPEC]
    except VideoError:
        return ["cannot be read"]
    if isinstance(found, VideoError):
        return [f"shorter than {SPEC.min_frames} frames"]
    clip = found[0]
    if not math.isfinite(clip.fps):
        return ["no frame rate"]
    parts = [part for part in clip.frames.split(STRETCH) if len(part) in (STRETCH, len(clip.frames))]
    return [_checked(item, part, clip.fps, f"#{k}" if k else "") for k, part in enumerate(parts)]


def _checked(item: VideoItem, frames: Tensor, fps: float, which: str) -> tuple | str:
    motion = dynamic_degree(frames, fps)
    if motion < LEAST_MOTION:
        return "below the dynamic-degree floor"
    return item.name + which, frames.numpy(), fps, item.prompt, _scene(item), motion


def dynamic_degree(frames: Tensor, fps: float) -> float:
    """The metric of that name of uint8 (T, 3, H, W), in % of the short side a second."""
    from evalkit.features.base import extract
    from evalkit.metrics.base import make_metric

    metric = make_metric("dynamic_degree")
    found = read_clips(frames, [metric.spec], fps=fps)[metric.spec]
    if isinstance(found, VideoError):
        raise found
    pixels = found[0].frames[None].float() / 255
    features = {one.key: extract(one, pixels) for one in metric.extractors()}
    with torch.no_grad():
        return metric.measure(ClipBatch(pixels, fps=torch.tensor([found[0].fps]), features=features), None).value.item()


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"part: expected one of {', '.join(PARTS)}, got {part!r}")
