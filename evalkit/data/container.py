"""A video file through PyAV: packets are counted first, then decoded in one thread up to the last frame wanted."""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import ExitError, FFmpegError

from evalkit.data.colour import MATRIX_NAMES, RANGE_NAMES, Orientation
from evalkit.data.video_types import MAX_PIXELS, Deadline, Timeline, VideoError, VideoInfo, check_size

MAX_PACKETS = 2_000_000  # of one file: 9 hours at 60 fps
HELD_BYTES = 64 * 2**20  # packets are kept between counting and decoding up to here; beyond, the file is read again
# Containers of pictures only. Others run scripts of a kind: playlists open other files, "tty" draws any text file.
FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,asf,ogg,"
           "nut,mjpeg,mxf,dv,yuv4mpegpipe,png_pipe,jpeg_pipe,bmp_pipe,webp_pipe,tiff_pipe")
DECODING = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}

# FFmpeg conceals most damage and only logs it. These lines are about references that a cut left out, not about pixels.
HARMLESS = ("mmco:", "co located POCs", "number of reference frames")
av.logging.set_level(av.logging.ERROR)
logging.getLogger("libav").addHandler(logging.NullHandler())  # a damaged file is reported once, by its VideoError
logging.getLogger("libav").propagate = False


class VideoFile:
    """An open file; use as a context manager. `fps` replaces the file's own timestamps by a constant rate."""

    def __init__(self, path: Path, deadline: Deadline, fps: float | None = None) -> None:
        self.path, self._deadline = path, deadline
        with ExitStack() as undo, reading(path):
            self._log = undo.enter_context(av.logging.Capture())
            self._container = _open(path, deadline)
            undo.callback(lambda: self._container.close())
            self._stream = _video_stream(self._container)
            self._held: list[av.Packet] | None = []
            scan = self._scan()
            self._close = undo.pop_all().close
        self.timeline = scan.timeline if fps is None else Timeline(scan.timeline.count, fps)
        self.scanned = scan.timeline

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) for each of the `wanted` indices, ascending; decoding stops after the last.

        Raises VideoError on the first decoding error, and where the stream ends before the last wanted frame.
        """
        with reading(self.path):
            pending = iter(wanted)
            following, index = next(pending, None), 0
            for frame in self._decode():
                if index == following:
                    yield index, frame
                    following = next(pending, None)
                    if following is None:
                        return
                index += 1
            raise VideoError(f"corrupt: decoded {index} frames of the {self.timeline.count} in the file")

    def info(self) -> VideoInfo:
        """What the file says of itself; decodes nothing but what opening it needs."""
        context, timeline = self._stream.codec_context, self.scanned
        matrix = int(context.colorspace)
        return VideoInfo(
            frames=timeline.count, fps=timeline.fps, width=context.width, height=context.height,
            codec=context.name, pixel_format=context.pix_fmt or "", rotation=self._rotation(),
            variable_rate=timeline.times is not None, colour_matrix=MATRIX_NAMES.get(matrix, f"matrix {matrix}"),
            colour_range=RANGE_NAMES.get(int(context.color_range), "unspecified"),
            duration=timeline.count / timeline.fps,
        )

    def _rotation(self) -> int:
        with reading(self.path):
            return next((Orientation.of(frame).degrees for frame in self._decode()), 0)

    def _scan(self) -> _Scan:
        """Count the packets that give pictures and note when each is shown."""
        scan, held_bytes = _Scan(self._stream), 0
        for packet in self._container.demux(self._stream):
            self._deadline.check()
            scan.add(packet)
            held_bytes += packet.size
            if self._held is not None and packet.size:
                self._held.append(packet)
            if held_bytes > HELD_BYTES:
                self._held = None
        scan.finish(self._container)
        self._check_log()
        return scan

    def _decode(self) -> Iterator[av.VideoFrame]:
        if self._held is None:
            self._container.close()
            self._container = _open(self.path, self._deadline)
            self._stream = _video_stream(self._container)
        context = self._stream.codec_context
        context.flush_buffers()
        packets = self._container.demux(self._stream) if self._held is None else self._held
        for packet in packets:
            self._deadline.check()
            if packet.size:
                yield from self._intact(context.decode(packet))
        yield from self._intact(context.decode(None))

    def _intact(self, frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
        self._check_log()
        if any(frame.is_corrupt for frame in frames):
            raise VideoError("corrupt: a frame is damaged")
        return frames

    def _check_log(self) -> None:
        for _, name, line in self._log:
            if not line.startswith(HARMLESS):
                raise VideoError(f"corrupt: {name}: {' '.join(line.split())}")
        self._log.clear()


@dataclass
class _Scan:
    """What the packets say, gathered one by one."""

    stream: av.VideoStream

    def __post_init__(self) -> None:
        self._stamps: list[int] = []
        self._announced, self._untimed, self._last_end = 0, 0, 0

    def add(self, packet: av.Packet) -> None:
        if not packet.size and packet.dts is None:  # PyAV's end mark
            return
        self._announced += 1
        if self._announced > MAX_PACKETS:
            raise VideoError(f"more than {MAX_PACKETS} packets")
        if packet.is_corrupt:
            raise VideoError(f"truncated: packet {self._announced} is incomplete")
        if packet.is_discard or not packet.size:  # cut off by an edit list, or "repeat the last frame"
            return
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            self._untimed += 1
        else:
            self._stamps.append(stamp)
            self._last_end = max(self._last_end, stamp + (packet.duration or 0))

    def finish(self, container: av.container.InputContainer) -> None:
        self.timeline = self._timeline()
        if self.stream.frames > self._announced:
            raise VideoError(f"truncated: holds {self._announced} of the {self.stream.frames} frames it announces")
        promised, end = _tagged_duration(self.stream), float(self._last_end * self.stream.time_base)
        if promised is None and container.format.name.startswith("matroska") and len(container.streams) == 1:
            promised = (container.duration or 0) / av.time_base
        if promised is not None and promised - end > max(0.1, 3 / self.timeline.fps):
            raise VideoError(f"truncated: ends at {end:.2f} s of the {promised:.2f} s it announces")

    def _timeline(self) -> Timeline:
        """Two packets of one timestamp are two fields of one frame."""
        if self._untimed or not self._stamps:
            if not self._untimed:
                raise VideoError("no frames")
            return Timeline(self._untimed + len(self._stamps), _nominal_rate(self.stream))
        stamps = np.unique(np.asarray(self._stamps, np.int64))
        times = (stamps - stamps[0]) * float(self.stream.time_base)
        return make_timeline(times, _nominal_rate(self.stream), tick=float(self.stream.time_base))


def make_timeline(times: np.ndarray, nominal: float, tick: float = 0.0) -> Timeline:
    """From ascending times in seconds; a nominal rate within 1 % of theirs is taken as the exact one.

    The rate is variable where an interval differs from the median one by more than a quarter and by two ticks.
    """
    if len(times) < 2:
        return Timeline(len(times), nominal)
    measured = (len(times) - 1) / (times[-1] - times[0])
    fps = nominal if abs(nominal / measured - 1) < 0.01 else float(measured)
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    uneven = np.abs(gaps - usual).max() > max(usual / 4, 2 * tick)
    return Timeline(len(times), fps, times - times[0] if uneven else None)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what PyAV and the system raise into a VideoError of one line."""
    try:
        yield
    except ExitError as error:
        raise VideoError("gave up: the time limit for reading it has passed") from error
    except (FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        kind = "corrupt or not a video" if isinstance(error, ValueError) else "cannot be read"
        raise VideoError(f"{kind}: {reason}") from error
    except (ValueError, RuntimeError, MemoryError, IndexError, EOFError) as error:
        raise VideoError(f"cannot be read: {type(error).__name__} {error}") from error


def check_file(path: Path) -> None:
    """Raise VideoError where there is no file, no permission, or nothing in it."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}: {path}") from error
    if not path.is_file():
        raise VideoError(f"not a file: {path}")
    if size == 0:
        raise VideoError("empty file")
    if not os.access(path, os.R_OK):
        raise VideoError(f"cannot be read: permission denied: {path}")


def _open(path: Path, deadline: Deadline) -> av.container.InputContainer:
    check_file(path)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS),
               "max_streams": "64"}
    return av.open(f"file:{path.absolute()}", options=options, metadata_errors="ignore", timeout=deadline.seconds)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            break
    else:
        raise VideoError("no video stream")
    context = stream.codec_context
    if context is None:
        raise VideoError("no decoder for its video stream")
    context.thread_type, context.thread_count = "NONE", 1  # one video per process beats threads inside one
    context.options = DECODING
    check_size(context.width, context.height)
    return stream


def _nominal_rate(stream: av.VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else float("nan")


def _tagged_duration(stream: av.VideoStream) -> float | None:
    """Seconds in the DURATION tag that Matroska writers leave on each stream ("00:00:10.333000000")."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None
