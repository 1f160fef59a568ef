"""Frames of videos as a model is trained on them: at its size and rate, every view of a video from one decoding."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.buckets import Buckets, cut_middle, fitting
from baselines.presets import Preset
from baselines.views import view_of
from evalkit.clips import ClipSpec
from evalkit.data.items import VideoItem
from evalkit.data.video_types import VideoError
from evalkit.features.weights import sha256_of

DEADLINE, WHOLE_VIDEO = 60.0, 600.0  # seconds that reading a clip from the start, or from all of a video, may take


def of_one_video(items: Sequence[VideoItem]) -> list[range]:
    """Rows of items that follow each other and are views of one video."""
    starts = [k for k, item in enumerate(items) if not k or item.source is not items[k - 1].source]
    return [range(start, stop) for start, stop in pairwise([*starts, len(items)])]


def read_frames(item: VideoItem, preset: Preset) -> Tensor:
    """uint8 (T, 3, H, W) of the preset's size and rate, from the start, or as the item is viewed; see `read_views`."""
    return read_views([item], preset)[0]


def read_exact(items: Sequence[VideoItem], preset: Preset) -> list[Tensor | None] | None:
    """What `read_views` gives, of a .npy file of exactly the preset's shape, without PyAV; None for any other."""
    if not str(items[0].source).endswith(".npy"):
        return None
    try:
        found = np.load(items[0].source, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError, OSError):
        return None  # whoever reads it as a video says what is wrong
    shape = (preset.num_frames, preset.height, preset.width, 3)
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape != shape:
        return None
    frames = torch.from_numpy(np.array(found.transpose(0, 3, 1, 2), order="C"))  # in numpy: torch would take all cores
    views = [view_of(item) for item in items]
    content = content_of(items[0]) if any(view.change for view in views) else ""
    return [None if view.place else view.of(frames, content) for view in views]


def read_views(items: Sequence[VideoItem], preset: Preset, buckets: Buckets | None = None) -> list[Tensor | None]:
    """uint8 (T, 3, H, W) of each view of one video: of the preset's size and rate, or of the bucket that it fits.

    None for a view that shows what another does: a later place of a video that has no room for it, or a picture
    backwards. It is decoded once. ValueError or VideoError where it cannot be.
    """
    if not items:
        return []
    exact = read_exact(items, preset) if buckets is None else None
    if exact is not None:
        return exact
    first, views = items[0], [view_of(item) for item in items]
    content = content_of(first) if any(view.change for view in views) else ""
    from evalkit.data.video import read_clips  # needs PyAV

    bucket = None
    if buckets is None:
        spec = ClipSpec(num_frames=preset.num_frames, min_frames=preset.num_frames, fps=preset.fps,
                        size=(preset.height, preset.width))
    else:
        spec, bucket = fitting(first, buckets, preset.fps)
    specs = [view.within(spec) for view in views]
    whole = any(view.places > 1 for view in views)
    found = read_clips(first.source, list(dict.fromkeys(specs)), fps=first.fps,
                       deadline_s=WHOLE_VIDEO if whole else DEADLINE)
    seen: list[Tensor | None] = []
    for view, one in zip(views, specs, strict=True):
        clips = found[one]
        if isinstance(clips, VideoError):
            raise clips
        frames = clips[view.place].frames
        if (view.place and torch.equal(frames, clips[view.place - 1].frames)) or (
                view.change == "backwards" and len(frames) == 1):
            seen.append(None)
        else:
            seen.append(view.of(frames if bucket is None else cut_middle(frames, bucket), content))
    return seen


def content_of(item: VideoItem) -> str:
    """sha256 of a file, or of a folder of frames."""
    path = Path(item.source)
    if path.is_file():
        return sha256_of(path)
    from evalkit.data.video import content_hash

    return content_hash(item.source)
