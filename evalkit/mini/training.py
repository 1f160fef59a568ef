"""One training loop for the three networks, and what differs between them: `python -m` is `evalkit world train`."""
from __future__ import annotations

import copy
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.data.captions import REGISTERS, caption, distractors
from evalkit.data.oracle import build_oracle
from evalkit.data.scene import Scene
from evalkit.features.mini_clip import EMBEDDING, build_clip, contact_sheet, tokenize
from evalkit.features.mini_video import CONTENT, TIME, MiniVideoNetwork
from evalkit.mini.classes import CLASSES
from evalkit.mini.stream import (
    DEFECTS,
    Defects,
    WorldStream,
    factors_of,
    load_batches,
    others_of,
    places_of,
    render_pools,
    severities_of,
)
from evalkit.mini.weights import save_weights


@dataclass(frozen=True)
class Config:
    """How a network is trained; the defaults are those of the shipped weights."""

    steps: int = 12_000
    batch_size: int = 192
    scenes: int = 100_000  # rendered once; every batch damages them anew
    weight_decay: float = 0.05
    warmup: int = 200
    ema: float = 0.998
    clean: float = 0.45  # share of clips without a defect
    seed: int = 0
    minutes: float = 8.0  # the learning rate falls to 0 by then at the latest


class Task(nn.Module, ABC):
    """A network with what its training alone needs; `shipped` is the part that is saved."""

    shipped: nn.Module
    lr: float = 2e-3

    @staticmethod
    @abstractmethod
    def targets(scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        """What the network is to say of the clips, (B, ...) each; called in the worker that draws the scenes."""

    @abstractmethod
    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named losses, whose sum is minimized, from (B, 16, 3, 64, 64) frames."""


def train(names: Sequence[str], folder: Path, config: Config, device: str,
          workers: int) -> Iterator[dict[str, float]]:
    """Train networks of TASKS side by side on one stream of clips; their weights go to `folder`/NAME.safetensors.

    Yields step, seconds (and those spent waiting for clips) and running losses every 100 steps. The exponential mean
    over steps is what is saved.
    """
    torch.manual_seed(config.seed)
    runs = [_Run(name, config, device) for name in names]
    started, waited = time.perf_counter(), 0.0
    stream = WorldStream(render_pools(config.scenes, config.seed, device, workers), [run.task.targets for run in runs],
                         config.batch_size, config.seed, config.clean)
    batches = load_batches(stream, workers)
    for step in range(config.steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        share = max(step / config.steps, (time.perf_counter() - started) / (60 * config.minutes))
        if share >= 1:
            break
        frames = batch.floats(device)
        for run, targets in zip(runs, batch.targets, strict=True):
            run.advance(step, share, frames, {key: value.to(device) for key, value in targets.items()})
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            told = {f"{run.name}.{key}": float(value) for run in runs for key, value in run.losses.items()}
            if not all(math.isfinite(value) for value in told.values()):
                raise ValueError(f"the loss is no longer a number at step {step + 1}: {told}; lower lr")
            yield {"step": step + 1, "of": config.steps, "share": share, "seconds": time.perf_counter() - started,
                   "waited": waited} | told
    for run in runs:
        save_weights(run.mean.shipped, folder / f"{run.name}.safetensors")


class _Run:
    """One network in training: its task, optimizer, and the mean that follows it."""

    def __init__(self, name: str, config: Config, device: str) -> None:
        self.name, self.config, self.device = name, config, device
        self.task = TASKS[name]().to(device).train()
        self.mean = copy.deepcopy(self.task).eval().requires_grad_(False)
        self.losses: dict[str, Tensor] = {}
        groups = [{"params": [p for p in self.task.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
                  {"params": [p for p in self.task.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.task.lr, betas=(0.9, 0.98), fused=device != "cpu")

    def advance(self, step: int, share: float, frames: Tensor, targets: dict[str, Tensor]) -> None:
        rate = self.task.lr * min(1, (step + 1) / self.config.warmup) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.device != "cpu"):
            losses = self.task.loss(frames, targets)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self.task.parameters(), 1.0)
        self.optimizer.step()
        _follow(self.mean, self.task, min(self.config.ema, (step + 1) / (step + 11)))
        for key, value in losses.items():
            self.losses[key] = 0.98 * self.losses.get(key, value.detach()) + 0.02 * value.detach()


@torch.no_grad()
def _follow(mean: nn.Module, task: nn.Module, keep: float) -> None:
    """Move `mean` towards `task`; counters and the like are copied."""
    pairs = list(zip(mean.state_dict().values(), task.state_dict().values(), strict=True))
    slow, fast = zip(*((a, b) for a, b in pairs if a.is_floating_point()), strict=True)
    torch._foreach_lerp_(slow, fast, 1 - keep)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)


class OracleTask(Task):
    """Cross entropy of every factor and of every defect; what others there are; the speed."""

    def __init__(self) -> None:
        super().__init__()
        self.shipped = build_oracle()

    @staticmethod
    def targets(scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        return factors_of(scenes) | {
            "others": others_of(scenes), "severity": severities_of(defects),
            "where": places_of(scenes, defects),
            "speed": torch.tensor([scene.subject.speed for scene in scenes], dtype=torch.float32)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        answers = {name: answer.float() for name, answer in self.shipped(frames).items()}
        severity = targets["severity"]
        there = severity > 0
        return {"where": F.cross_entropy(answers["where"].flatten(0, 1), targets["where"].flatten(), ignore_index=-100),
                "factors": sum(F.cross_entropy(answers[name], targets[name]) for name in CLASSES),
                "others": 10 * F.binary_cross_entropy_with_logits(answers["others"], targets["others"]),
                "defects": 10 * F.binary_cross_entropy_with_logits(answers["defects"], there.float()),
                "severity": 2 * ((answers["severity"] - severity).square() * there).sum() / there.sum().clamp_min(1),
                "speed": 20 * F.mse_loss(answers["speed"][:, 0], targets["speed"])}


class VideoTask(Task):
    """Severity of every defect, and the factors of the scene, read linearly from noisy features.

    What is shown is read from few of the features, motion and defects from the others: a Fréchet distance grows with
    the square of the number of features even between equal sets, and content has most to say.
    """

    CONTENT = ("shape", "colour", "size", "ground", "pattern", "count", "grade")
    TIME = ("direction", "path", "pace", "camera", "camera_speed", "light", "cut")
    NOISE = 0.3  # on features of unit variance: what the heads need must stand out
    lr = 1.5e-3

    def __init__(self) -> None:
        super().__init__()
        self.shipped = MiniVideoNetwork()
        self.severity = nn.Linear(TIME, len(DEFECTS))
        self.content = nn.ModuleDict({name: nn.Linear(CONTENT, len(CLASSES[name])) for name in self.CONTENT})
        self.time = nn.ModuleDict({name: nn.Linear(TIME, len(CLASSES[name])) for name in self.TIME})

    @classmethod
    def targets(cls, scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        asked = {name: CLASSES[name] for name in (*cls.CONTENT, *cls.TIME)}
        return factors_of(scenes, asked) | {"severity": severities_of(defects)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.shipped(frames).float()
        content, time = (features + self.NOISE * torch.randn_like(features)).split([CONTENT, TIME], dim=1)
        return {"severity": 100 * F.mse_loss(self.severity(time).float(), targets["severity"]),
                "content": 0.2 * _entropies(self.content, content, targets),
                "time": 0.2 * _entropies(self.time, time, targets)}


def _entropies(heads: nn.ModuleDict, features: Tensor, targets: dict[str, Tensor]) -> Tensor:
    return sum(F.cross_entropy(head(features).float(), targets[name]) for name, head in heads.items())


class ClipTask(Task):
    """Contrast of clips and captions in the batch, with captions wrong in one factor beside them (NegCLIP).

    Factors read from the clip's embedding, in training alone, show the young network where to look.
    """

    WRONG = 4  # captions a clip
    lr = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.shipped = build_clip()
        self.factors = nn.ModuleDict({name: nn.Linear(EMBEDDING, len(values)) for name, values in CLASSES.items()})

    @classmethod
    def targets(cls, scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        true, false = [], []
        for scene in scenes:
            register, seed = REGISTERS[(0, 0, 1, 2)[scene.seed % 4]], scene.seed % 1013
            true.append(caption(scene, register, seed))
            false += [one.text for one in distractors(scene, cls.WRONG, register, seed)]
        return factors_of(scenes) | {"true": tokenize(true), "false": tokenize(false)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        clip = self.shipped
        seen = clip.encode_image(contact_sheet(frames)).float()
        image = F.normalize(seen, dim=-1)
        text = clip.encode_text(torch.cat([targets["true"], targets["false"]]), normalize=True).float()
        true, false = text.split([len(frames), self.WRONG * len(frames)])
        scale = clip.logit_scale.exp().clamp_max(100)
        own = scale * torch.einsum("bd,bkd->bk", image, false.unflatten(0, (len(frames), self.WRONG)))
        logits = scale * image @ true.T
        target = torch.arange(len(frames), device=frames.device)
        return {"to_text": F.cross_entropy(torch.cat([logits, own], dim=1), target),
                "to_image": F.cross_entropy(logits.T, target),
                "factors": 0.1 * _entropies(self.factors, seen, targets)}


TASKS: dict[str, type[Task]] = {"oracle": OracleTask, "video": VideoTask, "clip": ClipTask}


def available_workers() -> int:
    """Processes that draw scenes: all cores but one, at most 15."""
    return min(15, len(os.sched_getaffinity(0)) - 1)
