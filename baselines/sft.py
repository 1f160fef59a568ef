"""Supervised fine-tuning: on curated clips, on what a reward likes best, or weighted by it (RWR; Peters, 2007)."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from baselines.alignment import LARGE, WAN, AlignConfig, held_out_of, open_model, open_reward, placed
from baselines.buckets import Mixed
from baselines.data import ClipStore, VideoClips, open_store, select
from baselines.evaluation import score
from baselines.model import VideoDiffusion
from baselines.objectives import reward_weights
from baselines.pretrain import Denoising, count_workers
from baselines.world import WorldClips, WorldData
from evalkit.errors import UsageError

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "smoke": {"steps": 4, "batch_size": 4, "warmup": 1, "eval_every": 4, "eval_prompts": 2,
              "sample_steps": 2, "fresh": 4, "remembered": 64, "workers": 0, "trackers": ()},
    "ucf101": LARGE | {"steps": 200, "batch_size": 64, "lr": 3e-4, "even": 1.0},
    "webvid": LARGE | {"steps": 1000, "batch_size": 32, "lr": 1e-4},
    "wan2.1-1.3b": WAN | {"steps": 1000, "batch_size": 8, "lr": 1e-4, "accumulate": 8},
}
SCORED = 64  # clips that a reward sees at a time


@dataclass(frozen=True)
class Config(Mixed, AlignConfig):
    """`evalkit baseline sft`; the defaults are those of the preset tiny."""

    out: str = "runs/sft"
    data: str = "world"  # curated clips of the world, or videos, spelt as for evalkit run
    reward: str = ""  # by which videos are selected or weighted
    select: str = "all"  # all; top: the share `keep` by reward; best: of each prompt; weighted: exp(reward/temperature)
    keep: float = 0.25
    temperature: float = 1.0  # in standard deviations of the reward
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    decay: str = "cosine"
    ema: float = 0.995
    even: float = 0.0  # share of times drawn evenly
    clean: float = 1.0  # share of the world's clips without a defect
    fresh: int = 32
    remembered: int = 16_384
    workers: int = -1
    eval_every: int = 500


class FineTuning(Denoising):
    """The same loss on chosen clips."""

    name = "sft"


def build(config: Config, progress: Callable[[str, int, int], None] = lambda *_: None) -> FineTuning:
    """The stage that a configuration asks for. UsageError where it cannot be had."""
    if (config.select != "all") != bool(config.reward):
        raise UsageError("--select top, best or weighted goes with --reward, and all without")
    if not 0 < config.keep <= 1:
        raise UsageError(f"--keep: expected a share above 0 and at most 1, got {config.keep:g}")
    config.check(config.data)
    if config.changes and config.reward:
        raise UsageError("--changes goes without --reward: the best of a prompt would be of changed ones, too")
    if config.buckets and config.reward:
        raise UsageError("--buckets goes without --reward: a reward compares clips of one size and length")
    model, lora = open_model(config, config.rank)
    if config.data == "world":
        if config.reward:
            raise UsageError("--reward selects among videos: give --data; clips of the world are curated by --clean")
        data = WorldData(config.level, config.register, config.clean, config.seed + 1)
        clips: Any = WorldClips(model, data, config.fresh, config.remembered, count_workers(config.workers))
    else:
        clips = chosen_clips(model, config, progress)
    stage = FineTuning(model, clips, config, held_out_of(config, model))
    return placed(stage, config, lora)


def chosen_clips(model: VideoDiffusion, config: Config, progress: Callable[[str, int, int], None]) -> VideoClips:
    """The videos of `config.data`, as its reward selects or weights them."""
    cache = config.cache or f"{config.out}/encoded"
    store = open_store(model, config.data, cache, config.max_failures, progress, config)
    weights = None
    if config.reward:
        rewards = score_store(store, config.reward, progress)
        rows = select(store.items, rewards, config.select, config.keep)
        if config.select == "weighted":
            values = torch.tensor(rewards)
            spread = values.std(correction=0).clamp_min(1e-6)
            weights = reward_weights((values - values.mean()) / spread, config.temperature)
        store = ClipStore(model, [store.items[k] for k in rows], cache)
    return VideoClips(store, config.seed, weights, config.image_share)


def score_store(store: ClipStore, name: str, progress: Callable[[str, int, int], None]) -> list[float]:
    """The reward of every clip of a store."""
    reward, found = open_reward(name), []
    for start in range(0, len(store.items), SCORED):
        rows = list(range(start, min(start + SCORED, len(store.items))))
        found += score(reward, store.frames(rows), [store.items[k].prompt or "" for k in rows], store.model.preset.fps)
        progress(f"scoring with {name}", rows[-1] + 1, len(store.items))
    return found
