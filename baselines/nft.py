"""DiffusionNFT (Zheng et al., 2025): online, by the forward process alone; any reward, no gradient through it."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines import objectives
from baselines.adapters import adapter_parameters, load_adapter
from baselines.alignment import LARGE, WAN, AlignConfig, held_out_of, open_model, open_reward, placed
from baselines.data import epoch_rows
from baselines.evaluation import HeldOut, score
from baselines.model import VideoDiffusion
from baselines.prompts import read_prompts
from baselines.stage import Batch, Shard, Stage
from evalkit.errors import UsageError

SAMPLED = 32  # clips sampled at a time
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "smoke": {"steps": 4, "batch_size": 4, "warmup": 1, "eval_every": 4, "eval_prompts": 2,
              "sample_steps": 2, "rank": 4, "prompts": "world:8:train",
              "per_round": 2, "group": 2, "round_steps": 2, "trackers": ()},
    "ucf101": LARGE,
    "webvid": LARGE | {"batch_size": 16},
    "wan2.1-1.3b": WAN | {"batch_size": 4, "checkpointing": 1.0},
}


@dataclass(frozen=True)
class Config(AlignConfig):
    """`evalkit baseline nft`; the defaults are those of the preset tiny."""

    out: str = "runs/nft"
    reward: str = ""
    prompts: str = "world:2000:train"  # see evalkit baseline sample
    per_round: int = 16  # prompts sampled in a round
    group: int = 8  # samples of each, compared with one another
    round_steps: int = 10  # steps on the samples of a round
    beta: float = 1.0  # how far the implicit policies lie from the one that sampled
    anchor: float = 0.01  # weight of the squared distance between the velocities of policy and reference
    steps: int = 300
    batch_size: int = 64  # samples
    lr: float = 1e-4
    eval_every: int = 50


class ForwardProcess(Stage):
    """Rounds: the policy samples, a reward compares, and some steps follow. `old` is the policy of the round's start.

    Every process samples the whole round, so that all see the same comparisons.
    """

    name = "nft"

    def __init__(self, model: VideoDiffusion, prompts: Sequence[str], reward: torch.nn.Module, config: Config,
                 held_out: HeldOut | None = None) -> None:
        self.model, self.prompts, self.config, self.held_out = model, list(prompts), config, held_out
        self.reward = reward
        self.old = self._policy()

    def _policy(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in adapter_parameters(self.model.transformer).items()}

    def state(self) -> dict[str, Tensor]:
        return self.old

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.old = {name: value.to(self.model.device) for name, value in state.items()}

    def batches(self, start: int, shard: Shard) -> Iterator[Batch]:
        config, step, rows = self.config, start, shard.rows(self.config.batch_size)
        samples: dict[str, Any] = {}
        while True:
            if step % config.round_steps == 0:
                self.old = self._policy()
            if step % config.round_steps == 0 or not samples:
                samples = self._sample(step // config.round_steps)
            index = epoch_rows(len(samples["names"]), step, config.batch_size, config.seed)
            mine = [index[row] for row in rows]
            yield Batch({name: samples[name][mine] for name in ("latents", "text", "optimal", "rewards")},
                        [samples["names"][k] for k in mine], rows)
            step += 1

    @torch.no_grad()
    def _sample(self, number: int) -> dict[str, Any]:
        config, model = self.config, self.model
        index = epoch_rows(len(self.prompts), number, config.per_round, config.seed)
        prompts = [self.prompts[k] for k in index for _ in range(config.group)]
        seeds = [config.seed * 1_000_003 + number * len(prompts) + k for k in range(len(prompts))]
        text, found = model.encode_prompts(prompts), []
        with model.unwrapped(), self._as_old():
            for k in range(0, len(prompts), SAMPLED):
                part = slice(k, k + SAMPLED)
                found.append(model.sample_latents(text[part], model.noise(seeds[part]), config.sample_steps,
                                                  config.guidance))
        latents = torch.cat(found)
        rewards = torch.tensor(score(self.reward, model.decode(latents), prompts, model.preset.fps))
        groups = torch.arange(len(prompts)) // config.group
        return {"latents": latents, "text": text, "names": prompts, "rewards": rewards.to(model.device),
                "optimal": objectives.optimality(rewards, groups).to(model.device)}

    @contextmanager
    def _as_old(self) -> Iterator[None]:
        """Within it, the adapter is that of the round's start."""
        own = self._policy()
        load_adapter(self.model.transformer, self.old)
        try:
            yield
        finally:
            load_adapter(self.model.transformer, own)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        config, text = self.config, batch["text"]
        x_t, t, target = self.noised(batch["latents"].float(), batch)
        with torch.no_grad(), self.model.unwrapped(), self._as_old():  # first: the policy's graph needs its weights
            old = self.model.velocity(x_t, t, text)
        ref = self.ref_velocity(x_t, t, text)
        predicted = self.model.velocity(x_t, t, text)
        losses = objectives.nft_loss(predicted, old, target, batch["optimal"], config.beta)
        distance = objectives.squared_error(predicted, ref).mean()
        return {"loss": losses.mean() + config.anchor * distance, "reward": batch["rewards"].mean(), "drift": distance}

    def evaluate(self, step: int) -> dict[str, float]:
        return {} if self.held_out is None else self.held_out(self.model)


def build(config: Config, progress: Callable[[str, int, int], None] = lambda *_: None) -> ForwardProcess:
    """The stage that a configuration asks for. UsageError where it cannot be had."""
    if not config.reward:
        raise UsageError("expected --reward NAME; `evalkit rewards list` shows them")
    if config.group < 2 or config.per_round < 1 or config.round_steps < 1:
        raise UsageError("--group: expected at least 2, --per-round and --round-steps at least 1")
    if config.rank < 1:
        raise UsageError("--rank: expected at least 1: with the adapter off, the model is its own reference")
    model, lora = open_model(config, config.rank)
    prompts = [prompt.text for prompt in read_prompts(config.prompts, config.level, config.register)]
    stage = ForwardProcess(model, prompts, open_reward(config.reward), config,
                           held_out_of(config, model, config.reward))
    return placed(stage, config, lora)
