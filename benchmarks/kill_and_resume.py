"""kill -9 at random moments, then resume: `python benchmarks/kill_and_resume.py VIDEOS [--kills 10] [--seed 0]`.

Scores a folder once without interruption, then again in a process that is killed at random moments and started anew;
exits 1 unless all scores and intervals, per-video values and failures are identical.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd


def start(videos: str, out: Path, cache: Path, metrics: str) -> subprocess.Popen:
    """`evalkit run` in a process group of its own, so that its workers die with it."""
    command = [sys.executable, "-m", "evalkit.cli", "run", videos, "--out", str(out), "--metrics", metrics,
               "--cache", str(cache), "--no-report", "--device", "cpu"]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def results(out: Path) -> tuple[dict, pd.DataFrame]:
    """All that must be equal: everything but time and environment."""
    found = json.loads((out / "results.json").read_text())
    found.pop("environment")
    return found, pd.read_parquet(out / "videos.parquet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--metrics", default="temporal_flicker,farm,cinematic_composition,artifacts,dynamic_degree")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, rng = Path(folder), random.Random(args.seed)
        began = time.perf_counter()
        code = start(args.videos, root / "whole", root / "cache-whole", args.metrics).wait()
        whole_seconds = time.perf_counter() - began
        print(f"uninterrupted: {whole_seconds:.1f} s, exit code {code}")
        for kill in range(args.kills):
            process = start(args.videos, root / "cut", root / "cache-cut", args.metrics)
            # Each life lasts a random part of the whole; progress adds up over lives, so later ones are cut late.
            time.sleep(rng.uniform(0.2, 0.6) * whole_seconds)
            finished = process.poll() is not None
            if not finished:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            entries = sum(path.is_file() for path in (root / "cache-cut").rglob("*"))
            print(f"kill {kill + 1}: {'had finished' if finished else 'killed'}, {entries} cache entries", flush=True)
            if finished:
                (root / "cut" / "results.json").unlink(missing_ok=True)
                some = rng.sample([p for p in (root / "cache-cut").rglob("*") if p.is_file()], k=max(1, entries // 2))
                for path in some:  # so that the next life has work to be killed at
                    path.unlink()
        start(args.videos, root / "cut", root / "cache-cut", args.metrics).wait()
        (one, table), (other, other_table) = results(root / "whole"), results(root / "cut")
        same = one == other and table.equals(other_table)
        print("identical" if same else "DIFFERENT")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
