"""What benchmarks/ucf101.py found, as Markdown: set metrics beside damaged real clips, copying, the trade-off."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.ladder_scores import Scores
from evalkit.metrics.base import make_metric
from evalkit.metrics.diversity import mean_pairwise_distance
from evalkit.metrics.kernel import mmd2
from evalkit.metrics.manifold import coverage, density, precision, recall
from evalkit.results import write_atomic
from evalkit.statistics import cluster_bootstrap
from evalkit.table import format_value

DISTANCES = ("fvd_mini", "frechet_squeezenet")
PER_CLIP = ("guarded", "farm", "temporal_flicker", "dynamic_degree", "frame_consistency_mini")
METRICS = (*DISTANCES, *PER_CLIP)
COMPARED = (*DISTANCES, "dynamic_degree")  # of candidates
REAL = ("real", "vae", "blurred", "frozen", "shuffled", "noise")
SPACES = ("layout", "features", "pixels")  # where copies are looked for
DAMAGED = ("noise", "blurred", "frozen", "shuffled")
LADDER = ("pretrain", "sft", "dpo")
NEAREST = ("recall of fvd_mini", "density of frechet_squeezenet")  # to what they have to beat
SEEN = 2.0  # times the distance of real training clips, or this part of their share: there a metric sees a defect
SHARES = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


def rows_of(name: str, scores: Scores) -> Tensor:
    """(N, D) float64 features of a set metric."""
    return torch.from_numpy(scores.features[name].astype(np.float64))


def point_of(name: str, scores: Scores, ref: Scores) -> float:
    """A distance alone."""
    return make_metric(name).point(rows_of(name, scores), rows_of(name, ref), 0)


def measure(scores: Scores, ref: Scores, intervals: bool) -> dict[str, dict[str, Any]]:
    """Metric -> value, its interval where asked for and there are clips enough, and whether lower is better."""
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in DISTANCES if name in ref.features):
        x, y = rows_of(name, scores), rows_of(name, ref)
        ci95 = make_metric(name).compute(x, y, None, 0).ci95 if intervals else None
        found[name] = {"value": point_of(name, scores, ref), "ci95": ci95, "lower": True}
        found[f"mmd² of {name}"] = {"value": mmd2(x, y), "ci95": None, "lower": True}
        if min(len(x), len(y)) > 5:
            found |= {f"{share} of {name}": {"value": function(x, y), "ci95": None, "lower": False}
                      for share, function in SHARES.items()}
    return found


def tables(out: Path, intervals: bool = False) -> str:
    """All of it as Markdown; the numbers also as `out`/tables.json."""
    record = json.loads((out / "record.json").read_text())
    found = {path.stem: Scores.load(path) for path in sorted((out / "scores").glob("*.npz"))}
    ref = found["test"]
    sets = {name: measure(scores, ref, intervals) for name, scores in found.items() if name != "test"}
    fresh = {metric: {"value": float(np.mean([one["values"][metric] for one in record["fresh"]]))}
             for metric in sets["real"]}
    judged = {metric: verdict(metric, sets | {"fresh": fresh}, "fresh") | {
        "value": fresh[metric]["value"], "draws": sum(metric not in one["fails"] for one in record["fresh"])}
        for metric in sets["real"]}
    means = {name: means_of(found[name]) for name in (*LADDER, "real") if name in found}
    write_atomic(out / "tables.json", (json.dumps({
        "sets": sets, "verdicts": judged, "means": means, "record": record}, indent=1) + "\n").encode())
    parts = (_sets(sets, len(found["real"].prompts), len(ref.prompts)), _verdicts(judged, len(record["fresh"])),
             _candidates(record), _trade_off(sets, means), _run(record, ref))
    return "\n\n".join("\n".join(part) for part in parts)


def verdict(metric: str, sets: dict[str, dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    """Whether a set of samples beats each damaged set, and which of these the metric sees at all."""
    lower, real = sets["real"][metric]["lower"], sets["real"][metric]["value"]
    mine = sets[name][metric]["value"]
    beaten, blind = {}, []
    for damaged in DAMAGED:
        value = sets[damaged][metric]["value"]
        seen = value >= SEEN * real if lower else value <= real / SEEN
        if damaged in ("frozen", "shuffled") and not seen:
            blind.append(damaged)
        beaten[damaged] = mine < value if lower else mine > value
    return {"beaten": beaten, "blind": blind, "passed": all(beaten[name] for name in beaten if name not in blind)}


def means_of(scores: Scores) -> dict[str, dict[str, Any]]:
    """Per-clip scores with 95 % intervals over clips, and how different the clips of a class are."""
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in PER_CLIP if name in scores.values):
        values = scores.values[name].tolist()
        found[name] = {"value": float(np.mean(values)), "ci95": cluster_bootstrap(values)}
    for name in (name for name in DISTANCES if name in scores.features):
        classes: dict[str, list[int]] = {}
        for k, prompt in enumerate(scores.prompts):
            classes.setdefault(prompt.rpartition(" ")[0], []).append(k)  # each is numbered
        rows = rows_of(name, scores)
        apart = [mean_pairwise_distance(rows[index]) for index in classes.values() if len(index) > 1]
        found[f"diversity of {name}"] = {"value": float(np.mean(apart)), "ci95": None}
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def _cell(one: dict[str, Any]) -> str:
    if one.get("ci95") is None:
        return format_value(one["value"])
    low, high = one["ci95"]
    return f"{format_value(one['value'])} [{format_value(low)}, {format_value(high)}]"


def _sets(sets: dict[str, Any], count: int, of: int) -> Iterator[str]:
    yield f"{count} clips a set, against {of} test clips:\n"
    names = [name for name in (*LADDER, *REAL) if name in sets]
    yield from markdown(["set metric", *names],
                        [[metric, *(_cell(sets[name][metric]) for name in names)] for metric in sets["real"]])


def _verdicts(judged: dict[str, Any], draws: int) -> Iterator[str]:
    yield (f"Do the pretrained model's samples beat it, on average over {draws} draws that nothing was chosen by? "
           f"(blind, of frozen and shuffled: a distance below {SEEN:g} x that of real clips, or a share above theirs / "
           f"{SEEN:g})\n")
    rows = [[metric, format_value(one["value"]),
             *("blind" if name in one["blind"] else "yes" if one["beaten"][name] else "no" for name in DAMAGED),
             "pass" if one["passed"] else "fails", f"{one['draws']} of {draws}"] for metric, one in judged.items()]
    yield from markdown(["set metric", "mean", *DAMAGED, "", "draws that pass"], rows)


def _candidates(record: dict[str, Any]) -> Iterator[str]:
    yield ("New: share of samples farther from all clips trained on than the 5th percentile of test clips, in means of "
           "blocks of 8 x 8 pixels (layout), in the features of fvd_mini, and in pixels; then of clips that copy "
           "nothing and of copies. Each clip draws its guidance between 1 and a number; it leads away from a weaker "
           "checkpoint, and acts so many times on what moves. Rows of several draws are means\n")
    ways: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in record["samples"].values():
        if one not in record["fresh"]:
            ways.setdefault(_way(one), []).append(one)
    rows = [[*way, *_mean_of(draws)] for way, draws in ways.items()]
    source, *settings = _way(record["chosen"])
    rows.append([f"{source} (fresh draws)", *settings, *_mean_of(record["fresh"])])
    rows += [[name, *_way(one)[1:], *_mean_of([one])] for name, one in record["ladder"].items()]
    rows += [[name, *[""] * 8, *(f"{one[space]:.3f}" for space in SPACES)] for name, one in record["controls"].items()]
    yield from markdown(["samples", "guidance to", "in motion", "draws", "fvd_mini", *NEAREST, "dynamic degree",
                         "beats all damaged sets on", *SPACES], rows)
    yield ""
    yield "Draws of the chosen way that nothing was chosen by\n"
    yield from markdown(["draw", "beats all damaged sets on", "but not on", *record["fresh"][0]["values"]], [
        [str(one["draw"]), f"{one['passed']} of {one['metrics']}", ", ".join(one["fails"]),
         *(format_value(value) for value in one["values"].values())] for one in record["fresh"]])


def _way(one: dict[str, Any]) -> tuple[str, ...]:
    return Path(one["source"]).name, f"{one['guidance_to']:g}", f"{one['motion']:g}"


def _mean_of(draws: Sequence[dict[str, Any]]) -> list[str]:
    def mean(read: Callable[[dict[str, Any]], float]) -> float:
        return float(np.mean([read(one) for one in draws]))

    return [str(len(draws)), format_value(mean(lambda one: one["fvd_mini"])),
            *(format_value(mean(lambda one, name=name: one["values"].get(name, float("nan")))) for name in NEAREST),
            format_value(mean(lambda one: one["dynamic_degree"])),
            f"{mean(lambda one: one['passed']):.3g} of {draws[0]['metrics']}",
            *(f"{mean(lambda one, space=space: one['novelty'][space]):.3f}" for space in SPACES)]


def _trade_off(sets: dict[str, Any], means: dict[str, Any]) -> Iterator[str]:
    yield "The trade-off: means with 95 % intervals over clips\n"
    rows = [[name, *(_cell(sets[name][metric]) for metric in DISTANCES if metric in sets[name]),
             *(_cell(value) for value in one.values())] for name, one in means.items()]
    first = next(iter(means.values()))
    yield from markdown(["", *(metric for metric in DISTANCES if metric in sets["real"]), *first], rows)


def _run(record: dict[str, Any], ref: Scores) -> Iterator[str]:
    yield f"VAE: {record['psnr']:.2f} dB on test clips. Chosen: {record['chosen']}. Steps: {record['steps']}"
    yield f"Seconds: { {name: round(value, 1) for name, value in record['seconds'].items()} }"
    if ref.without:
        yield f"Not to be had: {ref.without}"
