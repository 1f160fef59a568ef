"""EXIF data in images: PyAV cannot show the side data of frames that carry such, so they are taken out before."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO

import av
import numpy as np

from evalkit.data.video_types import VideoError

ORIENTATION = 0x0112
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # orientation -> what is shown, from what is stored
    2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: np.rot90(x)}
WEBP_FLAG = 0x08  # of a VP8X chunk: that there are EXIF data


def removed(content: bytes, decoder: str) -> bytes:
    """An image file's bytes without its EXIF data; as they are where it has none, or is cut off before them."""
    if decoder == "mjpeg":
        return _without(content, [span for marker, *span in _jpeg_segments(content) if marker == 0xE1 and
                                  content[span[0] + 4: span[0] + 10] == b"Exif\0\0"])
    if decoder == "png":
        return _without(content, [span for kind, *span in _chunks(content, 8, "big", 4) if kind == b"eXIf"])
    if decoder == "webp":
        chunks = list(_chunks(content, 12, "little", 0))
        bare = _without(content, [span for kind, *span in chunks if kind == b"EXIF"])
        if bare == content:
            return content
        flags = next((start + 8 for kind, start, _ in chunks if kind == b"VP8X"), None)
        bare = content[:4] + (len(bare) - 8).to_bytes(4, "little") + bare[8:]
        return bare if flags is None else bare[:flags] + bytes([bare[flags] & ~WEBP_FLAG]) + bare[flags + 1:]
    return content


def turned(frame: av.VideoFrame, content: bytes) -> av.VideoFrame:
    """The frame as the EXIF data of its file's `content` say that it is shown.

    VideoError where more than 8 bits a channel would have to be turned.
    """
    turn = TURNS.get(_orientation(content))
    if turn is None:
        return frame
    if max(part.bits for part in frame.format.components) > 8:
        raise VideoError("expected 8 bits a channel in an image that its EXIF data turn, got more; turn it beforehand")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(turn(frame.to_ndarray(format="rgba"))), format="rgba")


def _orientation(content: bytes) -> int:
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as image:
            return image.getexif().get(ORIENTATION, 1)
    except Exception:  # of whatever kind Pillow meets damaged EXIF data with: then they say nothing
        return 1


def _without(content: bytes, spans: list[list[int]]) -> bytes:
    for start, stop in reversed(spans):
        content = content[:start] + content[stop:]
    return content


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of the segments before the picture."""
    start = 2
    while content[start: start + 1] == b"\xff" and start + 4 <= len(content) and content[start + 1] != 0xDA:
        stop = start + 2 + int.from_bytes(content[start + 2: start + 4], "big")
        yield content[start + 1], start, stop
        start = stop


def _chunks(content: bytes, start: int, order: str, tail: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, stop) of chunks with a length and a kind before, and `tail` bytes behind; RIFF pads to even."""
    while start + 8 <= len(content):
        length, kind = content[start: start + 4], content[start + 4: start + 8]
        if order == "little":
            length, kind = kind, length
        size = int.from_bytes(length, order)
        stop = start + 8 + size + (size % 2 if order == "little" else tail)
        yield kind, start, stop
        start = stop
