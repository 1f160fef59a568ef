"""What `evalkit quickstart` shows of alignment: the shipped checkpoints sampled, scored, and their trade-off drawn."""
from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from baselines.checkpoints import read_card
from baselines.data import captioned
from baselines.ladder_report import write_report
from baselines.ladder_rungs import Rung
from baselines.ladder_scores import PARTS, Scores, diversities, keep_grid, truth_of
from baselines.ladder_summary import KIND, RESULT, Measured, scored
from baselines.reading import read_frames
from baselines.sample import Config as SampleConfig
from baselines.sample import sample
from baselines.shipped import RUNGS, shipped
from evalkit.progress import shown_progress
from evalkit.results import write_atomic
from evalkit.runner import evaluate

METRICS = ("clip_alignment_mini", "frame_consistency_mini", "temporal_flicker", "dynamic_degree", "farm", "guarded",
           "preference")
FIRST_SEED = 40_000_000  # no training draws it, and no ladder


def run(out: Path, workers: int | None = None, *, prompts: int = 10, samples: int = 2, steps: int = 10) -> Path | None:
    """Sample and score what is shipped, all of it from the same prompts and seeds; returns the page, None without any.

    Samples that are in `out` already are kept. UsageError for damaged weights.
    """
    rungs = shipped()
    lacking = [rung.name for rung in RUNGS if rung.name not in {one.name for one in rungs}]
    if lacking:
        print(f"Not shipped with this version, and left out: {', '.join(lacking)}.")
    if not rungs:
        return None
    print(f"\nSampling {len(rungs)} real checkpoints, {', '.join(rung.name for rung in rungs)}: {prompts} held-out "
          f"prompts × {samples} seeds, {steps} steps each.")
    found = {}
    for rung in rungs:
        folder = out / rung.name / "samples"
        with shown_progress("samples") as progress:
            sample(SampleConfig(source=rung.folder, prompts=f"world:{prompts}", out=str(folder), samples=samples,
                                seed=FIRST_SEED, steps=steps),
                   lambda stage, done, of, name=rung.name, progress=progress: progress(f"{name}: {stage}", done, of))
        found[rung.name] = Measured(_plan(rung, found), [{"checkpoint": read_card(rung.folder).identity}],
                                    [_score(rung, out, workers)])
    facts = [f"{prompts} held-out prompts, {samples} samples of each, the same for every checkpoint",
             f"{steps} sampling steps, guidance {SampleConfig.guidance:g}",
             "a demonstration: so few prompts show large differences alone"]
    summary = {"kind": KIND, "title": "What alignment gained, and what it cost", "facts": facts, "folders": ["."],
               **scored({}, found, None)}
    write_atomic(out / RESULT, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    return write_report(out)


def _plan(rung: Rung, below: dict[str, Measured]) -> dict:
    """A rung whose parent is not shipped is compared with none."""
    return asdict(rung) | {"parent": rung.parent if rung.parent in below else "", "folder": Path(rung.folder).name}


def _score(rung: Rung, out: Path, workers: int | None) -> Scores:
    """Through `evaluate`, as any other folder of videos, and judged by the oracle."""
    folder = out / rung.name / "samples"
    with shown_progress() as progress:
        report = evaluate(folder / "prompts.jsonl", metrics=METRICS, model=rung.name, workers=workers,
                          progress=lambda stage, done, of, row: progress(f"{rung.name}: {stage}", done, of, row))
    report.save(out / rung.name)
    preset, items = read_card(rung.folder).preset, captioned(str(folder))
    frames = torch.stack([read_frames(item, preset) for item in items])
    scores = Scores([item.prompt or "" for item in items])
    for name in METRICS:
        for column in (name, *(f"{name}.{part}" for part in PARTS.get(name, ()))):
            values = report.videos[column].to_numpy(dtype=np.float64)
            if np.isfinite(values).all():
                scores.values[column] = values
    scores.values |= dict(truth_of(frames.float() / 255, scores.prompts)) | diversities(frames, scores)
    keep_grid(out, rung.name, frames, scores.prompts, preset.fps)
    return scores
