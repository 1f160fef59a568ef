"""Simulated boards whose true order is known: model-00 is the best, model-01 the next, and so on."""
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save

from evalkit.results import Score, protocol_id, write_atomic
from evalkit.statistics import cluster_bootstrap
from leaderboards.schema import (
    Anchor,
    Board,
    BoardMetric,
    Checkpoint,
    FileEntry,
    Generation,
    Submission,
    format_json,
)
from leaderboards.table_checks import fingerprint_prompts

METRICS = {  # name -> better if higher, mean, standard deviation over prompts, unit
    "farm": (True, 0.7, 0.1, ""),
    "clip_alignment": (True, 0.3, 0.02, ""),
    "artifacts": (False, 0.4, 0.1, ""),
    "dynamic_degree": (True, 20.0, 5.0, "% of short side/s"),
}
SET_METRICS = {"fvd_mini": (False, 12.0, 2.0, "")}
COLOURS = ("red", "blue", "green", "yellow", "white")


def make_board(folder: Path, *, models: int = 6, prompts: int = 40, seeds: int = 1, gap: float = 0.25,
               references: bool = True, checkpoints: int = 0, seed: int = 0, metrics: dict | None = None) -> Board:
    """Write `boards/simulated.json` and its submissions below `folder`.

    gap: by how much a model beats the next, in standard deviations of a per-prompt score (of every metric alike).
    checkpoints: rows of one training run "tiny-dpo" with the middle quality and rising steps, beside the models.
    metrics: as METRICS, for another choice of columns.
    """
    per_video = METRICS if metrics is None else metrics
    board = Board("simulated", "Simulated models", "farm" if metrics is None else next(iter(per_video)), {
        name: BoardMetric(better, unit, summary=f"simulated {name}", protocol=protocol_id(protocol_of(name)),
                          weight=float(name in per_video), anchor=Anchor(mean, std))
        for name, (better, mean, std, unit) in {**per_video, **SET_METRICS}.items()},
        {protocol_id(protocol_of(name)): protocol_of(name) for name in (*per_video, *SET_METRICS)},
        path=folder / "boards" / "simulated.json")
    board = replace(board, prompts=fingerprint_prompts([prompt_of(i) for i in range(prompts)] * seeds))
    write_atomic(board.path, format_json(board.to_json()))
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=prompts)
    for i in range(models):
        write_row(board, f"model-{i:02d}", gap * ((models - 1) / 2 - i), difficulty, seeds, rng, per_video)
    for i in range(checkpoints):
        write_row(board, f"tiny-dpo-{100 * (i + 1):04d}", gap * (i - checkpoints / 2), difficulty, seeds, rng,
                  per_video, checkpoint=Checkpoint("tiny-dpo", 100 * (i + 1)))
    for name, quality in {"frozen": -4.0, "noise": -6.0, "real": 3.0}.items() if references else ():
        write_row(board, name, quality, difficulty, seeds, rng, per_video, kind="reference", generation=None)
    return board


def write_row(board: Board, name: str, quality: float, difficulty: np.ndarray, seeds: int, rng: np.random.Generator,
              per_video: dict = METRICS, slug: str = "", **fields) -> Submission:
    """One submission of that true quality (in standard deviations), with its files; `fields` replace the defaults."""
    slug, prompts = slug or name, len(difficulty)
    table = pd.DataFrame({
        "video": [f"{i:03d}-{s}.mp4" for i in range(prompts) for s in range(seeds)],
        "prompt": [prompt_of(i) for i in range(prompts) for _ in range(seeds)],
        "seed": list(range(seeds)) * prompts,
        "content": [hashlib.sha256(f"{slug}/{i}".encode()).hexdigest() for i in range(prompts * seeds)],
        "error": pd.array([None] * prompts * seeds, dtype="string"),
    })
    scores = {}
    for metric, (better, mean, std, unit) in per_video.items():
        drawn = quality + 0.5 * np.repeat(difficulty, seeds) + rng.normal(size=len(table))
        table[metric] = mean + std * (1 if better else -1) * drawn
        table[f"{metric}.part"] = table[metric] / 2
        interval = cluster_bootstrap(table[metric], table["prompt"])
        scores[metric] = Score(float(table[metric].mean()), interval,
                               len(table), unit, better, protocol_id(protocol_of(metric)))
    features = rng.normal(size=(len(table), 8)).astype(np.float32)
    for metric, (better, mean, std, unit) in SET_METRICS.items():
        value = mean + std * (1 if better else -1) * (quality + 0.2 * rng.normal())
        scores[metric] = Score(value, (value - 0.4 * std, value + 0.4 * std), len(table), unit, better,
                               protocol_id(protocol_of(metric)), floor=mean / 10)
    path = board.folder / f"{slug}.json"
    row = Submission(
        slug=slug, board=board.name, name=name, submitted="2026-11-01", scores=scores, protocols=board.protocols,
        counts={"found": len(table), "scored": len(table), "failed": 0}, versions={"video-evalkit": "0.1.0"}, seed=0,
        videos=_write_file(path, slug, "videos.parquet", table.to_parquet(index=False)),
        features=_write_file(path, slug, "features.safetensors", save(dict.fromkeys(SET_METRICS, features))),
        generation=Generation(tuple(range(seeds)), False, "euler", 5.0, (64, 64), 8.0, 30, 16),
        links={"code": "https://example.org/model"}, commit="0123abc", path=path)
    row = replace(row, **fields)
    write_atomic(path, format_json(row.to_json()))
    return row


def prompt_of(index: int) -> str:
    return f"a {COLOURS[index % len(COLOURS)]} ball moves, number {index}"


def protocol_of(metric: str) -> dict:
    return {"metric": metric, "version": 1, "clips": {"num_frames": 16}, "decoder": "pyav/1"}


def _write_file(path: Path, slug: str, name: str, data: bytes) -> FileEntry:
    write_atomic(path.parent / slug / name, data)
    return FileEntry(f"{slug}/{name}", hashlib.sha256(data).hexdigest(), len(data))
