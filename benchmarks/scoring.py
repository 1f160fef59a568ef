"""Scoring throughput beside plain decoding, in one run: `python benchmarks/scoring.py [--assets DIR]`.

Everything uses the same two cores, one video per process, one thread each. Prints frames per second and the ratio to
the plain loop (PyAV decode + to_ndarray("rgb24")), then the speed-up of a cached rerun and peak memory at 50 and 500
videos. Nothing is cached but in the rerun. Every row goes through a set --passes times in one call: nine files alone
take 0.4 s, of which starting and ending two processes is a tenth.
"""
from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
SETS = {"UCF-101 320×240": "data/ucf101/*/*.avi", "WebVid 596×336": "data/webvid/*.mp4"}
QUICK = ["temporal_flicker", "farm", "cinematic_composition", "artifacts", "dynamic_degree"]


def decode_only(path: Path) -> int:
    """Frames of one video, decoded and dropped."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return sum(1 for _ in container.decode(video=0))


def plain_loop(path: Path) -> int:
    """Frames of one video, each as an RGB array, the way most scripts do it."""
    import av

    with av.open(str(path)) as container:
        return sum(len(frame.to_ndarray(format="rgb24")) > 0 for frame in container.decode(video=0))


def plain_loop_one_thread(path: Path) -> int:
    """The same with the decoder's threads off, for use in several processes at once."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return sum(len(frame.to_ndarray(format="rgb24")) > 0 for frame in container.decode(video=0))


def count_frames(function: Callable[[Path], int], paths: Sequence[Path], workers: int) -> tuple[int, float]:
    """Frames of all videos and the wall time, with this many processes; the pool is started before the clock."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(function, paths[:workers])
        started = time.perf_counter()
        frames = sum(pool.imap_unordered(function, paths))
        return frames, time.perf_counter() - started


def copies(paths: Sequence[Path], passes: int, folder: Path) -> list[Path]:
    """Every video once per pass, in the order of the passes: evalkit takes no path twice."""
    made = [folder / f"{index:02d}-{path.name}" for index in range(passes) for path in paths]
    for path, copy in zip(list(paths) * passes, made, strict=True):
        shutil.copy(path, copy)
    return made


def scored_frames(paths: Sequence[Path], metrics: Sequence[str]) -> int:
    """Frames that the metrics' longest window reads: what is decoded, not what the files hold."""
    from evalkit.data.video import probe
    from evalkit.metrics.base import make_metric

    window = max(make_metric(name).spec.max_frames for name in metrics)
    return sum(min(window, probe(path).frames) for path in paths)


def ours(paths: Sequence[Path], metrics: Sequence[str], workers: int, cache: Path | None = None) -> float:
    """Seconds that `evaluate` takes from paths to the report."""
    from evalkit import evaluate

    started = time.perf_counter()
    report = evaluate(list(paths), metrics=metrics, cache=cache, workers=workers, device="cpu")
    assert report.counts["failed"] == 0, report.failures
    return time.perf_counter() - started


def peak_memory(path: Path, count: int, workers: int) -> float:
    """MiB at the peak, main process and largest worker together, when `count` copies of a video are scored."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            shutil.copy(path, Path(folder) / f"{index:04d}{path.suffix}")
        queue = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=_measure, args=(folder, workers, queue))
        process.start()
        peak = queue.get()
        process.join()
    return peak


def _measure(folder: str, workers: int, queue) -> None:
    ours(sorted(Path(folder).iterdir()), ["temporal_flicker"], workers)
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    queue.put(kib / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--skip-memory", action="store_true")
    args = parser.parse_args()
    ours([next(args.assets.glob(SETS["UCF-101 320×240"]))], QUICK, 1)  # imports and first-call costs, not timed

    scratch = tempfile.TemporaryDirectory()
    total: dict[str, list[tuple[int, float]]] = {}
    for title, pattern in SETS.items():
        once = sorted(args.assets.glob(pattern))
        paths = copies(once, args.passes, Path(scratch.name))
        found = {"plain loop, one process (decoder's own threads)": count_frames(plain_loop, paths, 1),
                 "plain loop, one video per process": count_frames(plain_loop_one_thread, paths, args.workers),
                 "decode only": count_frames(decode_only, paths, args.workers)}
        for name, metrics in (("temporal_flicker", ["temporal_flicker"]), ("weight-free suite", QUICK)):
            found[f"evalkit, {name}"] = scored_frames(paths, metrics), ours(paths, metrics, args.workers)
        _print(f"{title}: {len(once)} videos, {args.passes} passes, {args.workers} processes", found)
        for name, one in found.items():
            total.setdefault(name, []).append(one)
        with tempfile.TemporaryDirectory() as cache:
            first = ours(once, QUICK, args.workers, Path(cache))
            again = ours(once, QUICK, args.workers, Path(cache))
        print(f"  {'cached rerun of the suite':<50} {first:6.2f} s -> {again:.3f} s, {first / again:.0f}× faster")
    _print("both sets, in the mix of frames that evalkit reads", same_mix(total))
    if not args.skip_memory:
        clip = sorted(args.assets.glob(SETS["UCF-101 320×240"]))[0]
        few, many = (peak_memory(clip, count, args.workers) for count in (50, 500))
        print(f"\npeak memory: {few:.0f} MiB at 50 videos, {many:.0f} MiB at 500 ({many / few - 1:+.1%})")


def same_mix(total: dict[str, list[tuple[int, float]]]) -> dict[str, tuple[int, float]]:
    """Every row as if it had read as many frames of each set as evalkit: rates of other mixes do not compare."""
    wanted = [frames for frames, _ in total["evalkit, temporal_flicker"]]
    return {name: (sum(wanted), sum(count * seconds / frames
                                    for count, (frames, seconds) in zip(wanted, parts, strict=True)))
            for name, parts in total.items()}


def _print(title: str, found: dict[str, tuple[int, float]]) -> None:
    rates = {name: frames / seconds for name, (frames, seconds) in found.items()}
    plain = next(iter(rates.values()))
    print(f"\n{title}", flush=True)
    for name, rate in rates.items():
        print(f"  {name:<50} {rate:8.0f} frames/s   {rate / plain:5.2f} × plain loop", flush=True)


if __name__ == "__main__":
    main()
