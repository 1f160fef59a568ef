"""Decoding through TorchCodec, where it works on this machine; PyAV still reads the container's timestamps."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from evalkit.data.video_types import Timeline, VideoError


@lru_cache(maxsize=1)
def why_not() -> str:
    """Why TorchCodec cannot be used here; empty where it can."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # it needs the shared libraries of a system FFmpeg
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ""


class TorchCodecFrames:
    """The frames of a file at their own size as TorchCodec converts them; the resize is evalkit's."""

    def __init__(self, path: Path, timeline: Timeline) -> None:
        if why_not():
            raise VideoError(f'decoder "torchcodec" does not work here ({why_not()}); use "pyav"')
        self._path, self.timeline = path, timeline

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices, sought one by one."""
        from torchcodec.decoders import VideoDecoder

        try:
            decoder = VideoDecoder(str(self._path), dimension_order="NHWC", num_ffmpeg_threads=1)
            for index in wanted:
                pixels = np.ascontiguousarray(decoder[index].numpy())
                yield index, av.VideoFrame.from_ndarray(pixels, format="rgb24")
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideoError(f"cannot be decoded: {(str(error).splitlines() or [''])[0]}") from error
