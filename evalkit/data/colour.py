"""From a decoded picture to RGB at the size asked for: matrix, range, rotation, alpha, resize and crop.

One call of swscale converts and resizes. Its output is planar, so a clip is (T, 3, H, W) without a copy. Rounding is
accurate and bit-exact: the default path is 1.2 levels too dark on average, and its planar form writes rubbish into
the last columns where the width is no multiple of 16.
Rules: no tag means BT.601, limited range (what FFmpeg, OpenCV and imageio write when they are handed RGB); alpha is
composited over black; transfer functions (PQ, HLG) and pixel aspect are left as coded.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from evalkit.clips import ClipSpec
from evalkit.data.video_types import VideoError, check_size

UNSPECIFIED = 2
MATRIX_NAMES = {0: "rgb", 1: "bt709", UNSPECIFIED: "unspecified", 4: "fcc", 5: "bt601", 6: "bt601",
                7: "smpte240m", 9: "bt2020"}
RANGE_NAMES = {0: "unspecified", 1: "limited", 2: "full"}
_MATRICES = {0: Colorspace.ITU601, 1: Colorspace.ITU709, UNSPECIFIED: Colorspace.ITU601, 4: Colorspace.FCC,
             5: Colorspace.ITU601, 6: Colorspace.ITU601, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}
_KERNELS = {"area": Interpolation.AREA, "bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_LIMITED_TO_FULL = np.rint((np.arange(256) - 16) * 255 / 219).clip(0, 255).astype(np.uint8)
_GBR = (2, 0, 1)  # the planes of "gbrp" that hold R, G, B


class FrameConverter:
    """Frames of one video to (3, H, W) uint8, all at the size that `spec` and the first frame give."""

    def __init__(self, spec: ClipSpec, first: av.VideoFrame) -> None:
        check_size(first.width, first.height)
        self.coded = (first.height, first.width)
        self.turn = Orientation.of(first)
        shown = self.turn.swap(self.coded)
        resized = resized_size(shown, spec.size)
        self.crop = central_square(resized, spec.crop)
        self.size = tuple(len(range(*part.indices(n))) for part, n in zip(self.crop, resized, strict=True))
        self._height, self._width = self.turn.swap(resized)
        self._kernel = _KERNELS[spec.interpolation] | _EXACT
        self._stretch = is_limited_grey(first)
        self._reformatter, self._flatten = VideoReformatter(), VideoReformatter()

    def write(self, frame: av.VideoFrame, out: np.ndarray, shared: dict[Any, list[np.ndarray]] | None = None) -> None:
        """Fill `out` (3, H, W) with the frame. Raises VideoError where its size or colour coding cannot be used.

        shared: what other converters have made of this very frame; it is added to, and used where it fits.
        """
        if (frame.height, frame.width) != self.coded:
            before = f"{self.coded[1]}x{self.coded[0]}"
            raise VideoError(f"frame size changes from {before} to {frame.width}x{frame.height}")
        shared, key = {} if shared is None else shared, (self._height, self._width, self._kernel)
        if key not in shared:
            shared[key] = self._planes(frame)
        planes = shared[key]
        for channel, plane in enumerate(_GBR):
            out[channel] = self.turn.apply(planes[plane])[self.crop]
        if self._stretch:
            out[...] = _LIMITED_TO_FULL[out]

    def _planes(self, frame: av.VideoFrame) -> list[np.ndarray]:
        if has_alpha(frame.format):
            frame = over_black(frame, self._flatten)
        rgb = to_planar(frame, self._reformatter, "gbrp", self._width, self._height, self._kernel)
        return plane_views(rgb)


class Orientation:
    """One of the eight ways in which a display matrix can turn and mirror a picture."""

    def __init__(self, transpose: bool = False, flip_rows: bool = False, flip_columns: bool = False) -> None:
        self.transpose = transpose
        self._flips = (slice(None, None, -1 if flip_rows else 1), slice(None, None, -1 if flip_columns else 1))
        self._upright = not (transpose or flip_rows or flip_columns)

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """From the frame's side data: x' = a·x + c·y, y' = b·x + d·y (other angles go to the nearest right one).

        VideoError where a frame carries a kind of data that PyAV has no name for: it then shows none.
        """
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError as error:
            raise VideoError("frames carry data that this PyAV cannot read, such as EXIF in motion JPEG, so that "
                             "nothing says which way up they are; encode the video anew") from error
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        transpose = abs(b) > abs(a)
        return cls(transpose, (b if transpose else d) < 0, (c if transpose else a) < 0)

    @property
    def degrees(self) -> int:
        """Degrees clockwise, a mirror image left aside."""
        rows, columns = (flip.step < 0 for flip in self._flips)
        if self.transpose:
            return 270 if rows else 90
        return 180 if rows and columns else 0

    def swap(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) as shown, from as coded, or back."""
        return (size[1], size[0]) if self.transpose else size

    def apply(self, plane: np.ndarray) -> np.ndarray:
        """The plane as shown, a view."""
        if self._upright:
            return plane
        return (plane.T if self.transpose else plane)[self._flips]


def to_planar(frame: av.VideoFrame, reformatter: VideoReformatter, pixel_format: str, width: int, height: int,
              kernel: Interpolation) -> av.VideoFrame:
    """The frame as full-range planar RGB ("gbrp" or "gbrap") in one swscale call, by its own matrix and range."""
    matrix = _MATRICES.get(int(frame.colorspace))
    if matrix is None:
        raise VideoError(f"colour matrix {int(frame.colorspace)} is not supported; there are: "
                         + ", ".join(sorted(set(MATRIX_NAMES.values()))))
    return reformatter.reformat(
        frame, width, height, pixel_format, interpolation=kernel, threads=1,
        src_colorspace=matrix, dst_colorspace=matrix,
        src_color_range=colour_range(frame), dst_color_range=ColorRange.JPEG,
    )


def colour_range(frame: av.VideoFrame) -> ColorRange:
    """Full for RGB, the yuvj formats and where tagged so; limited otherwise."""
    full = frame.color_range == ColorRange.JPEG or frame.format.is_rgb or frame.format.name.startswith("yuvj")
    return ColorRange.JPEG if full or frame.format.has_palette else ColorRange.MPEG


def is_limited_grey(frame: av.VideoFrame) -> bool:
    """Whether it is luma alone and tagged limited: swscale takes any grey for full range."""
    return frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG


def over_black(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    """The frame composited over black, RGB at its own size."""
    rgba = to_planar(frame, reformatter, "gbrap", frame.width, frame.height, Interpolation.BICUBIC | _EXACT)
    *gbr, alpha = (plane.astype(np.uint16) for plane in plane_views(rgba))
    rgb = np.stack([gbr[plane] for plane in _GBR], axis=-1)
    flat = ((rgb * alpha[..., None] + 127) // 255).astype(np.uint8)
    return av.VideoFrame.from_ndarray(flat, format="rgb24")


@lru_cache(maxsize=64)
def _format_has_alpha(name: str) -> bool:
    pixel_format = av.VideoFormat(name)
    return pixel_format.has_palette or any(part.is_alpha for part in pixel_format.components)


def has_alpha(pixel_format: av.VideoFormat) -> bool:
    """Whether pixels can be transparent (a palette's entries can)."""
    return _format_has_alpha(pixel_format.name)


def plane_views(frame: av.VideoFrame) -> list[np.ndarray]:
    """The (H, W) planes of an 8-bit planar frame, views of its buffers without the padding of their rows."""
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        for plane in frame.planes
    ]


def resized_size(shown: tuple[int, int], size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) after the resize: short side at most `size`, or exactly (H, W), or unchanged."""
    if isinstance(size, tuple):
        return size
    short = min(shown)
    if size is None or short <= size:
        return shown
    height, width = (max(1, round(side * size / short)) for side in shown)
    return height, width


def central_square(size: tuple[int, int], crop: int | None) -> tuple[slice, slice]:
    """Rows and columns of the central square, at most `crop` wide, offset a multiple of 2; everything where None."""
    if crop is None:
        return slice(None), slice(None)
    side = min(crop, *size)
    top, left = ((n - side) // 2 // 2 * 2 for n in size)
    return slice(top, top + side), slice(left, left + side)
