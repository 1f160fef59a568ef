"""Two runs, score by score: paired per prompt, with interval, p-value (Holm), effect size and a plain verdict.

Imports no torch.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evalkit.errors import UsageError
from evalkit.results import Report, Score, differing_fields
from evalkit.statistics import compare_paired, compare_unpaired, holm, verdict


@dataclass(frozen=True)
class Comparison:
    """One score of two runs. Without `difference`, `verdict` says why the two cannot be compared."""

    name: str
    base: float | None
    new: float | None
    higher_is_better: bool
    unit: str
    verdict: str
    difference: float | None = None  # new − base, over the prompts that both runs have
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    p_holm: float | None = None
    effect_size: float | None = None  # Cohen's d_z of the per-prompt differences
    n_pairs: int = 0
    n_prompts: int = 0
    needed_prompts: int | None = None
    paired_by: str = ""  # prompt, or video where a run has no prompts: its file name
    n_unpaired: int = 0  # videos whose prompt the other run lacks: in `base` and `new`, but not in `difference`

    @property
    def significant(self) -> bool:
        """Different at 5 % after Holm's correction across all scores of the comparison."""
        return self.p_holm is not None and self.p_holm < 0.05

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self) | {"significant": self.significant}


def compare_reports(base: Report, new: Report, names: Sequence[str] | None = None, *,
                    seed: int = 0) -> list[Comparison]:
    """Every score that both runs hold (or those named). UsageError where there is none in common."""
    common = [name for name in base.scores if name in new.scores]
    missing = [name for name in names or () if name not in common]
    if missing:
        raise UsageError(f"not in both runs: {', '.join(missing)}; both have: {', '.join(common) or 'nothing'}")
    if not common:
        raise UsageError(f"{base.model} and {new.model} have no score in common")
    found = [_compare(name, base, new, seed) for name in names or common]
    tested = [one for one in found if one.p_value is not None]
    adjusted = dict(zip([one.name for one in tested], holm([one.p_value for one in tested]), strict=True))
    return [_with_holm(one, adjusted[one.name]) if one.name in adjusted else one for one in found]


def _compare(name: str, base: Report, new: Report, seed: int) -> Comparison:
    one, other = base.scores[name], new.scores[name]

    def incomparable(why: str) -> Comparison:
        return Comparison(name, one.value, other.value, one.higher_is_better, one.unit, why)

    fields = [] if one.protocol == other.protocol else differing_fields(
        base.protocols[one.protocol], new.protocols[other.protocol])
    if one.protocol != other.protocol:
        return incomparable(f"not comparable, the protocols differ: {'; '.join(fields) or 'in a field without value'}")
    for score, report in ((one, base), (other, new)):
        if score.value is None:
            return incomparable(f"{report.model} has no value: {score.reason}")
    if base.videos is not None and new.videos is not None and name in base.videos and name in new.videos:
        return _compare_videos(name, one, base.videos, new.videos, other, seed)
    return _compare_sets(name, one, other)


def _compare_videos(name: str, one: Score, base: Any, new: Any, other: Score, seed: int) -> Comparison:
    left, right = (table[table[name].notna()] for table in (base, new))
    shared = {key: _shared(left[key], right[key]) for key in ("prompt", "video")}
    key = next((key for key, count in shared.items() if count >= 2), None)
    why = "" if key else f"{max(shared.values())} prompts or file names in common, at least 2 are needed"
    if key == "video" and not _prompts_agree(left, right):
        why = "videos of the same name have other prompts"
    if why:
        return Comparison(name, one.value, other.value, one.higher_is_better, one.unit, f"not comparable: {why}")
    count, both = len(left) + len(right), set(left[key].dropna()) & set(right[key].dropna())
    left, right = (table[table[key].isin(both)] for table in (left, right))
    found = compare_paired(left[name].to_numpy(), right[name].to_numpy(), left[key].tolist(), right[key].tolist(),
                           higher_is_better=one.higher_is_better, seed=seed)
    return Comparison(name, one.value, other.value, one.higher_is_better, one.unit, found.verdict, found.difference,
                      found.ci95, found.p_value, None, found.effect_size, found.n_pairs, found.n_prompts,
                      found.needed_prompts, key, count - len(left) - len(right))


def _prompts_agree(left: Any, right: Any) -> bool:
    """Whether no video has the name of one of the other run that is of another prompt."""
    both = left[["video", "prompt"]].dropna().merge(right[["video", "prompt"]].dropna(), on="video")
    return bool((both["prompt_x"] == both["prompt_y"]).all())


def _shared(left: Any, right: Any) -> int:
    return len(set(left.dropna()) & set(right.dropna()))


def _compare_sets(name: str, one: Score, other: Score) -> Comparison:
    found = compare_unpaired(one.value, one.ci95, other.value, other.ci95, n_a=one.n, n_b=other.n,
                             higher_is_better=one.higher_is_better)
    comparable = found.ci95 is not None
    return Comparison(name, one.value, other.value, one.higher_is_better, one.unit, found.verdict,
                      found.difference if comparable else None, found.ci95, found.p_value, n_pairs=one.n)


def _with_holm(one: Comparison, p_holm: float) -> Comparison:
    words = verdict(one.difference, p_holm, one.n_prompts, one.needed_prompts, one.higher_is_better)
    keep = one.n_prompts == 0 and p_holm >= 0.05  # of set scores, whose n is not a number of prompts
    return replace(one, p_holm=p_holm, verdict="not distinguishable" if keep else words)


@dataclass(frozen=True)
class GateResult:
    """Whether one score keeps the gate, and why."""

    name: str
    passed: bool
    message: str


def check_gate(comparisons: Sequence[Comparison], gate: Mapping[str, Any], *, looks: int = 1) -> list[GateResult]:
    """Hold comparisons against a gate file's `[metrics.NAME] margin = …` (largest loss tolerated, in the unit).

    A score fails when even the favourable end of the loss's interval exceeds the margin, significantly after Holm's
    correction; a score that cannot be judged fails too. looks: how many such checks are to raise less than one false
    alarm in twenty together (Bonferroni: the interval is widened). UsageError on unknown keys.
    """
    rules = gate.get("metrics")
    wrong = sorted(set(gate) - {"metrics"})
    wrong += [f"metrics.{name} = {rule!r}" for name, rule in rules.items() if not _is_rule(rule)] if isinstance(
        rules, Mapping) else [f"metrics = {rules!r}"]
    if wrong or not rules:
        raise UsageError(f"gate: expected [metrics.NAME] tables with margin = NUMBER, got {'; '.join(wrong) or 'none'}")
    found = {one.name: one for one in comparisons}
    return [_judge(name, found.get(name), float(rule.get("margin", 0.0)), looks) for name, rule in rules.items()]


def _is_rule(rule: Any) -> bool:
    if not isinstance(rule, Mapping) or set(rule) - {"margin"}:
        return False
    margin = rule.get("margin", 0.0)
    return type(margin) in (int, float) and margin >= 0  # NaN is not: every loss would pass


def _judge(name: str, one: Comparison | None, margin: float, looks: int) -> GateResult:
    if one is None:
        return GateResult(name, False, "cannot be judged: not in both runs")
    if one.difference is None or one.ci95 is None:
        return GateResult(name, False, f"cannot be judged: {one.verdict}")
    sign = -1 if one.higher_is_better else 1
    wider = _widening(looks, one.n_prompts)
    low, high = sorted(sign * (one.difference + wider * (bound - one.difference)) for bound in one.ci95)
    significant = one.p_holm is None or one.p_holm < 0.05
    failed = low > margin and significant
    return GateResult(name, not failed, f"loss {sign * one.difference:.4g} [{low:.4g}, {high:.4g}], margin {margin:g}: "
                      + ("regression" if failed else "kept"))


def _widening(looks: int, n_prompts: int) -> float:
    """By how much a 95 % interval grows so that `looks` of them hold together; Student's tails over known prompts."""
    if looks == 1:
        return 1.0
    from scipy.special import ndtri, stdtrit

    ends = (1 - 0.025 / looks, 0.975)
    far, near = (float(ndtri(end) if n_prompts < 2 else stdtrit(n_prompts - 1, end)) for end in ends)
    return far / near
