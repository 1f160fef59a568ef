"""Pretraining by flow matching (Lipman et al., 2023), on the made-up world or on any set of captioned videos."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from baselines.buckets import Mixed
from baselines.checkpoints import load_vae
from baselines.data import VideoClips, open_clips
from baselines.evaluation import HeldOut
from baselines.model import VideoDiffusion
from baselines.objectives import squared_error
from baselines.presets import find_preset
from baselines.stage import Batch, Shard, Stage, drop_text
from baselines.train import LoopConfig
from baselines.world import WorldClips, WorldData, world_prompts
from evalkit.devices import choose_device
from evalkit.errors import UsageError

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "smoke": {"steps": 4, "batch_size": 8, "fresh": 4, "remembered": 64, "workers": 0, "warmup": 1, "eval_every": 4,
              "eval_prompts": 2, "sample_steps": 2, "trackers": ()},
    # Rate and length were tried with 88 views of each of 529 videos: --places 11 --mirrored --changes.
    "ucf101": {"steps": 3300, "batch_size": 128, "lr": 2e-3, "ema": 0.999, "even": 1.0, "eval_every": 0},
    "webvid": {"steps": 50_000, "batch_size": 32, "lr": 2e-4, "ema": 0.999, "eval_every": 0},
    "wan2.1-1.3b": {"steps": 1000, "batch_size": 1, "lr": 1e-5, "ema": 0.999, "eval_every": 0, "checkpointing": 1.0},
}


@dataclass(frozen=True)
class Config(Mixed, LoopConfig):
    """`evalkit baseline pretrain`; the defaults are those of the preset tiny."""

    out: str = "runs/pretrain"
    preset: str = "tiny"
    data: str = "world"  # or videos, spelt as for evalkit run: ucf101:DIR, webvid:DIR, a manifest, a folder
    steps: int = 10_000
    optimizer: str = "muon"
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 200
    decay: str = "cosine"
    ema: float = 0.998
    no_text: float = 0.1  # share of clips trained without their prompt, for guidance
    even: float = 0.0  # share of times drawn evenly: more of the end of sampling, where details are made
    level: str = "simple"  # of the world's scenes: simple or full
    register: str = "terse"  # of the world's captions: terse, dense or temporal
    clean: float = 0.6  # share of the world's clips without a defect
    fresh: int = 24  # of the world's clips that a step adds
    remembered: int = 32_768  # of the world's clips kept on the device: 6.7 GB at 16 x 64 x 64
    workers: int = -1  # processes that draw the world; -1: all cores but one, at most 15
    vae: str = ""  # checkpoint whose VAE is taken, where the preset has one
    cache: str = ""  # folder of encoded videos; default: encoded, in the run's folder
    max_failures: int = 0  # videos that may be unreadable
    compile: bool = True
    eval_every: int = 5000
    eval_prompts: int = 128
    guidance: float = 3.0  # of the held-out samples
    sample_steps: int = 20


class Denoising(Stage):
    """Velocities of clips with their prompts; the base of pretraining and fine-tuning."""

    name = "pretrain"

    def __init__(self, model: VideoDiffusion, clips: WorldClips | VideoClips, config: Any,
                 held_out: HeldOut | None = None) -> None:
        self.model, self.clips, self.config, self.held_out = model, clips, config, held_out
        self.one_shape = not isinstance(clips, VideoClips) or len(clips.groups) == 1
        self._nothing = model.encode_prompts([""])

    def batches(self, start: int, shard: Shard) -> Iterator[Batch]:
        return self.clips.batches(start, shard, self.config.batch_size)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["latents"] if "latents" in batch.tensors else self.model.encode(batch["frames"])
        nothing = batch.tensors.get("no_text", self._nothing).float()
        text = drop_text(batch["text"].float(), nothing, batch, self.config.no_text)
        x_t, t, target = self.noised(x.float(), batch, self.config.even)
        errors = squared_error(self.model.velocity(x_t, t, text), target)
        if "weights" in batch.tensors:
            return {"loss": (batch["weights"] * errors).mean(), "error": errors.mean()}
        return {"loss": errors.mean()}

    def evaluate(self, step: int) -> dict[str, float]:
        return {} if self.held_out is None else self.held_out(self.model)


def build(config: Config, progress: Callable[[str, int, int], None] = lambda *_: None) -> Denoising:
    """The stage that a configuration asks for. UsageError or ValueError where it cannot be had."""
    config.check(config.data)
    model = VideoDiffusion.build(find_preset(config.preset), config.seed)
    if config.vae:
        load_vae(model, config.vae)
    elif model.vae is not None:
        raise UsageError(f"preset {config.preset} works on latents: give --vae; `evalkit baseline vae` trains one")
    model.to(choose_device(config.device))
    held_out = None
    if config.data == "world":
        data = WorldData(config.level, config.register, config.clean, config.seed)
        clips: Any = WorldClips(model, data, config.fresh, config.remembered, count_workers(config.workers))
        held_out = HeldOut(world_prompts(config.eval_prompts, "test", config.level, config.register),
                           config.sample_steps, config.guidance)
    else:
        clips = open_clips(model, config.data, config.cache or f"{config.out}/encoded", config.seed,
                           config.max_failures, progress, config)
    return Denoising(model, clips, config, held_out)


def count_workers(asked: int) -> int:
    return asked if asked >= 0 else min(15, len(os.sched_getaffinity(0)) - 1)
