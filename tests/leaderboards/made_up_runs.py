"""A run folder as `evalkit run` leaves it, with made-up scores."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from evalkit.results import Report, Score, protocol_id
from evalkit.statistics import cluster_bootstrap

METRICS = ("temporal_flicker", "farm", "fvd_mini")


def make_report(folder, *, shift=0.0, frames=16, prompts=4, without=(), nulls=()):
    """Two videos per prompt; `frames` is part of farm's protocol. Returns the folder."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "video": [f"{i}.mp4" for i in range(2 * prompts)],
        "path": [str(folder / f"{i}.mp4") for i in range(2 * prompts)],
        "prompt": [f"prompt {i // 2}" for i in range(2 * prompts)], "seed": [0, 1] * prompts,
        "content": [f"{i:064x}" for i in range(2 * prompts)],
        "error": pd.array([None] * 2 * prompts, dtype="string")})
    protocols = {name: {"metric": name, "clips": {"num_frames": frames if name == "farm" else 8}} for name in METRICS}
    scores = {}
    for name in METRICS[:2]:
        table[name] = 0.5 + 0.05 * rng.random(len(table)) + shift
        scores[name] = Score(float(table[name].mean()), cluster_bootstrap(table[name], table["prompt"]), len(table), "",
                             True, protocol_id(protocols[name]))
    scores["fvd_mini"] = Score(3.0, (2.0, 4.0), len(table), "", False, protocol_id(protocols["fvd_mini"]))
    scores |= {name: replace(scores[name], value=None, ci95=None, reason="weights are\nmissing") for name in nulls}
    report = Report(
        "model", {name: score for name, score in scores.items() if name not in without},
        {protocol_id(one): one for one in protocols.values()},
        {"found": len(table), "scored": len(table), "failed": 0}, [],
        {"versions": {"video-evalkit": "0.1.0"}, "seed": 0, "command": ["evalkit", "run", "/home/me"]},
        table.drop(columns=[*{*without, *nulls} & {*table}]),
        features={"fvd_mini": rng.normal(size=(len(table), 4)).astype(np.float32)})
    report.save(folder)
    return folder
