"""Preference pairs among samples of one prompt: labelled by a reward, or by the truth of the made-up world."""
from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from baselines.alignment import open_reward
from baselines.checkpoints import read_card
from baselines.data import captioned
from baselines.evaluation import clips_at_once, score
from baselines.presets import Preset
from baselines.reading import read_frames
from baselines.sample import MANIFEST
from baselines.sample import Config as SampleConfig
from baselines.sample import sample as make_samples
from evalkit.data.items import VideoItem
from evalkit.devices import choose_device
from evalkit.errors import UsageError
from rewards.data import Pair, write_pairs

FILE = "pairs.jsonl"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Config(SampleConfig):
    """`evalkit baseline pairs`: its samples go to the folder `samples` in `out`, its pairs to `out`/pairs.jsonl."""

    out: str = "pairs"
    prompts: str = "world:2000:train"
    samples: int = 6  # the more, the farther apart are the best and the worst
    own_seeds: bool = True  # few starts for all prompts would be learnt by heart
    label: str = "truth"  # of the world, or a reward's name
    noise: float = 0.0  # share of labels that are wrong, below 0.5
    margin: float = 0.02  # a difference up to this is a tie
    which: str = "extremes"  # of a prompt: its best against its worst, or all pairs
    dimension: str = "overall"  # of the truth: overall, visual, motion or text


def make_pairs(config: Config, progress: Progress = lambda *_: None) -> Path:
    """Sample what is missing, label, write pairs.jsonl. UsageError where every pair ties, or a choice is unknown."""
    if not 0 <= config.noise < 0.5:
        raise UsageError(f"--noise: expected 0 or more and less than 0.5, got {config.noise}")
    if config.which not in ("extremes", "all") or config.samples < 2:
        raise UsageError("--which: expected extremes or all, among at least 2 --samples")
    if config.size or config.frames:
        raise UsageError("--size and --frames: pairs are of the preset's shape, in which they are judged")
    out = Path(config.out)
    settings = {name: getattr(config, name) for name in SampleConfig.__dataclass_fields__}
    make_samples(SampleConfig(**settings | {"out": str(out / "samples")}), progress)
    return label_samples(config, out / FILE, progress)


def label_samples(config: Config, path: Path, progress: Progress = lambda *_: None) -> Path:
    """Write the pairs among the samples that lie in `config.out` already. UsageError where every pair ties."""
    items = captioned(str(Path(config.out) / "samples" / MANIFEST))
    values = label(config, items, read_card(config.source).preset, progress)
    pairs = list(pair_up(items, values, config, path.parent))
    if all(pair.tie for pair in pairs):
        raise UsageError(f"all {len(pairs)} pairs tie within --margin {config.margin}: lower it, or take more "
                         "--samples")
    return write_pairs(path, pairs)


def label(config: Config, items: Sequence[VideoItem], preset: Preset, progress: Progress) -> list[float]:
    """How good each sample is, by the truth or by a reward."""
    device = torch.device(choose_device(config.device))
    size = clips_at_once(preset.num_frames, preset.height, preset.width, device)
    reward = None if config.label == "truth" else open_reward(config.label)
    found: list[float] = []
    for start in range(0, len(items), size):
        part = items[start: start + size]
        frames = torch.stack([read_frames(item, preset) for item in part]).to(device).float() / 255
        prompts = [item.prompt or "" for item in part]
        found += _truth(frames, prompts, config.dimension) if reward is None else score(
            reward, frames, prompts, preset.fps)
        progress(f"judged by {config.label}", start + len(part), len(items))
    return found


def _truth(frames, prompts: list[str], dimension: str) -> list[float]:
    from baselines.world import judge

    verdicts = judge(frames, prompts)
    if dimension not in verdicts[0].quality:
        raise UsageError(f"--dimension: expected one of {', '.join(verdicts[0].quality)}, got {dimension!r}")
    return [one.quality[dimension] for one in verdicts]


def pair_up(items: Sequence[VideoItem], values: Sequence[float], config: Config, out: Path) -> Iterator[Pair]:
    """The pairs of each prompt, paths as from `out`; a share `noise` of the labels turned, the same for equal seeds."""
    groups: dict[str, list[int]] = {}
    for k, item in enumerate(items):
        groups.setdefault(item.prompt or "", []).append(k)
    rng = np.random.default_rng([config.seed, 23])
    rater = f"{config.label}" + (f", {config.noise:g} wrong" if config.noise else "")
    for prompt, members in groups.items():
        order = sorted(members, key=lambda k: -values[k])
        two = [(order[0], order[-1])] if config.which == "extremes" else itertools.combinations(order, 2)
        for better, worse in two:
            tie = bool(values[better] - values[worse] <= config.margin)
            wrong = rng.random() < config.noise and not tie
            chosen, rejected = (worse, better) if wrong else (better, worse)
            places = (Path(os.path.relpath(items[k].source, out)).as_posix() for k in (chosen, rejected))
            yield Pair(*places, prompt, tie, "overall", rater)
