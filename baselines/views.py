"""Views of a video to train on: clips at several places of it, mirrored, or changed in ways that their prompts tell.

A sample of a bare prompt is then as unchanged clips are: augmentation that does not leak (Karras et al., 2022). The
words stay where a prompt is left out for guidance. Changes come alone and together: `benchmarks/augmentation.py` tells
what each way is worth on clips that were not trained on.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.data.items import VideoItem
from evalkit.errors import UsageError

CHANGES = ("enlarged", "tilted", "backwards", "recoloured")  # words that a prompt gains
COMBINATIONS = [" ".join(some) for some in chain.from_iterable(combinations(CHANGES, k + 1) for k in range(4))]
CHANGED = 3  # changed views of a clip
ENLARGED = (1.1, 1.4)  # times
TILTED = 12.0  # degrees, either way
GAINS = (0.7, 1.3)  # of a colour


@dataclass(frozen=True)
class View:
    """Which clip of its video, and what is done to it."""

    place: int = 0  # of `places`, evenly from the video's start to its end
    places: int = 1  # 1: its start alone
    mirrored: bool = False
    change: str = ""  # one of COMBINATIONS

    def row(self) -> dict[str, Any]:
        """JSON-ready, for keys of caches; another version where `changed` does something else."""
        return asdict(self) | {"version": 2 if self.change else 1}

    def within(self, spec: ClipSpec) -> ClipSpec:
        """The spec that reads all places, of which this is one."""
        return spec if self.places == 1 else replace(spec, placement="spread", clips_per_video=self.places)

    def of(self, frames: Tensor, content: str) -> Tensor:
        """uint8 (T, 3, H, W) as they are seen; what is drawn at random depends on `content` and the view alone."""
        if self.mirrored:
            frames = frames.flip(-1)
        seed = hashlib.sha256(f"{content} {self.row()}".encode()).digest()
        return changed(frames, self.change, np.random.default_rng(list(seed))).contiguous()


@dataclass(frozen=True)
class ViewedItem(VideoItem):
    """A video seen in another way than from its start, unchanged."""

    view: View = View()
    video: str = ""  # its name


def view_of(item: VideoItem) -> View:
    return item.view if isinstance(item, ViewedItem) else View()


def video_of(item: VideoItem) -> str:
    """The name of the video that is viewed."""
    return item.video if isinstance(item, ViewedItem) else item.name


def all_views(places: int, mirrored: bool, changes: Sequence[str] = (), start: int = 0) -> list[View]:
    """Every place, as it is and mirrored, and each of these clips unchanged and in CHANGED of `changes`.

    These go round, and each clip takes the next ones, the first clip those of turn `start`. UsageError for no place.
    """
    if places < 1:
        raise UsageError(f"--places: expected at least 1, got {places}")
    clips = [View(place, places, flipped) for place in range(places)
             for flipped in ((False, True) if mirrored else (False,))]
    return [replace(clip, change=change) for turn, clip in enumerate(clips, start)
            for change in ("", *_next(changes, turn))]


def _next(changes: Sequence[str], turn: int) -> list[str]:
    return [changes[(turn * CHANGED + k) % len(changes)] for k in range(CHANGED)] if changes else []


def viewed(items: Sequence[VideoItem], places: int, mirrored: bool, changes: Sequence[str] = ()) -> Iterator[VideoItem]:
    """Each video in all its views, one after the other; prompts say what was changed. UsageError for no place."""
    for item in items:
        start = hashlib.sha256(item.name.encode()).digest()[0]  # its own: others may come and go
        for k, view in enumerate(all_views(places, mirrored, changes, start)):
            if view == View():
                yield item
                continue
            known = {field.name: getattr(item, field.name) for field in fields(item)}
            prompt = f"{item.prompt} {view.change}".strip()
            yield ViewedItem(**known | {"name": f"{item.name}#{k}", "prompt": prompt}, view=view, video=item.name)


def changed(frames: Tensor, change: str, random: np.random.Generator) -> Tensor:
    """uint8 (T, 3, H, W), changed in all ways that the words of `change` say. ValueError for another word."""
    words = change.split()
    unknown = set(words) - set(CHANGES)
    if unknown:
        raise ValueError(f"expected changes of {', '.join(CHANGES)}, got {', '.join(sorted(unknown))}")
    if "backwards" in words:
        frames = frames.flip(0)
    if "enlarged" in words or "tilted" in words:
        times = random.uniform(*ENLARGED) if "enlarged" in words else 1.0
        angle = math.radians(random.uniform(-TILTED, TILTED)) if "tilted" in words else 0.0
        frames = turned(frames.float(), times, angle, random.uniform(-1, 1, 2))
    if "recoloured" in words:
        frames = frames * torch.from_numpy(random.uniform(*GAINS, 3)).float()[:, None, None]
    return frames if frames.dtype == torch.uint8 else frames.round().clamp(0, 255).byte()


def turned(frames: Tensor, times: float, angle: float, place: np.ndarray) -> Tensor:
    """Float (T, 3, H, W) turned by `angle` (radians), and enlarged `times` and as much as it takes to hide no corner.

    `place` (x, y), from -1 to 1, says where in the room that this leaves.
    """
    height, width = frames.shape[-2:]
    cos, sin = math.cos(angle), abs(math.sin(angle))
    wide, tall = cos + sin * height / width, cos + sin * width / height  # of what is seen, in sides of the picture
    scale = 1 / (times * max(wide, tall))
    right, down = place * (1 - scale * np.array([wide, tall]))
    turn = math.sin(angle)
    matrix = [[scale * cos, -scale * turn * height / width, right], [scale * turn * width / height, scale * cos, down]]
    grid = F.affine_grid(torch.tensor([matrix], dtype=torch.float32), [1, 1, height, width], align_corners=False)
    moved = F.grid_sample(frames.flatten(0, 1)[None], grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved[0].unflatten(0, frames.shape[:2])
