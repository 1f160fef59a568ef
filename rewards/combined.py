"""Weighted sums of rewards, `0.5 * farm + cinematic`, each brought to one scale first: that of reference clips.

The scales are measured by `python -m rewards.combined`, which writes reference_scales.json; with `--reward NAME` it
prints those of one reward, for `reward.standardised(mean, std)`.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.clips import ClipSpec
from evalkit.metrics.base import Measurement
from rewards.base import Reward

FILE = Path(__file__).parent / "reference_scales.json"
SIZE = 96  # pixels a side of the reference clips, 16 frames at 8 a second
LAST_SEED = 10**6  # the world's seeds from here on judge, and set no constant


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a reward on reference clips; ValueError where std is not positive."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"expected a finite mean and a positive standard deviation, got {self.mean}, {self.std}")


AS_IT_IS = Scale(0.0, 1.0)


@dataclass(frozen=True)
class Term:
    """One reward in a sum; scale None: the shipped one, looked up when it is first needed."""

    reward: Reward
    weight: float
    scale: Scale | None = None


class Combined(Reward):
    """sum_i weight_i * (reward_i - mean_i) / std_i, itself a reward: `combined(frames, prompts, fps) -> (B,)`.

    `raw()` gives sum_i weight_i * reward_i. Components: each part as it enters the sum before its weight, under its
    name ("farm", a second one "farm_2"), and what it consists of as "farm.coherence". An extractor that several parts
    declare runs once. Needs what any part needs; min_frames is the largest. Computed in float32.
    """

    summary = "a weighted sum of standardised rewards"

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        self.weights, self.scales = [term.weight for term in terms], [term.scale for term in terms]
        self.parts = nn.ModuleList(term.reward for term in terms)
        modules = {key: module for part in self.parts for key, module in part._by_key()}
        self.extractor_keys = tuple(modules)
        for key, module in modules.items():
            self.extractors[key.replace(".", "_")] = module
        self.names = _distinct([part.name for part in self.parts])
        self.name = " + ".join(f"{weight:g} * {name}" for weight, name in zip(self.weights, self.names, strict=True))
        self.needs_prompts = any(part.needs_prompts for part in self.parts)
        self.needs_fps = any(part.needs_fps for part in self.parts)
        self.min_frames = max(part.min_frames for part in self.parts)
        self.recompute = any(part.recompute for part in self.parts)
        self.spec = ClipSpec(min_frames=self.min_frames)
        self.range = (-math.inf, math.inf)
        self.eval()

    def terms(self) -> list[Term]:
        """The rewards with weights and scales."""
        return [Term(*each) for each in zip(self.parts, self.weights, self.scales, strict=True)]

    def raw(self) -> Combined:
        """The same sum of the rewards as they are, not standardised."""
        return Combined([replace(term, scale=AS_IT_IS) for term in self.terms()])

    def check_prompts(self, prompts: Sequence[str]) -> None:
        for part in self.parts:
            if part.needs_prompts:
                part.check_prompts(prompts)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"terms": [{"reward": term.reward.name, "version": term.reward.version, "weight": term.weight,
                           "parameters": term.reward.parameters_of_protocol(), **asdict(self._scale(k))}
                          for k, term in enumerate(self.terms())]}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """The sum (B,); ValueError where a reward has no scale on reference clips, saying how to give it one."""
        value: Tensor | float = 0.0
        components: dict[str, Tensor] = {}
        scales = [self._scale(k) for k in range(len(self.parts))]  # before the first network runs
        for part, weight, scale, name in zip(self.parts, self.weights, scales, self.names, strict=True):
            found = part.measure(frames, features, prompts, fps)
            components[name] = (found.value.float() - scale.mean) / scale.std
            components |= {f"{name}.{key}": component for key, component in found.components.items()}
            value = value + weight * components[name]
        return Measurement(value, components)

    def _scale(self, k: int) -> Scale:
        if self.scales[k] is None:
            self.scales[k] = shipped_scale(self.parts[k])
        return self.scales[k]


def weighted(reward: Reward, weight: float) -> Combined:
    """`weight * reward`; of a sum, every weight is multiplied. TypeError where the weight is no number."""
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"a reward is multiplied by a number, got {type(weight).__name__}")
    if not math.isfinite(weight):
        raise ValueError(f"expected a finite weight, got {weight}")
    return Combined([replace(term, weight=float(weight) * term.weight) for term in _terms_of(reward)])


def added(one: Reward, other: Reward) -> Combined:
    """`one + other`; TypeError where `other` is no reward."""
    if not isinstance(other, Reward):
        raise TypeError(f"a reward is added to a reward, got {type(other).__name__}")
    return Combined([*_terms_of(one), *_terms_of(other)])


def _terms_of(reward: Reward) -> list[Term]:
    return reward.terms() if isinstance(reward, Combined) else [Term(reward, 1.0)]


def _distinct(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        again = names[:len(found)].count(name)
        found.append(f"{name}_{again + 1}" if again else name)
    return found


def shipped_scale(reward: Reward) -> Scale:
    """The scale in reference_scales.json; ValueError where there is none of this reward as it is set up."""
    entry = _shipped()["rewards"].get(reward.name)
    how = ("reward.standardised(mean, std) takes yours, `python -m rewards.combined --reward NAME` or "
           "rewards.combined.measure_scale(reward) measure them, and .raw() adds rewards as they are")
    if entry is None:
        raise ValueError(f"{reward.name}: no mean and standard deviation on reference clips are shipped: {how}")
    if entry["setup"] != setup_of(reward):
        raise ValueError(f"{reward.name}: the mean and standard deviation that are shipped are of another version or "
                         f"other options of this reward: {how}")
    return Scale(entry["mean"], entry["std"])


def setup_of(reward: Reward) -> str:
    """A digest of version and parameters: what a scale was measured with, and holds for alone."""
    text = json.dumps([reward.version, reward.parameters_of_protocol()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def reference_clips(n: int, seed: int = 0) -> Iterator[tuple[Tensor, str, float]]:
    """`n` clips of the made-up world's training split: uint8 (16, 3, 96, 96), caption, frames per second.

    Of every four, two have a defect of a severity from 1 to 5, both drawn by the clip's seed, and one has the caption
    of the next clip: on clean and truly captioned clips alone, a reward that those fulfil (no flicker, the prompt is
    shown) would hardly vary, and would drown all others once divided by that spread.
    ValueError for seeds outside the training split.
    """
    from evalkit.data.corruptions import available_corruptions, corrupt
    from evalkit.data.synthetic import render_clip

    if not (n >= 2 and 0 <= seed <= LAST_SEED - n):
        raise ValueError(f"expected at least 2 clips of seeds from 0 to {LAST_SEED - 1}, got {n} from {seed} on")
    names = available_corruptions()
    for number in range(seed, seed + n):
        clip = render_clip(number, size=SIZE)
        frames, prompt = clip.frames, clip.prompt
        if number % 2:
            pick = torch.Generator().manual_seed(number)
            which, severity = (int(torch.randint(high, (1,), generator=pick)) for high in (len(names), 5))
            frames = corrupt(frames, names[which], severity + 1, seed=number, fps=clip.fps)
        elif number % 4 == 2:
            prompt = render_clip((number + 1) % LAST_SEED, size=8).prompt
        yield frames, prompt, clip.fps


def measure_scales(rewards: Mapping[str, Reward], n: int = 256, seed: int = 0) -> dict[str, Scale]:
    """Mean and standard deviation of each reward over `reference_clips(n, seed)`, all in one pass over them.

    ValueError where a reward is the same for every clip, or not finite.
    """
    values: dict[str, list[float]] = {name: [] for name in rewards}
    with torch.no_grad():
        for frames, prompt, fps in reference_clips(n, seed):
            for name, reward in rewards.items():
                values[name].append(float(reward(frames[None].float() / 255, [prompt], fps)))
    spread = {name: torch.tensor(found, dtype=torch.float64) for name, found in values.items()}
    flat = [name for name, found in spread.items() if not found.std() > 1e-9]
    if flat:
        raise ValueError(f"{', '.join(flat)}: the same, or not a number, for all {n} reference clips: it has no scale")
    return {name: Scale(found.mean().item(), found.std().item()) for name, found in spread.items()}


def measure_scale(reward: Reward, n: int = 256, seed: int = 0) -> Scale:
    """The scale of one reward, a user's own for instance, as the shipped ones are measured."""
    return measure_scales({reward.name: reward}, n, seed)[reward.name]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all rewards whose weights are here and write the file, or one and print it."""
    from evalkit.features.weights import MissingWeights
    from evalkit.results import write_atomic
    from rewards.registry import available_rewards, load_reward

    parser = argparse.ArgumentParser(prog="python -m rewards.combined", description=main.__doc__)
    parser.add_argument("--n", type=int, default=256, help="reference clips (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one, below a million (default 0)")
    parser.add_argument("--reward", metavar="NAME", help="print the scale of this reward, write nothing")
    parser.add_argument("--out", type=Path, default=FILE, help="default: the file that is shipped")
    args = parser.parse_args(argv)
    loaded = {}
    for name in [args.reward] if args.reward else available_rewards():
        try:
            loaded[name] = load_reward(name)
        except MissingWeights as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    scales = measure_scales(loaded, args.n, args.seed)
    for name, scale in scales.items():
        print(f"{name:24}mean {scale.mean:.4f}, standard deviation {scale.std:.4f}, n = {args.n}")
    if not args.reward:
        held = json.loads(args.out.read_text())["rewards"] if args.out.exists() else {}
        entries = {name: {**asdict(scale), "n": args.n, "seed": args.seed, "setup": setup_of(loaded[name])}
                   for name, scale in scales.items()}
        about = {"command": f"python -m rewards.combined --n {args.n} --seed {args.seed}",
                 "clips": f"the made-up world's training split, seeds {args.seed} to {args.seed + args.n - 1}, "
                          f"16 frames of {SIZE} x {SIZE} at 8 a second; see rewards.combined.reference_clips"}
        write_atomic(args.out, (json.dumps(about | {"rewards": held | entries}, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
