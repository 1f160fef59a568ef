"""A board of 1 000 submissions × 30 metrics × 40 prompts: seconds to build its site, and until its pages answer.

python benchmarks/leaderboard.py [--rows 1000] [--out FOLDER]; the last recorded run is leaderboard.md.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from evalkit.results import Score, protocol_id, write_atomic
from leaderboards.reading import read_board
from leaderboards.schema import Board, BoardMetric, FileEntry, Generation, Submission, format_json
from leaderboards.site import build_site

PROMPTS, METRICS, OPENINGS = 40, 30, 5


def write_board(folder: Path, rows: int) -> Board:
    """Rows of normal scores; model 0 is the best. Intervals are those of a normal mean."""
    protocols = {name: {"metric": name, "version": 1, "clips": {"num_frames": 16}}
                 for name in (f"metric_{i:02d}" for i in range(METRICS))}
    ids = {name: protocol_id(protocol) for name, protocol in protocols.items()}
    board = Board("big", "A thousand models", "metric_00",
                  {name: BoardMetric(i % 3 > 0, protocol=ids[name], weight=1.0) for i, name in enumerate(protocols)},
                  {ids[name]: protocol for name, protocol in protocols.items()}, path=folder / "boards/big.json")
    write_atomic(board.path, format_json(board.to_json()))
    rng = np.random.default_rng(0)
    for i in range(rows):
        write_row(board, f"model-{i:04d}", (rows / 2 - i) / rows, ids, rng)
    return board


def write_row(board: Board, slug: str, quality: float, ids: dict[str, str], rng: np.random.Generator) -> None:
    signs = [1 if metric.higher_is_better else -1 for metric in board.metrics.values()]
    values = rng.normal(quality, 1, (PROMPTS, METRICS)) * signs
    table = pd.DataFrame({"video": [f"{i:03d}.mp4" for i in range(PROMPTS)],
                          "prompt": [f"a prompt of an ordinary length, say this, number {i}" for i in range(PROMPTS)],
                          "seed": 0, "content": [f"{slug}/{i}" for i in range(PROMPTS)],
                          "error": pd.array([None] * PROMPTS, dtype="string"),
                          **{name: values[:, i] for i, name in enumerate(board.metrics)}})
    half = 1.96 * values.std(0) / PROMPTS**0.5
    scores = {name: Score(float(mean), (float(mean - width), float(mean + width)), PROMPTS, "",
                          board.metrics[name].higher_is_better, ids[name])
              for name, mean, width in zip(board.metrics, values.mean(0), half, strict=True)}
    data = table.to_parquet(index=False)
    write_atomic(board.folder / slug / "videos.parquet", data)
    row = Submission(slug, board.name, slug, "2026-11-01", scores, board.protocols,
                     {"found": PROMPTS, "scored": PROMPTS, "failed": 0}, {"video-evalkit": "0.1.0"}, 0,
                     FileEntry(f"{slug}/videos.parquet", hashlib.sha256(data).hexdigest(), len(data)),
                     generation=Generation((0,), False, "euler", 5.0, (512, 512), 8.0))
    write_atomic(board.folder / f"{slug}.json", format_json(row.to_json()))


def measure_pages(site: Path) -> dict[str, float]:
    """Milliseconds, median of several openings from the disk in headless Chromium, each in a fresh context."""
    from playwright.sync_api import sync_playwright

    opened: dict[str, list[float]] = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"),
                                       args=["--no-sandbox", "--disable-gpu"])
        for _ in range(OPENINGS):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            for name, found in _open(page, site.as_uri()).items():
                opened.setdefault(name, []).append(found)
            page.context.close()
        browser.close()
    return {name: statistics.median(found) for name, found in opened.items()}


def _open(page, address: str) -> dict[str, float]:
    found = {"first page answers": _seconds(lambda: (
        page.goto(f"{address}/index.html"), page.wait_for_selector("table.board tbody tr"),
        page.fill("#search", "model-07"), page.wait_for_selector("[role=status]:has-text('100 of')")))}
    page.fill("#search", "")
    found["sort by another metric"] = _seconds(lambda: (
        page.click("[data-sort='1']"), page.wait_for_selector("th[aria-sort] [data-sort='1']")))
    for name, place, ready in (("model page", "model.html#model-0500", ".split table"),
                               ("head to head, 30 paired tests", "compare.html#model-0001,model-0500", "[data-metric]"),
                               ("trade-offs, figure drawn", "pareto.html", ".js-plotly-plot path.point"),
                               ("metric page, figure drawn", "metric.html#metric_05", ".js-plotly-plot path.point")):
        found[name] = _seconds(lambda place=place, ready=ready: (
            page.goto(f"{address}/{place}"), page.wait_for_selector(ready)))
    return found


def _seconds(action) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="keep board and site there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        board = write_board(folder, args.rows)
        start, busy = time.perf_counter(), time.process_time()
        site = build_site(read_board(board.path), folder / "site").parent
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
        print(f"{args.rows} rows × {METRICS} metrics × {PROMPTS} prompts")
        print(f"build: {seconds:.1f} s ({busy:.1f} s of processor time), {len(sizes)} files, "
              f"{sum(sizes.values()) / 2**20:.0f} MiB, board.js {sizes[site / 'data/board.js'] / 2**20:.1f} MiB")
        print(json.dumps({name: f"{found:.0f} ms" for name, found in measure_pages(site).items()}, indent=1))


if __name__ == "__main__":
    main()
