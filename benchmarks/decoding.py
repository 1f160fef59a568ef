"""Single-core frames per second of `read_clips` beside plain PyAV loops.

    python benchmarks/decoding.py FOLDER [FOLDER ...] [--videos 4]
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import av
import torch

from evalkit.clips import ClipSpec
from evalkit.data.video import read_clips

FRAMES = 128  # of each video
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")


def plain_loop(path: Path, convert: Callable[[av.VideoFrame], object]) -> int:
    """Decode up to FRAMES frames in one thread, handing each to `convert`; how many there were."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        count = 0
        for frame in container.decode(stream):
            convert(frame)
            count += 1
            if count == FRAMES:
                break
        return count


def ours(*specs: ClipSpec) -> Callable[[Path], int]:
    """Reads every spec of one pass; counts decoded frames once."""
    return lambda path: len(read_clips(path, specs)[specs[0]][0].frames)


def rate(paths: list[Path], read: Callable[[Path], int], rounds: int = 3) -> float:
    """The best of some rounds, by CPU time, so that other work on the machine counts little."""
    best = 0.0
    for _ in range(rounds):
        start = time.process_time()
        frames = sum(read(path) for path in paths)
        best = max(best, frames / (time.process_time() - start))
    return best


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--videos", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Callable[[Path], int]] = {
        "decode only": lambda path: plain_loop(path, lambda frame: None),
        'plain loop, to_ndarray("rgb24")': lambda path: plain_loop(path, lambda f: f.to_ndarray(format="rgb24")),
    }
    for size in (None, 256, 128, 96, 64):
        for kernel in ("area", "bilinear", "bicubic"):
            rows[f"read_clips size={size} {kernel}"] = ours(ClipSpec(size=size, interpolation=kernel))
    rows["read_clips size=256 and 96, one pass"] = ours(ClipSpec(size=256), ClipSpec(size=96))
    for folder in arguments.folders:
        found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        paths = found[:: max(1, len(found) // arguments.videos)][: arguments.videos]
        print(f"{folder.name}: {len(paths)} videos, the first {FRAMES} frames")
        for name, read in rows.items():
            print(f"  {name:40}{rate(paths, read):8.0f} frames/s")


if __name__ == "__main__":
    main()
