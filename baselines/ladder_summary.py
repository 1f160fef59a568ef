"""ladder.json: what was measured of one ladder, or of several with other training seeds, as numbers with intervals."""
from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines.ladder_fronts import fronts
from baselines.ladder_rungs import MATCHED
from baselines.ladder_scores import METRICS, PARTS, TRUTH, Scores, metric_of
from baselines.ladder_statistics import Mean, mean_of, mean_of_sets, overoptimization, win_rate
from evalkit.errors import UsageError
from evalkit.metrics.base import SetMetric
from evalkit.metrics.frechet import frechet_difference
from evalkit.results import write_atomic
from evalkit.statistics import holm

RESULT, PLAN, TIMES, SCORES = "ladder.json", "rungs.json", "seconds.json", "scores"
WINS = ("truth.overall", "truth.visual", "truth.motion", "truth.text", "preference", "guarded", "farm")
OWN = {"truth.overall": "mean of the next three, read from the clip by the oracle",
       "truth.visual": "what visible defects leave of it", "truth.motion": "what defects of its course leave of it",
       "truth.text": "share of what the prompt says that is so",
       "truth.follows": "share of clips whose shape, colour and direction are all as the prompt says",
       "diversity_pixels": "mean distance of the samples of a prompt, in pixels shrunk to 16 x 16",
       "diversity_mini": "mean cosine distance of the samples of a prompt, in the features of fvd_mini"}
REAL = {"real": "clean clips of the world with the same prompts", "real-vae": "these, through the VAE and back",
        "reference": "as many other clean clips"}
KIND = "video-evalkit ladder"
LEVEL = 0.05


@dataclass
class Measured:
    """A rung or point: its plan, what was noted when it was scored, and its scores, the last two by training seed."""

    plan: dict[str, Any]
    facts: list[dict[str, Any]]
    scores: list[Scores]
    of_sets: dict[tuple[str, int | None], Mean | None] = field(default_factory=dict)  # kept: a second each

    def per_sample(self, name: str, prompts: int | None = None) -> np.ndarray | None:
        """(S, P, K): seeds, prompts (the first of them), samples of each; None where some seed lacks the number."""
        if any(name not in one.values for one in self.scores):
            return None
        count = len(set(self.scores[0].prompts))
        found = np.stack([one.values[name].reshape(count, -1) for one in self.scores])
        return found[:, :prompts]

    def per_prompt(self, name: str, prompts: int | None = None) -> np.ndarray | None:
        """(S, P)."""
        found = self.per_sample(name, prompts)
        return None if found is None else found.mean(2)

    def names(self) -> list[str]:
        return [name for name in columns() if all(name in one.values for one in self.scores)]

    def fact(self, name: str) -> float | None:
        found = [one[name] for one in self.facts if name in one]
        return float(np.mean(found)) if found else None


def columns() -> list[str]:
    """Every number that a clip can have, in the order shown."""
    shown = [f"truth.{name}" for name in TRUTH]
    for name in METRICS:
        shown += [name, *(f"{name}.{part}" for part in PARTS.get(name, ()))]
    return list(dict.fromkeys(shown + list(OWN)))


def is_better_high(name: str) -> bool:
    """Of a column: parts, truth and diversities are better high."""
    return metric_of(name).higher_is_better if name in METRICS else True


def range_of(name: str) -> tuple[float, float]:
    """What a column can be at least and at most; infinite where nothing is known."""
    if name.startswith("truth."):
        return 0.0, 1.0
    return metric_of(name).range if name in METRICS else (-math.inf, math.inf)


def write_summary(folders: Sequence[Path], out: Path) -> Path:
    """`out`/ladder.json of the ladders in `folders`. UsageError where one is not finished, or they differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # thousands of tiny matrices: threads waiting for each other take ten times as long
    try:
        text = json.dumps(_summary(folders, out), indent=1, allow_nan=False)
        return write_atomic(out / RESULT, (text + "\n").encode())
    finally:
        torch.set_num_threads(threads)


def _summary(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    plans = [_plan(folder) for folder in folders]
    _check_alike(plans, folders)
    rungs = [_read(folders, plan) for plan in plans[0]["rungs"]]
    points = [_read(folders, plan) for plan in plans[0]["points"]]
    extra = {name: _read(folders, {"name": name, "about": about}) for name, about in REAL.items()
             if all((folder / SCORES / f"{name}.npz").is_file() for folder in folders)}
    reference = extra.pop("reference")
    by_name = {one.plan["name"]: one for one in rungs}
    swept = plans[0]["config"]["swept"]
    _compute_sets([*rungs, *points, *extra.values()], reference, swept)
    return {
        "kind": KIND, "facts": _facts(plans), "config": plans[0]["config"],
        "seeds": [plan["config"]["seed"] for plan in plans],
        "folders": [os.path.relpath(folder, out) for folder in folders],
        "seconds": [json.loads((folder / TIMES).read_text()) for folder in folders],
        **scored(extra, by_name, reference),
        "points": [_entry(one, reference, swept) for one in points],
        "training": list(_courses(by_name, points, swept)),
        "overoptimization": list(_fits(by_name, points, swept)),
        "fronts": fronts([*rungs, *points], list(extra.values()), reference, swept),
    }


def scored(extra: dict[str, Measured], rungs: dict[str, Measured], reference: Measured | None) -> dict[str, Any]:
    """"metrics", "rungs" and "comparisons" of ladder.json; `extra` are shown with the rungs, and compared with none.

    reference: what set metrics measure the distance from; None where there are none.
    """
    return {"metrics": _metrics(next(iter(rungs.values()))),
            "rungs": {name: _entry(one, reference) for name, one in {**extra, **rungs}.items()},
            "comparisons": list(_comparisons(rungs, reference))}


def _facts(plans: Sequence[dict[str, Any]]) -> list[str]:
    config, seeds = plans[0]["config"], ", ".join(str(plan["config"]["seed"]) for plan in plans)
    return [f"preset {config['preset']}", f"training seed{'s' * (len(plans) > 1)} {seeds}",
            f"{config['prompts']} held-out prompts, {config['samples']} samples of each, the same for every rung",
            f"{config['sample_steps']} sampling steps, guidance {config['guidance']:g}"]


def _plan(folder: Path) -> dict[str, Any]:
    path = folder / PLAN
    if not path.is_file():
        raise UsageError(f"{folder}: expected a finished ladder, found no {PLAN}; `evalkit baseline ladder --out "
                         f"{folder}` goes on where it was")
    return json.loads(path.read_text())


def _check_alike(plans: Sequence[dict[str, Any]], folders: Sequence[Path]) -> None:
    free = ("seed", "out", "device", "source", "sample_batch")
    for plan, folder in zip(plans, folders, strict=True):
        differ = [f"{name} {value!r}, and {plans[0]['config'].get(name)!r}" for name, value in plan["config"].items()
                  if name not in free and value != plans[0]["config"].get(name)]
        names = [[one["name"] for one in plan[kind]] for kind in ("rungs", "points")]
        if differ or names != [[one["name"] for one in plans[0][kind]] for kind in ("rungs", "points")]:
            raise UsageError(f"{folder} and {folders[0]} are not ladders of one kind: {'; '.join(differ) or 'rungs'}")
    seeds = [plan["config"]["seed"] for plan in plans]
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"expected ladders of different training seeds, got {', '.join(map(str, seeds))}")


def _read(folders: Sequence[Path], plan: dict[str, Any]) -> Measured:
    places = [folder / SCORES / plan["name"] for folder in folders]
    facts = [json.loads(Path(f"{place}.json").read_text()) for place in places]
    return Measured(plan, facts, [Scores.load(Path(f"{place}.npz")) for place in places])


def _metrics(rung: Measured) -> dict[str, Any]:
    found = {}
    for name in [*rung.names(), *rung.scores[0].features]:
        own = name in METRICS
        found[name] = {"higher_is_better": is_better_high(name), "unit": metric_of(name).unit if own else "",
                       "summary": metric_of(name).summary if own else OWN.get(name, "")}
    return found


def _entry(one: Measured, reference: Measured | None, prompts: int | None = None) -> dict[str, Any]:
    scores = {}
    for name in one.names():
        values = one.per_prompt(name, prompts)
        scores[name] = mean_of(values).within(*range_of(name)).row() | {"n": int(values.shape[1])}
    scores |= {name: found.row() for name in one.scores[0].features
               if (found := set_score(one, reference, name, prompts)) is not None}
    return one.plan | {"kl": one.fact("kl"), "implicit": one.fact("implicit"), "scores": scores,
                       "lora_scale": one.fact("lora_scale"),
                       "without": one.scores[0].without,
                       "checkpoints": [fact.get("checkpoint") for fact in one.facts]}


def set_score(one: Measured, reference: Measured, name: str, prompts: int | None = None) -> Mean | None:
    """A set metric's number from the first prompts' clips against the whole reference; None for too few of them."""
    if (name, prompts) not in one.of_sets:
        one.of_sets[name, prompts] = _set_score(one, reference, name, prompts)
    return one.of_sets[name, prompts]


def _set_score(one: Measured, reference: Measured, name: str, prompts: int | None) -> Mean | None:
    metric: SetMetric = metric_of(name)
    found = []
    for mine, other in zip(one.scores, reference.scores, strict=True):
        rows = mine.features[name][: _rows(mine, prompts)]
        if min(len(rows), len(other.features[name])) < metric.minimum:
            return None
        found.append(metric.compute(_double(rows), _double(other.features[name]), None, 0))
    return mean_of_sets([one.value for one in found], [one.ci95 for one in found]).within(*range_of(name))


def _compute_sets(measured: Sequence[Measured], reference: Measured, swept: int) -> None:
    """All of the slow ones, in threads: almost all of their time goes into decompositions of small matrices."""
    wanted = [(one, name, prompts) for one in measured for name in one.scores[0].features
              for prompts in ((swept,) if one.plan.get("axis") else (None, swept))]
    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0))), initializer=torch.set_num_threads,
                            initargs=(1,)) as pool:  # the number is each thread's own
        list(pool.map(lambda args: set_score(args[0], reference, *args[1:]), wanted))


def _rows(scores: Scores, prompts: int | None) -> int | None:
    return None if prompts is None else prompts * (len(scores.prompts) // len(set(scores.prompts)))


def _double(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows).double()


def _comparisons(rungs: dict[str, Measured], reference: Measured | None) -> Iterable[dict[str, Any]]:
    """Each rung against its parent, and the guarded reward against the unguarded one, at matched distance."""
    pairs = [(one.plan["parent"], name) for name, one in rungs.items() if one.plan["parent"]]
    if set(MATCHED) <= set(rungs):
        pairs.append(MATCHED)
    for below, above in pairs:
        a, b = rungs[below], rungs[above]
        names = [name for name in b.names() if name in a.names()]
        found = {name: mean_of(b.per_prompt(name) - a.per_prompt(name), test=True) for name in names}
        adjusted = dict(zip(found, holm([1.0 if one.p_value is None else one.p_value for one in found.values()]),
                            strict=True))
        changes = {name: one.row() | {"p_adjusted": adjusted[name],
                                      "verdict": _verdict(name, one.value, adjusted[name])}
                   for name, one in found.items()}
        for name in b.scores[0].features:
            changes |= _set_change(a, b, reference, name)
        wins = {name: win_rate(b.per_sample(name), a.per_sample(name)).row() for name in WINS if name in names}
        yield {"below": below, "above": above, "changes": changes, "wins": wins,
               "prompts": int(b.per_prompt(names[0]).shape[1]), "pairs": int(b.per_sample(names[0]).size)}


def _verdict(name: str, difference: float, p: float) -> str:
    if p >= LEVEL or difference == 0:
        return "no clear change"
    return "better" if (difference > 0) == is_better_high(name) else "worse"


def _set_change(a: Measured, b: Measured, reference: Measured, name: str) -> dict[str, Any]:
    if set_score(a, reference, name) is None or name != "fvd_mini":
        return {}
    found = [frechet_difference(*(_double(one.features[name]) for one in three), splits=20)
             for three in zip(a.scores, b.scores, reference.scores, strict=True)]
    mean = mean_of_sets([one.difference for one in found], [one.ci95 for one in found])
    clear = mean.ci95 is not None and (mean.ci95[0] > 0 or mean.ci95[1] < 0)
    return {name: mean.row() | {"p_adjusted": None, "verdict": _verdict(name, mean.value, 0.0 if clear else 1.0)}}


def _courses(rungs: dict[str, Measured], points: Sequence[Measured], swept: int) -> Iterable[dict[str, Any]]:
    """Change over training of the reward that was optimized, of one that never was, and of the truth."""
    for name, rung in rungs.items():
        mine = sorted((one for one in points if one.plan["parent"] == name and one.plan["axis"] == "training"),
                      key=lambda one: one.plan["at"])
        if not mine:
            continue
        proxy = rung.plan["proxy"] or "truth.overall"
        shown = {"proxy": proxy, "held out": "preference", "truth": "truth.overall"}
        course = [(0, rungs[rung.plan["parent"]]), *((one.plan["at"], one) for one in mine)]
        if (last := rung.fact("step") or 0) > mine[-1].plan["at"]:  # else it was scaled to match another
            course.append((last, rung))
        yield {"rung": name, "shown": shown, "steps": [at for at, _ in course],
               "kl": [0.0, *(one.fact("kl") for _, one in course[1:])],
               "changes": {kind: [mean_of(one.per_prompt(column, swept) - course[0][1].per_prompt(column, swept)).row()
                                  for _, one in course]
                           for kind, column in shown.items()
                           if all(one.per_prompt(column) is not None for _, one in course)}}


def _fits(rungs: dict[str, Measured], points: Sequence[Measured], swept: int) -> Iterable[dict[str, Any]]:
    """The over-optimization law of each rung with points along its training or its adapter's scale."""
    for name, rung in rungs.items():
        mine = [one for one in points if one.plan["parent"] == name and one.plan["axis"] in ("training", "lora_scale")]
        if not mine:
            continue
        mine.append(rung)
        start, d = rungs[rung.plan["parent"]], [max(0.0, one.fact("kl") or 0.0) ** 0.5 for one in mine]
        shown = dict.fromkeys((rung.plan["proxy"] or "truth.overall", "preference", "truth.overall"))
        for column in shown:
            if any(one.per_prompt(column) is None for one in [start, *mine]):
                continue
            gains = np.stack([one.per_prompt(column, swept) - start.per_prompt(column, swept) for one in mine])
            fit = overoptimization(d, gains)
            found = {"rung": name, "column": column, "d": d, "gains": gains.mean((1, 2)).tolist()}
            yield found if fit is None else found | {"a": fit.a.row(), "b": fit.b.row(), "peak": fit.peak,
                                                     "r2": fit.r2}
