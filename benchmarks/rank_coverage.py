"""How often do all stated rank ranges of a simulated board hold the true ranks, and how wide are they?

Usage: python benchmarks/rank_coverage.py [--simulations 500]
"""
from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from evalkit.statistics import wilson_interval
from leaderboards.ranking import rank_board
from leaderboards.reading import read_board_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "leaderboards"))
from boards import METRICS, make_board

SETTINGS = {  # name -> of the simulated board; gap in standard deviations of one prompt's score
    "6 models, 40 prompts, gap 0.25": {"models": 6, "prompts": 40, "gap": 0.25},
    "6 models, 40 prompts, gap 0.001": {"models": 6, "prompts": 40, "gap": 0.001},
    "6 models, 12 prompts, gap 0.5": {"models": 6, "prompts": 12, "gap": 0.5},
    "12 models, 100 prompts, gap 0.25": {"models": 12, "prompts": 100, "gap": 0.25},
}
WAYS = ("farm", "composite", "wins", "fvd_mini")
COLUMNS = {name: METRICS[name] for name in ("farm", "artifacts")}


def coverage(setting: dict, simulations: int) -> dict[str, tuple[float, float, float]]:
    """Way to rank -> share of boards whose ranges all hold, share of ranges that hold, mean width in ranks."""
    found: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for seed in range(simulations):
        with tempfile.TemporaryDirectory() as folder:
            board = make_board(Path(folder), seed=seed, references=False, metrics=COLUMNS, **setting)
            rows = read_board_rows(board)
            for way in WAYS:
                ranking = rank_board(board, rows, way, draws=500, seed=seed)
                ranges = {row.submission.slug: row.rank_range for row in ranking.rows}
                found[way].append(np.array([ranges[f"model-{i:02d}"] for i in range(setting["models"])]))
    truth = np.arange(1, setting["models"] + 1)
    summary = {}
    for way, ranges in found.items():
        low, high = np.moveaxis(np.array(ranges), 2, 0)
        held = (low <= truth) & (truth <= high)
        summary[way] = float(held.all(1).mean()), float(held.mean()), float((high - low + 1).mean())
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=500)
    count = parser.parse_args().simulations
    print(f"{count} simulated boards each; 95 % ranges; width 1 is a rank known exactly\n")
    print("| board | ranked by | all ranges hold | a range holds | mean width |\n|---|---|---|---|---|")
    for name, setting in SETTINGS.items():
        for way, (together, single, width) in coverage(setting, count).items():
            low, high = wilson_interval(together, count)
            print(f"| {name} | {way} | {together:.1%} [{low:.1%}, {high:.1%}] | {single:.2%} | {width:.2f} |",
                  flush=True)


if __name__ == "__main__":
    main()
