"""A small board with everything that the site shows: clips, a verified and a withdrawn row, a run, and hostile text."""
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from boards import make_board, write_row

from evalkit.data.synthetic import render_clip
from evalkit.data.video import write_video
from evalkit.results import write_atomic
from leaderboards.reading import read_submission
from leaderboards.schema import Board, FileEntry, Submission, Verification, Withdrawal, format_json

EVIL = "<script>alert(1)</script>"
EVIL_PROMPT = "</script><img src=x onerror=alert(2)> %{x} a ball"
CLIPS = 4  # of each of model-01 and model-03


def make_site_board(folder: Path, models: int = 6, prompts: int = 24) -> Board:
    """`models` simulated models, four checkpoints of a run, reference rows, and a row named EVIL."""
    board = make_board(folder, models=models, prompts=prompts, checkpoints=4)
    for slug in ("model-01", "model-03"):
        add_clips(read_submission(board.folder / f"{slug}.json"))
    best = read_submission(board.folder / "model-00.json")
    deviations = dict.fromkeys(best.rescorable, 1e-5) | {"farm": 2e-4}
    change(board, "model-00", verification=Verification(
        "the board's keepers", "2026-11-02", 6 / prompts, 6, deviations, best.scored_sha256))
    change(board, "model-04", withdrawal=Withdrawal("2026-11-03", f"{EVIL} trained on the prompts"))
    lacking = read_submission(board.folder / "model-02.json").scores
    null = replace(lacking["fvd_mini"], value=None, ci95=None, floor=None, n=0, reason="24 of 128 clips")
    change(board, "model-02", scores={**lacking, "fvd_mini": null})
    rng = np.random.default_rng(1)
    row = write_row(board, EVIL, 0.1, rng.normal(size=prompts), 1, rng, slug="evil")
    table = row.read_videos()
    table.loc[0, "prompt"], table.loc[1, "video"] = EVIL_PROMPT, '"><b>.mp4'
    data = table.to_parquet(index=False)
    write_atomic(row.locate(row.videos), data)
    change(board, "evil", videos=FileEntry("evil/videos.parquet", hashlib.sha256(data).hexdigest(), len(data)))
    return board


def change(board: Board, slug: str, **fields) -> Submission:
    """Write a submission again with other fields."""
    row = replace(read_submission(board.folder / f"{slug}.json"), **fields)
    write_atomic(row.path, format_json(row.to_json()))
    return row


def add_clips(row: Submission, count: int = CLIPS) -> None:
    """Real clips of the made-up world for the first videos of a row."""
    clips = {}
    for i in range(count):
        video = f"{i:03d}-0.mp4"
        clips[video] = f"{row.slug}/clips/{video}"
        (row.path.parent / row.slug / "clips").mkdir(exist_ok=True)
        write_video(row.locate(clips[video]), render_clip(len(row.slug) + i, size=64, content=i).frames, 8.0)
    write_atomic(row.path, format_json(replace(row, clips=clips).to_json()))


