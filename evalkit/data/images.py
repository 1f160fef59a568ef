"""Videos that are images: a folder with one file per frame, or an animated WebP (which FFmpeg cannot decode)."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from evalkit.data import exif
from evalkit.data.container import make_timeline, reading
from evalkit.data.video_types import MAX_PIXELS, Deadline, Timeline, VideoError, check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_DECODERS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg", b"RIFF": "webp", b"BM": "bmp"}  # by a file's first bytes


class FrameFolder:
    """A folder's images in natural order (frame_2 before frame_10); other files in it are not looked at."""

    def __init__(self, folder: Path, deadline: Deadline, fps: float | None) -> None:
        self._paths, self._deadline = frame_paths(folder), deadline
        self.timeline = Timeline(len(self._paths), float("nan") if fps is None else fps)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices, each decoded alone."""
        for index in wanted:
            self._deadline.check()
            try:
                yield index, read_image(self._paths[index])
            except VideoError as error:
                raise VideoError(f"{self._paths[index].name}: {error}") from error


class AnimatedWebp:
    """An animated WebP through Pillow, frames composited by it."""

    def __init__(self, path: Path, deadline: Deadline, fps: float | None) -> None:
        self._path, self._deadline = path, deadline
        ends = np.cumsum([duration for _, duration in self._read()])
        times = np.concatenate([[0.0], ends[:-1]])
        nominal = len(ends) / ends[-1] if ends[-1] > 0 else float("nan")
        known = make_timeline(times, nominal) if np.all(np.diff(times) > 0) else Timeline(len(times), nominal)
        self.timeline = known if fps is None else Timeline(len(times), fps)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices; frames before them are decoded on the way."""
        for index, (pixels, _) in enumerate(self._read()):
            if index in wanted:
                yield index, av.VideoFrame.from_ndarray(pixels, format="rgba")
            if index >= wanted[-1]:
                return

    def _read(self) -> Iterator[tuple[np.ndarray, float]]:
        """(H, W, 4) pixels and the seconds for which they are shown."""
        from PIL import Image, ImageSequence

        try:
            with reading(self._path), Image.open(self._path, formats=("WEBP",)) as image:
                check_size(*image.size)
                for frame in ImageSequence.Iterator(image):
                    self._deadline.check()
                    yield np.asarray(frame.convert("RGBA")), frame.info.get("duration", 0) / 1000
        except Image.DecompressionBombError as error:
            raise VideoError(f"corrupt: {error}") from error


class StillImage:
    """An image file as a video of one frame."""

    def __init__(self, path: Path, deadline: Deadline, fps: float | None) -> None:
        self._path, self._deadline = path, deadline
        self.timeline = Timeline(1, float("nan") if fps is None else fps)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(0, the image). Raises VideoError where it is damaged or too large."""
        self._deadline.check()
        yield 0, read_image(self._path)


def is_animated_png(path: Path) -> bool:
    """Whether a PNG file says before its picture that there are several."""
    with path.open("rb") as file:
        head = file.read(2**16)
    return head.startswith(b"\x89PNG") and b"acTL" in head.partition(b"IDAT")[0]


def frame_paths(folder: Path) -> list[Path]:
    """The images of a folder in natural order. Raises VideoError where there is none."""
    with reading(folder):
        paths = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    if not paths:
        raise VideoError(f"no frames in the folder: expected files ending in {', '.join(SUFFIXES)}")
    return sorted(paths, key=natural_key)


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts runs of digits by their value."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], path.name


def read_image(path: Path) -> av.VideoFrame:
    """A still image as a frame, decoded by what its first bytes say it is, and turned as its EXIF data say."""
    with reading(path):
        content = path.read_bytes()
        name = next((name for magic, name in _DECODERS.items() if content.startswith(magic)), None)
        if name is None:
            raise VideoError("corrupt or not an image" if content else "empty file")
        bare = exif.removed(content, name)
        decoder = av.CodecContext.create(name, "r")
        decoder.thread_count, decoder.options = 1, {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        try:
            frames = [*decoder.decode(av.Packet(bare)), *decoder.decode(None)]
        except av.error.InvalidDataError as error:
            raise VideoError(f"corrupt: the image is damaged, or of more than {MAX_PIXELS} pixels") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise VideoError("corrupt: the image is damaged")
    return frames[0] if bare == content else exif.turned(frames[0], content)
