"""Trade-offs between the rungs and the points beside them: who is on the front, and what the front covers."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.pareto import bootstrap_interval, hypervolume, pareto_front

if TYPE_CHECKING:
    from baselines.ladder_summary import Measured

FRONTS = {"quality and diversity": ("truth.overall", "diversity_mini"),
          "looks, coherence and motion": ("farm.aesthetic", "farm.coherence", "dynamic_degree"),
          "alignment and distance to real clips": ("clip_alignment_mini", "fvd_mini")}
DRAWS = 500


def fronts(rows: Sequence[Measured], real: Sequence[Measured], reference: Measured,
           prompts: int) -> list[dict[str, Any]]:
    """Each front over the first `prompts` prompts of all rows: the rungs, and what is swept beside them.

    real: clips that no model made, which are shown and are on no front.
    """
    return [found for title, columns in FRONTS.items()
            if (found := _front(title, columns, rows, real, reference, prompts)) is not None]


def _front(title: str, columns: Sequence[str], rows: Sequence[Measured], real: Sequence[Measured],
           reference: Measured, prompts: int) -> dict[str, Any] | None:
    from baselines.ladder_summary import is_better_high, range_of

    samples = [_samples(one, columns, reference, prompts) for one in rows]
    if any(one is None for one in samples):
        return None
    high, least = [is_better_high(name) for name in columns], [range_of(name)[0] for name in columns]
    cube = np.stack(samples)  # (rows, objectives, prompts)
    values = cube.mean(2)
    worst = np.where(high, np.minimum(values.min(0), 0.0), values.max(0)).tolist()
    on = pareto_front(values, high)
    families = {one.plan["name"]: [k for k, other in enumerate(rows)
                                   if one.plan["name"] in (other.plan["name"], other.plan["parent"])
                                   and (other.plan["axis"] or other is one)]
                for one in rows if not one.plan["axis"]}
    return {"title": title, "columns": list(columns), "higher_is_better": high, "reference_point": worst,
            "rows": [{"name": one.plan["name"], "axis": one.plan["axis"], "at": one.plan["at"],
                      "parent": one.plan["parent"], "kl": one.fact("kl"), "values": values[k].tolist(),
                      "front": bool(on[k])} for k, one in enumerate(rows)],
            "real": [{"name": one.plan["name"], "values": found.mean(1).tolist()} for one in real
                     if (found := _samples(one, columns, reference, prompts)) is not None],
            "hypervolume": {"all": _volume(cube, worst, high, least)} | {
                name: _volume(cube[members], worst, high, least) for name, members in families.items()
                if len(members) > 2}}


def _samples(one: Measured, columns: Sequence[str], reference: Measured, prompts: int) -> np.ndarray | None:
    """(objectives, prompts), means over training seeds.

    A number of a whole set has no value of a prompt: made-up ones stand in, of its mean, and so far apart that their
    mean varies in a bootstrap as the number's interval says.
    """
    from baselines.ladder_summary import set_score

    found = []
    for name in columns:
        if name in one.scores[0].features:
            score = set_score(one, reference, name, prompts)
            if score is None:
                return None
            error = (score.ci95[1] - score.ci95[0]) / 3.92 if score.ci95 else 0.0
            spread = np.random.default_rng(len(found)).permutation(np.linspace(-1, 1, prompts))
            found.append(score.value + error * prompts**0.5 * spread / max(spread.std(), 1e-12))
            continue
        values = one.per_prompt(name, prompts)
        if values is None:
            return None
        found.append(values.mean(0))
    return np.stack(found)


def _volume(cube: np.ndarray, worst: Sequence[float], high: Sequence[bool], least: Sequence[float]) -> dict[str, Any]:
    def of(values: np.ndarray) -> float:
        return hypervolume(np.maximum(values, least), worst, high)  # a distance drawn below 0 would cover too much

    value = of(cube.mean(2))
    return {"value": value, "ci95": bootstrap_interval(of, cube, draws=DRAWS) if cube.shape[2] > 1 else None}
