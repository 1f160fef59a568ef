"""Rows of videos become scores with intervals, each under the id of the protocol that it depends on."""
from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit.data.items import printable
from evalkit.data.video import decoder_version
from evalkit.features.base import MissingWeights
from evalkit.metrics.base import Metric, PerClipMetric, SetMetric
from evalkit.plan import Plan
from evalkit.reference import ReferenceFeatures
from evalkit.results import Report, Score, protocol_id
from evalkit.scoring import VideoRow
from evalkit.statistics import cluster_bootstrap


def make_report(plan: Plan, rows: Sequence[VideoRow], references: ReferenceFeatures | None,
                twins: Mapping[str, Sequence[VideoRow]], *, reference_failures: list[dict[str, str]], model: str,
                decoder: str, seed: int, device: str, wall_seconds: float) -> Report:
    """Average, bootstrap and compare; every metric that was asked for has a score or a reason."""
    scores, protocols = {}, {}
    for name, metric in plan.declared.items():
        protocol = full_protocol(metric, decoder, seed, plan, references)
        identity = protocol_id(protocol)
        protocols[identity] = protocol
        scores[name] = _score(name, metric, plan, rows, references, twins, identity, seed, decoder)
    failed = sum(bool(row.errors) for row in rows)
    return Report(
        model=model, scores=scores, protocols=protocols,
        counts={"found": len(rows), "scored": len(rows) - failed, "failed": failed},
        failures=list_failures(rows) + reference_failures,
        environment=environment(device, seed, wall_seconds),
        videos=make_table(plan, rows),
        curves={name: {row.name: {key: curve.tolist() for key, curve in row.curves[name].items()}
                       for row in rows if row.curves.get(name)} for name in plan.metrics},
        features={name: np.concatenate(found) for name in plan.metrics
                  if (found := [row.features[name] for row in rows if name in row.features])},
    )


def list_failures(rows: Sequence[VideoRow], prefix: str = "") -> list[dict[str, str]]:
    """What went wrong as the results list it: one entry per video and metric, or per video that cannot be read."""
    return [{"path": row.name, "error": prefix + (f"{metric}: {why}" if metric else why)}
            for row in rows for metric, why in sorted(row.errors.items())]


def full_protocol(metric: Metric, decoder: str, seed: int, plan: Plan,
                  references: ReferenceFeatures | None) -> dict[str, Any]:
    """Everything that the score depends on besides the scored videos themselves."""
    try:
        protocol = metric.protocol()
    except (MissingWeights, ImportError):
        protocol = {
            "metric": metric.name, "version": metric.version, "clips": metric.spec.protocol(),
            "extractors": [{"extractor": key, "version": None, "weights_sha256": None}
                           for key in metric.extractor_keys],
            "parameters": {},
        }
    from_files = any(isinstance(item.source, Path) for item in plan.items)
    protocol["decoder"] = decoder_version(decoder if from_files else "frames")
    if metric.spec.placement == "random" or isinstance(metric, SetMetric):
        protocol["seed"] = seed
    if metric.needs_fps or metric.spec.fps:
        rates = {item.fps for item in plan.items}
        protocol["fps_given"] = rates.pop() if len(rates) == 1 else "per video"
    if isinstance(metric, SetMetric) and metric.needs_reference == "set" and metric.name in plan.metrics:
        found = references.find(metric, decoder, seed) if references else None
        protocol["reference"] = {"fingerprint": found[1], "n": len(found[0])} if found else None
    return protocol


def _score(name: str, metric: Metric, plan: Plan, rows: Sequence[VideoRow], references: ReferenceFeatures | None,
           twins: Mapping[str, Sequence[VideoRow]], identity: str, seed: int, decoder: str) -> Score:
    def null(reason: str, n: int = 0) -> Score:
        return Score(None, None, n, metric.unit, metric.higher_is_better, identity, reason)

    if name in plan.unavailable:
        return null(plan.unavailable[name])
    if isinstance(metric, SetMetric):
        return _set_score(name, metric, plan, rows, references, identity, seed, decoder, null)
    used = [row for row in rows if name in row.values]
    if not used:
        return null(_why_none(name, rows))
    values = np.array([row.values[name] for row in used])
    clusters = [plan.items[row.index].prompt or row.name for row in used]
    baselines = {twin: float(np.mean([row.values[name] for row in found if name in row.values]))
                 for twin, found in twins.items() if any(name in row.values for row in found)}
    interval = cluster_bootstrap(values, clusters, seed=seed)
    if interval is not None:  # Student's t knows no bounds, the metric does
        interval = tuple(min(max(end, metric.range[0]), metric.range[1]) for end in interval)
    return Score(float(values.mean()), interval, len(values), metric.unit, metric.higher_is_better, identity,
                 details={"trivial": baselines} if baselines else {})


def _set_score(name: str, metric: SetMetric, plan: Plan, rows: Sequence[VideoRow],
               references: ReferenceFeatures | None, identity: str, seed: int, decoder: str, null: Any) -> Score:
    used = [row for row in rows if name in row.features]
    if not used:
        return null(_why_none(name, rows))
    generated = torch.from_numpy(np.concatenate([row.features[name] for row in used])).double()
    prompts = [plan.items[row.index].prompt or "" for row in used for _ in row.features[name]]
    reference = None
    if metric.needs_reference == "set":
        found = references.find(metric, decoder, seed) if references else None
        if found is None:
            return null("no video of the reference could be scored", len(generated))
        reference = torch.from_numpy(found[0]).double()
    result = metric.compute(generated, reference, prompts, seed)
    return Score(result.value, result.ci95, result.n, metric.unit, metric.higher_is_better, identity,
                 result.reason, result.floor, dict(result.details))


def _why_none(name: str, rows: Sequence[VideoRow]) -> str:
    errors = [row.errors.get(name) or row.errors.get("") or "" for row in rows]
    first = next((error for error in errors if error), "no videos")
    return f"none of {len(rows)} videos could be scored; the first: {first}"


def make_table(plan: Plan, rows: Sequence[VideoRow]):
    """One row per video found, one column per per-video score and component (pandas DataFrame)."""
    import pandas as pd

    records = []
    for row in rows:
        item = plan.items[row.index]
        record: dict[str, Any] = {
            "video": row.name, "path": printable(str(item.source)) if isinstance(item.source, Path) else None,
            "prompt": item.prompt, "seed": item.seed, "content": row.content,
            "error": "; ".join(f"{name}: {why}" if name else why for name, why in sorted(row.errors.items())) or None,
        }
        for name in (name for name, metric in plan.metrics.items() if isinstance(metric, PerClipMetric)):
            record[name] = row.values.get(name, float("nan"))
            record |= {f"{name}.{part}": value for part, value in row.components.get(name, {}).items()}
        records.append(record)
    table = pd.DataFrame.from_records(records).astype({"prompt": "string", "path": "string", "error": "string"})
    seeds = [plan.items[row.index].seed for row in rows]
    if all(seed is None or -2**63 <= seed < 2**63 for seed in seeds):
        table["seed"] = pd.array(seeds, dtype="Int64")
    else:  # torch's own seeds reach 2**64 - 1
        table["seed"] = pd.array([None if seed is None else str(seed) for seed in seeds], dtype="string")
    return table


def environment(device: str, seed: int, wall_seconds: float) -> dict[str, Any]:
    """What ran where: for the record, not for comparison."""
    versions = {"python": platform.python_version()}
    for package in ("video-evalkit", "torch", "torchvision", "av", "numpy", "transformers", "open_clip_torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {"versions": versions, "device": f"{device} ({name})", "commit": _commit(), "seed": seed,
            "wall_seconds": round(wall_seconds, 3), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}


def _commit() -> str:
    """The commit of evalkit's own source, or "" for an installed package."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    if shutil.which("git") is None:
        return ""
    found = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
                           capture_output=True, text=True, check=False)
    return found.stdout.strip()
