"""Climbing a differentiable reward through the last sampling steps: DRaFT-K (Clark et al., 2023), VADER (2024)."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.alignment import LARGE, WAN, AlignConfig, held_out_of, open_model, open_reward, placed
from baselines.data import epoch_rows
from baselines.evaluation import HeldOut
from baselines.model import VideoDiffusion
from baselines.prompts import read_prompts
from baselines.stage import Batch, Shard, Stage
from evalkit.errors import UsageError

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "smoke": {"steps": 4, "batch_size": 4, "warmup": 1, "eval_every": 4, "eval_prompts": 2,
              "sample_steps": 2, "rank": 4, "prompts": "world:8:train", "trackers": ()},
    "ucf101": LARGE | {"batch_size": 16},
    "webvid": LARGE | {"batch_size": 8, "checkpointing": 1.0},
    "wan2.1-1.3b": WAN | {"batch_size": 1, "checkpointing": 1.0},
}


@dataclass(frozen=True)
class Config(AlignConfig):
    """`evalkit baseline reward-gradient`; the defaults are those of the preset tiny."""

    out: str = "runs/reward-gradient"
    reward: str = ""  # that is climbed
    prompts: str = "world:2000:train"  # see evalkit baseline sample
    last_steps: int = 1  # of sampling through which the gradient flows
    anchor: float = 0.1  # weight of the squared distance between the velocities of policy and reference
    steps: int = 300
    batch_size: int = 32  # samples
    lr: float = 1e-4
    eval_every: int = 50


class RewardGradient(Stage):
    """Samples of the policy itself, their reward, and its gradient."""

    name = "reward-gradient"

    def __init__(self, model: VideoDiffusion, prompts: Sequence[str], reward: torch.nn.Module, config: Config,
                 held_out: HeldOut | None = None) -> None:
        self.model, self.prompts, self.config, self.held_out = model, list(prompts), config, held_out
        self.reward = reward.to(model.device)

    def batches(self, start: int, shard: Shard) -> Iterator[Batch]:
        step, rows, size = start, shard.rows(self.config.batch_size), self.config.batch_size
        while True:
            index = epoch_rows(len(self.prompts), step, size, self.config.seed)
            prompts = [self.prompts[index[row]] for row in rows]
            seeds = [self.config.seed * 1_000_003 + step * size + row for row in rows]
            yield Batch({"text": self.model.encode_prompts(prompts), "noise": self.model.noise(seeds)}, prompts, rows)
            step += 1

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        config, text = self.config, batch["text"]
        latents = self.model.sample_latents(text, batch["noise"], config.sample_steps, config.guidance,
                                            config.last_steps)
        rewards = self.reward(self.model.decode(latents), batch.names, self.model.preset.fps)
        x_t, t, _ = self.noised(latents.detach().float(), batch)
        ref = self.ref_velocity(x_t, t, text)
        distance = (self.model.velocity(x_t, t, text) - ref).square().mean()
        return {"loss": config.anchor * distance - rewards.mean(), "reward": rewards.mean(), "drift": distance}

    def evaluate(self, step: int) -> dict[str, float]:
        return {} if self.held_out is None else self.held_out(self.model)


def build(config: Config, progress: Callable[[str, int, int], None] = lambda *_: None) -> RewardGradient:
    """The stage that a configuration asks for. UsageError where it cannot be had."""
    if not config.reward:
        raise UsageError("expected --reward NAME; `evalkit rewards list` shows them")
    if not 1 <= config.last_steps <= config.sample_steps:
        raise UsageError(f"--last-steps: expected 1 to {config.sample_steps}, got {config.last_steps}")
    if config.rank < 1:
        raise UsageError("--rank: expected at least 1: with the adapter off, the model is its own reference")
    model, lora = open_model(config, config.rank)
    prompts = [prompt.text for prompt in read_prompts(config.prompts, config.level, config.register)]
    stage = RewardGradient(model, prompts, open_reward(config.reward), config,
                           held_out_of(config, model, config.reward))
    return placed(stage, config, lora)
