"""Videos as tiny playing thumbnails: a few seconds of H.264 in a data URI, the same bytes on every run."""
from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FRAMES, FPS, SHORT_SIDE = 24, 8.0, 128  # three seconds; pixels
QUALITY = 31  # x264's constant rate factor: about 5 to 25 kB a thumbnail
DEADLINE_S = 10.0  # a video that takes longer to read goes without


def make_thumbnails(uses: Mapping[str, int], budget: int) -> dict[str, str]:
    """Path -> data URI, in the order given while `budget` bytes last; `uses` says how often the page shows each path.

    A video that cannot be read any more has none.
    """
    found: dict[str, str] = {}
    for path, count in uses.items():
        uri = make_thumbnail(path)
        if uri is not None and len(uri) * count <= budget:
            found[path] = uri
            budget -= len(uri) * count
    return found


def make_thumbnail(path: str) -> str | None:
    """The first seconds of a video as a "data:video/mp4" URI; None where they cannot be read."""
    from evalkit.clips import ClipSpec
    from evalkit.data.video import VideoError, read_clips

    timed = ClipSpec(max_frames=FRAMES, min_frames=1, fps=FPS, size=SHORT_SIDE)
    untimed = ClipSpec(max_frames=FRAMES, min_frames=1, size=SHORT_SIDE)  # folders and arrays carry no rate
    try:
        clips = read_clips(path, [timed, untimed], deadline_s=DEADLINE_S)
    except VideoError:
        return None
    readable = [clips[spec] for spec in (timed, untimed) if not isinstance(clips[spec], VideoError)]
    if not readable:
        return None
    return video_uri(readable[0][0].frames, FPS)


def video_uri(frames: Tensor, fps: float) -> str:
    """uint8 (T, 3, H, W) as a "data:video/mp4" URI; an odd side loses a pixel."""
    from evalkit.data.video import write_video

    height, width = (max(2, side - side % 2) for side in frames.shape[2:])  # players want 4:2:0, which wants even sides
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "thumbnail.mp4"
        write_video(file, frames[:, :, :height, :width], fps, crf=QUALITY)
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()
