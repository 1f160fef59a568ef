"""Frames to a video file whose colour tags say how to read it back."""
from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

_RGB_FORMATS = {"libx264rgb": "rgb24", "ffv1": "bgr0", "png": "rgb24", "apng": "rgb24"}
_BT601 = 6  # SMPTE 170M: right for readers that obey the tag, and for those that ignore it and assume 601
_KERNEL = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP


def write_video(path: str | Path, frames: Tensor, fps: float, codec: str = "libx264", crf: float | None = 18,
                options: Mapping[str, str] | None = None, pixel_format: str | None = None) -> Path:
    """Write frames (T, 3, H, W) uint8 to `path`; the file appears whole or not at all.

    Lossless: codec "ffv1" (.mkv), or "libx264rgb" with crf 0. Other codecs get BT.601, limited range (full for
    mjpeg), 4:2:0 where both sides are even and 4:4:4 otherwise, so that no pixel is added or lost. `crf` None leaves
    quality to the codec.
    Raises ValueError on other frames, or a rate that is not positive.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not frames.numel():
        raise ValueError(f"frames: expected (T, 3, H, W) uint8, got {tuple(frames.shape)} {frames.dtype}")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps: expected a positive number, got {fps}")
    path = Path(path)
    height, width = frames.shape[2:]
    subsampled = "yuv444p" if height % 2 or width % 2 else "yuv420p"
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    chosen = dict(options or {})
    if crf is not None and codec in ("libx264", "libx264rgb", "libx265", "libvpx-vp9", "libaom-av1", "libsvtav1"):
        chosen.setdefault("crf", f"{crf:g}")
    if codec.startswith("libx264"):
        chosen.setdefault("x264-params", "cpu-independent=1")  # faster arithmetic differs from one run to the next
    try:
        _encode(partial, frames.permute(0, 2, 3, 1).contiguous().cpu().numpy(), fps, codec, chosen,
                pixel_format or _RGB_FORMATS.get(codec, subsampled))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _encode(path: Path, frames: np.ndarray, fps: float, codec: str, options: dict[str, str],
            pixel_format: str) -> None:
    reformatter = VideoReformatter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(10_000), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1  # the same bytes whatever the number of cores
        full = pixel_format in _RGB_FORMATS.values() or codec == "mjpeg"
        levels = ColorRange.JPEG if full else ColorRange.MPEG
        if pixel_format not in _RGB_FORMATS.values():
            stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, levels
        for pixels in frames:
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(pixels, format="rgb24"), format=pixel_format, interpolation=_KERNEL,
                threads=1, src_colorspace=Colorspace.ITU601, dst_colorspace=Colorspace.ITU601,
                src_color_range=ColorRange.JPEG, dst_color_range=levels,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
