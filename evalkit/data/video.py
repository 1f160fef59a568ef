"""The way in for pixels: a file, a folder of frames or an array becomes uint8 clips, decoded once for all protocols."""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.data import arrays, images
from evalkit.data.colour import FrameConverter
from evalkit.data.container import VideoFile, check_file, reading
from evalkit.data.frame_sampling import Pick, pick_frames
from evalkit.data.items import is_animated_webp
from evalkit.data.torchcodec import TorchCodecFrames, why_not
from evalkit.data.video_types import MAX_CLIP_BYTES, Clip, Deadline, Source, VideoError, VideoInfo
from evalkit.data.video_writer import write_video

__all__ = ["Clip", "VideoError", "VideoInfo", "content_hash", "decoder_version", "probe", "read_clips", "read_video",
           "usable_decoder", "write_video"]

DECODERS = ("pyav", "torchcodec", "auto")
VERSION = 1  # raise when decoding, colour conversion or resizing changes a pixel
EVERYTHING = ClipSpec(num_frames=None, max_frames=10**6, min_frames=1, size=None)
VideoLike = str | Path | Tensor | np.ndarray


def decoder_version(decoder: str) -> str:
    """The decoder as protocols and the cache's keys name it."""
    return f"{decoder}/{VERSION}"


def usable_decoder(decoder: str) -> str:
    """"pyav" or "torchcodec", which "auto" stands for on this machine; ValueError where it does not work here."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    if decoder == "torchcodec" and why_not():
        raise ValueError(f'decoder "torchcodec" does not work here ({why_not()}); use "pyav"')
    return decoder if decoder != "auto" else "pyav" if why_not() else "torchcodec"


def probe(path: str | Path) -> VideoInfo:
    """What a video file holds, from its packets (what a header says of length and rate is often wrong).

    Decodes one frame at most. Raises VideoError where the file cannot be read or is truncated.
    """
    with VideoFile(Path(path), Deadline(60)) as file:
        return file.info()


def read_clips(source: VideoLike, specs: Sequence[ClipSpec], *, fps: float | None = None, seed: int = 0,
               decoder: str = "pyav", deadline_s: float = 60.0) -> dict[ClipSpec, list[Clip] | VideoError]:
    """The clips that each spec reads from a video, all from one pass of the decoder.

    source: a video file, a folder of images, a JPEG, a .npy, .npz or .pt file, or an array ((T, H, W, 3) or
    (T, 3, H, W), uint8 or floating point in [0, 1]). fps: replaces the rate and the timestamps of the source; images
    and arrays have none of their own, and without it their clips have fps nan. seed: with the content, decides where
    "random" clips start. decoder: "pyav", "torchcodec" or "auto" (TorchCodec where it works). deadline_s: wall-clock
    limit.

    A spec that cannot be served (too short) maps to its VideoError. Raises VideoError where the source as a whole
    cannot be read: missing, not a video, no frames, shorter than it announces (wherever the end is missing), or
    damaged up to the last frame that some spec reads; nothing behind that frame is decoded.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps: expected a positive number, got {fps}")
    with open_source(source, Deadline(deadline_s), fps, decoder) as opened:
        result: dict[ClipSpec, list[Clip] | VideoError] = {}
        tracks = []
        draws_from = content_hash(source) if any(spec.placement == "random" for spec in specs) else ""
        for spec in dict.fromkeys(specs):
            try:
                tracks.append(_Track(spec, pick_frames(opened.timeline, spec, Random(f"{seed}/{draws_from}"))))
            except VideoError as error:
                result[spec] = error
        wanted = sorted(set().union(*(track.rows for track in tracks)))
        for index, frame in opened.frames(wanted) if wanted else ():
            shared: dict = {}  # specs that lead to one size share the conversion
            for track in tracks:
                track.take(index, frame, shared)
    return result | {track.spec: track.clips() for track in tracks}


def read_video(path: VideoLike, spec: ClipSpec = EVERYTHING) -> Clip:
    """The first clip of `spec`; by default every frame at its own size. Raises VideoError where there is none."""
    clips = read_clips(path, [spec])[spec]
    if isinstance(clips, VideoError):
        raise clips
    return clips[0]


def content_hash(source: VideoLike) -> str:
    """sha256 of a file's bytes, of a folder's names and bytes in order, or of an array's type, shape and values."""
    digest = hashlib.sha256()
    if not isinstance(source, (str, Path)):
        array = arrays.as_array(source)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for frame in array:
            digest.update(np.ascontiguousarray(frame))
        return digest.hexdigest()
    path = Path(source)
    with reading(path):
        files = images.frame_paths(path) if path.is_dir() else [path]
        for file in files:
            if path.is_dir():
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            _hash_file(file, digest)
    return digest.hexdigest()


@contextmanager
def open_source(source: VideoLike, deadline: Deadline, fps: float | None, decoder: str) -> Iterator[Source]:
    """The source, opened by what it is. Raises VideoError where it cannot be."""
    if not isinstance(source, (str, Path)):
        yield arrays.ArrayFrames(arrays.as_array(source), fps)
        return
    path = Path(source)
    with reading(path):
        folder = path.is_dir()
    if folder:
        yield images.FrameFolder(path, deadline, fps)
        return
    check_file(path)
    if path.suffix.lower() in arrays.SUFFIXES:
        yield arrays.ArrayFrames(arrays.read_array(path), fps)
    elif is_animated_webp(path):
        yield images.AnimatedWebp(path, deadline, fps)
    elif path.suffix.lower() in images.SUFFIXES and not images.is_animated_png(path):
        yield images.StillImage(path, deadline, fps)
    else:
        with VideoFile(path, deadline, fps) as file:
            other = decoder == "torchcodec" or (decoder == "auto" and not why_not())
            yield TorchCodecFrames(path, file.timeline) if other else file


@dataclass
class _Track:
    """The frames of one spec while they are being decoded: each once, whatever clips share it."""

    spec: ClipSpec
    picks: list[Pick]

    def __post_init__(self) -> None:
        indices = np.unique(np.concatenate([pick.indices for pick in self.picks]))
        self.rows: Mapping[int, int] = {index: row for row, index in enumerate(indices.tolist())}
        self._converter: FrameConverter | None = None

    def take(self, index: int, frame, shared: dict) -> None:
        row = self.rows.get(index)
        if row is None:
            return
        if self._converter is None:
            self._converter = FrameConverter(self.spec, frame)
            self._frames = self._allocate(*self._converter.size)
        self._converter.write(frame, self._frames[row], shared)

    def clips(self) -> list[Clip]:
        """Frames in the order of each pick; a run of rows is a view."""
        frames = torch.from_numpy(self._frames)
        found = []
        for pick in self.picks:
            rows = [self.rows[index] for index in pick.indices.tolist()]
            run = rows == list(range(rows[0], rows[0] + len(rows)))
            chosen = frames[rows[0] : rows[0] + len(rows)] if run else frames[rows]
            found.append(Clip(chosen, pick.fps, int(pick.indices[0])))
        return found

    def _allocate(self, height: int, width: int) -> np.ndarray:
        size = len(self.rows) * 3 * height * width
        if size > MAX_CLIP_BYTES:
            raise VideoError(f"{len(self.rows)} frames of {width}x{height} need {size / 2**30:.1f} GiB, "
                             f"more than {MAX_CLIP_BYTES / 2**30:.0f}: ask for fewer or smaller ones")
        return np.empty((len(self.rows), 3, height, width), np.uint8)


def _hash_file(path: Path, digest) -> None:
    check_file(path)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
