"""Views of a video to train on: clips at several places of it, mirrored, or changed in ways that their prompts tell.

A sample of a bare prompt is then as unchanged clips are: augmentation that does not leak (Karras et al., 2022). The
word stays where a prompt is left out for guidance.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.data.items import VideoItem
from evalkit.errors import UsageError

CHANGES = ("enlarged", "backwards", "recoloured")  # words that a prompt gains
ENLARGED = (1.1, 1.4)  # times
GAINS = (0.7, 1.3)  # of a colour


@dataclass(frozen=True)
class View:
    """Which clip of its video, and what is done to it."""

    place: int = 0  # of `places`, evenly from the video's start to its end
    places: int = 1  # 1: its start alone
    mirrored: bool = False
    change: str = ""  # one of CHANGES

    def row(self) -> dict[str, Any]:
        """JSON-ready, for keys of caches; another version where `changed` does something else."""
        return asdict(self) | {"version": 1}

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


def all_views(places: int, mirrored: bool, changes: bool) -> list[View]:
    """Every place, as it is and mirrored, unchanged and in every change. UsageError for no place."""
    if places < 1:
        raise UsageError(f"--places: expected at least 1, got {places}")
    return [View(place, places, flipped, change) for change in (("", *CHANGES) if changes else ("",))
            for place in range(places) for flipped in ((False, True) if mirrored else (False,))]


def viewed(items: Sequence[VideoItem], views: Sequence[View]) -> Iterator[VideoItem]:
    """Each video in every view, one after the other; prompts say what was changed."""
    for item in items:
        for k, view in enumerate(views):
            if view == View():
                yield item
                continue
            known = {field.name: getattr(item, field.name) for field in fields(item)}
            prompt = f"{item.prompt} {view.change}".strip()
            yield ViewedItem(**known | {"name": f"{item.name}#{k}", "prompt": prompt}, view=view, video=item.name)


def changed(frames: Tensor, change: str, random: np.random.Generator) -> Tensor:
    """uint8 (T, 3, H, W) enlarged, backwards in time, or with other gains of its colours. ValueError otherwise."""
    if not change:
        return frames
    if change == "backwards":
        return frames.flip(0)
    if change == "recoloured":
        gains = torch.from_numpy(random.uniform(*GAINS, 3)).float()[:, None, None]
        return (frames * gains).round().clamp(0, 255).byte()
    if change != "enlarged":
        raise ValueError(f"expected a change of {', '.join(CHANGES)}, got {change!r}")
    height, width = frames.shape[-2:]
    times = random.uniform(*ENLARGED)
    rows, columns = round(height / times), round(width / times)
    top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
    part = frames[..., top: top + rows, left: left + columns].float()
    return F.interpolate(part, (height, width), mode="bicubic").round().clamp(0, 255).byte()
