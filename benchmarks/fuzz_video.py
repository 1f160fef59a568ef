"""Mutated video files against `read_clips`: each must be scored or listed; nothing may crash, hang or eat memory.

    python benchmarks/fuzz_video.py 300 [--seed 0] [--real FOLDER]

Files are read in a process of their own, so that a segmentation fault is seen. Exit code 1 on a crash or a hang.
"""
from __future__ import annotations

import argparse
import collections
import multiprocessing
import random
import resource
import tempfile
import time
from pathlib import Path

HANG_S = 10.0
MEMORY = 6 * 2**30  # bytes of address space that the reading process may have
REAL_SUFFIXES = (".avi", ".mp4", ".mkv", ".gif", ".webm")


def flip_bits(data: bytearray, draw: random.Random) -> bytearray:
    """1 to 256 bits anywhere."""
    for _ in range(2 ** draw.randrange(9)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def truncate(data: bytearray, draw: random.Random) -> bytearray:
    """Cut off somewhere, sometimes nothing left."""
    return data[: draw.choice([0, draw.randrange(64), draw.randrange(len(data))])]


def damage_header(data: bytearray, draw: random.Random) -> bytearray:
    """Random bytes in the first kilobyte."""
    for _ in range(draw.randrange(1, 32)):
        data[draw.randrange(min(1024, len(data)))] = draw.randrange(256)
    return data


def damage_tail(data: bytearray, draw: random.Random) -> bytearray:
    """Random bytes in the last two kilobytes, where mp4 and avi files keep their tables."""
    for _ in range(draw.randrange(1, 32)):
        data[-draw.randrange(1, min(2048, len(data)))] = draw.randrange(256)
    return data


def swap_chunks(data: bytearray, draw: random.Random) -> bytearray:
    """Two stretches of equal length exchanged."""
    size = draw.randrange(1, max(2, len(data) // 4))
    first, second = sorted(draw.sample(range(0, len(data) - size), 2))
    second = max(second, first + size)
    pieces = data[:first], data[second : second + size], data[first + size : second], data[first : first + size]
    return bytearray().join(pieces) + data[second + size :]


def blank(data: bytearray, draw: random.Random) -> bytearray:
    """A stretch of one value, zeros or ones."""
    at, size = draw.randrange(len(data)), draw.randrange(1, 4096)
    data[at : at + size] = bytes([draw.choice([0, 255])]) * len(data[at : at + size])
    return data


def huge_numbers(data: bytearray, draw: random.Random) -> bytearray:
    """Four 0xFF or 0x7F bytes on a few aligned places of the first two kilobytes: sizes, counts, offsets."""
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(0, max(1, min(2048, len(data)) - 4), 2)
        data[at : at + 4] = draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff"])
    return data


MUTATIONS = (flip_bits, truncate, damage_header, damage_tail, swap_chunks, blank, huge_numbers)


def make_samples(folder: Path) -> list[Path]:
    """One small moving pattern in every container and codec that people use."""
    import numpy as np
    import torch
    from PIL import Image

    from evalkit.data.video import write_video

    rows, columns, time_axis = torch.meshgrid(torch.arange(72), torch.arange(96), torch.arange(24), indexing="ij")
    pattern = torch.stack([rows * 3 + time_axis * 4, columns * 2 - time_axis * 3, (rows * columns) // 20 + time_axis])
    frames = (pattern % 256).byte().permute(3, 0, 1, 2).contiguous()
    made = [write_video(folder / name, frames, 12, codec=codec, options=options) for name, codec, options in (
        ("h264.mp4", "libx264", {"g": "8"}), ("h264.mkv", "libx264", {}), ("h264.mov", "libx264", {}),
        ("mpeg4.avi", "mpeg4", {}), ("mjpeg.avi", "mjpeg", {}),
        ("vp9.webm", "libvpx-vp9", {"cpu-used": "8"}), ("ffv1.mkv", "ffv1", {}), ("png.mov", "png", {}))]
    images = [Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy())) for frame in frames]
    for name in ("still.gif", "still.webp", "still.png"):
        path = folder / f"animated_{name}"
        images[0].save(path, save_all=True, append_images=images[1:], duration=80)
        made.append(path)
    for name, save in (("frames.npy", lambda path: np.save(path, frames.numpy())),
                       ("frames.npz", lambda path: np.savez_compressed(path, frames=frames.numpy())),
                       ("frames.pt", lambda path: torch.save(frames, path))):
        save(folder / name)
        made.append(folder / name)
    return made


def mutate(original: Path, folder: Path, draw: random.Random) -> tuple[str, Path]:
    """(name of the mutation, the mutated copy)."""
    mutation = draw.choice(MUTATIONS)
    copy = folder / f"mutated{original.suffix}"
    copy.write_bytes(mutation(bytearray(original.read_bytes()), draw))
    return mutation.__name__, copy


def reader(pipe) -> None:
    """Reads the paths that come through the pipe until None comes; answers (outcome, detail)."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import torch

    from evalkit.clips import ClipSpec
    from evalkit.data.arrays import SUFFIXES
    from evalkit.data.video import VideoError, read_clips

    torch.set_num_threads(1)
    specs = [ClipSpec(size=96), ClipSpec(num_frames=8, placement="uniform", size=None),
             ClipSpec(fps=8, size=32, placement="center")]
    pipe.send(("ready", ""))
    while (path := pipe.recv()) is not None:
        try:
            found = read_clips(path, specs, fps=12 if path.suffix in SUFFIXES else None)
            errors = [str(clips) for clips in found.values() if isinstance(clips, VideoError)]
            # a sum of each spec's pixels tells whether damage went unseen
            sums = [int(clip.frames.sum(dtype=torch.int64)) for clips in found.values()
                    if not isinstance(clips, VideoError) for clip in clips]
            answer = ("listed", errors[0]) if errors else ("scored", str(sums))
        except VideoError as error:
            answer = ("listed", str(error))
        except BaseException as error:  # whatever else comes out is what this script looks for
            answer = ("crash", f"{type(error).__name__}: {error}")
        pipe.send(answer)


class Reader:
    """The reading process, started again after it died or was stopped."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=reader, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def read(self, path: Path) -> tuple[str, str]:
        """(scored | listed | crash | hang, detail)."""
        self._pipe.send(path)
        if not self._pipe.poll(HANG_S):  # wall-clock: on a crowded machine this is stricter than it looks
            self._process.kill()
            self._process.join()
            self._start()
            return "hang", f"no answer in {HANG_S:g} s"
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            return "crash", f"process died with exit code {code}"

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def fuzz(count: int, seed: int, real: Path | None, say=print) -> collections.Counter[str]:
    """Read `count` mutated files; prints a table and returns how many ended in which way."""
    draw = random.Random(seed)
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest = 0.0
    child = Reader()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = make_samples(folder)
        if real is not None:
            found = sorted(path for path in real.rglob("*") if path.suffix in REAL_SUFFIXES)
            originals += draw.sample(found, min(len(found), len(originals)))
        clean = {path: child.read(path) for path in originals}
        for path, (outcome, detail) in clean.items():
            if outcome != "scored":
                say(f"NOT MUTATED, yet {outcome}: {path.name}: {detail}")
                table["(not mutated)"][outcome] += 1
        for number in range(count):
            original = originals[number % len(originals)]
            mutation, path = mutate(original, folder, draw)
            start = time.perf_counter()
            outcome, detail = child.read(path)
            slowest = max(slowest, time.perf_counter() - start)
            if outcome in ("crash", "hang"):
                say(f"{outcome}: {original.name} {mutation} (number {number}, seed {seed}): {detail}")
            if outcome == "scored" and detail != clean[original][1]:
                outcome = "scored, other pixels"
            table[mutation][outcome] += 1
    child.stop()
    total = sum(table.values(), collections.Counter())
    columns = ("scored", "scored, other pixels", "listed", "crash", "hang")
    say(f"{'':16}" + "".join(f"{column:>22}" for column in columns))
    for mutation, counts in [*sorted(table.items()), ("all", total)]:
        say(f"{mutation:16}" + "".join(f"{counts[column]:22}" for column in columns))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    say(f"slowest file {slowest:.2f} s, peak memory of the reading process {peak:.0f} MiB")
    return total


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, help="folder whose videos are mutated too")
    arguments = parser.parse_args()
    total = fuzz(arguments.count, arguments.seed, arguments.real)
    return 1 if total["crash"] or total["hang"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
