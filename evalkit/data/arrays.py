"""Videos that are arrays: in memory, or in .npy, .npz and .pt files. They pass the same resize as decoded frames."""
from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from evalkit.data.video_types import MAX_CLIP_BYTES, Timeline, VideoError, check_size

SUFFIXES = (".npy", ".npz", ".pt")
KEYS = ("frames", "video")  # of an .npz or a dictionary in a .pt that holds several


class ArrayFrames:
    """Frames of a (T, H, W, 3) or (T, 3, H, W) array: uint8, or floating point in [0, 1], rounded to 8 bits."""

    def __init__(self, array: np.ndarray, fps: float | None) -> None:
        self._frames = channels_last(array)
        self.timeline = Timeline(len(self._frames), float("nan") if fps is None else fps)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) of the wanted indices; VideoError for values outside [0, 1]."""
        for index in wanted:
            pixels = np.ascontiguousarray(to_uint8(self._frames[index]))
            yield index, av.VideoFrame.from_ndarray(pixels, format="rgb24")


def read_array(path: Path) -> np.ndarray:
    """The array in a .npy, .npz or .pt file, mapped from disk where it can be. Executes nothing from the file."""
    try:
        array = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt}[path.suffix.lower()](path)
    except VideoError:
        raise
    except Exception as error:  # unpicklers and zip readers raise anything on a damaged file; the cause is chained
        reason = (str(error).splitlines() or [""])[0]
        raise VideoError(f"corrupt or not an array: {type(error).__name__}: {reason[:200]}") from error
    return as_array(array)


def as_array(value: Tensor | np.ndarray) -> np.ndarray:
    """A NumPy view where there is one (bfloat16 becomes float32)."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not isinstance(value, np.ndarray):
        raise VideoError(f"expected an array, got {type(value).__name__}")
    return value


def channels_last(array: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) view of the array. Raises VideoError for another shape, or one that can be read both ways."""
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise VideoError(f"expected uint8, or floating point in [0, 1], got {array.dtype}")
    layouts = [array.ndim == 4 and array.shape[axis] == 3 for axis in (1, -1)]
    if not any(layouts):
        raise VideoError(f"expected (T, H, W, 3) or (T, 3, H, W), got {array.shape}")
    if all(layouts):
        raise VideoError(f"ambiguous shape {array.shape}: (T, H, W, 3) and (T, 3, H, W) both fit")
    frames = array if layouts[1] else array.transpose(0, 2, 3, 1)
    if not len(frames):
        raise VideoError("no frames")
    check_size(frames.shape[2], frames.shape[1])
    return frames


def to_uint8(frame: np.ndarray) -> np.ndarray:
    """A frame in 8 bits; VideoError for values outside [0, 1] (NaN too)."""
    if frame.dtype == np.uint8:
        return frame
    low, high = float(frame.min()), float(frame.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise VideoError(f"expected floating point in [0, 1], got a range of [{low:.4g}, {high:.4g}]")
    return np.rint(frame.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    with np.load(path, allow_pickle=False) as arrays:
        key = _only(arrays.files)
        if sizes.get(f"{key}.npy", 0) > MAX_CLIP_BYTES:
            raise VideoError(f"array {key!r} unpacks to {sizes[f'{key}.npy']} bytes, more than {MAX_CLIP_BYTES}")
        return arrays[key]


def _read_pt(path: Path) -> Tensor:
    value = torch.load(path, map_location="cpu", weights_only=True)
    return value[_only(list(value))] if isinstance(value, dict) else value


def _only(keys: list[str]) -> str:
    found = keys if len(keys) == 1 else [key for key in KEYS if key in keys]
    if len(found) != 1:
        raise VideoError(f"expected one array, or one of {' and '.join(KEYS)}, got {', '.join(map(str, keys))}")
    return found[0]
