"""The one training loop of the small networks: `evalkit world train`. What differs between them is in `tasks`."""
from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from evalkit.mini.stream import Memory, WorldStream, load_batches
from evalkit.mini.tasks import TASKS
from evalkit.mini.weights import save_weights


@dataclass(frozen=True)
class Config:
    """How a network is trained; the defaults are those of the shipped weights."""

    steps: int = 20_000
    batch_size: int = 256
    fresh: int = 32  # clips of the batch's number that a step adds to those remembered
    remembered: int = 65_536  # 12 GiB on the device
    weight_decay: float = 0.05
    warmup: int = 200
    ema: float = 0.998
    seed: int = 0
    minutes: float = 7.0  # the learning rate falls to 0 by then at the latest


def train(name: str, folder: Path, config: Config, device: str, workers: int) -> Iterator[dict[str, float]]:
    """Train one network of TASKS on clips of the world; its weights go to `folder`/NAME.safetensors.

    Yields step, seconds (and those spent waiting for clips) and running losses every 100 steps. The exponential mean
    over steps is what is saved. Drawing and damaging clips takes longer than learning from them: every clip is looked
    at batch_size / fresh times on average, over the time that it is remembered.
    """
    torch.manual_seed(config.seed)
    started, waited = time.perf_counter(), 0.0
    run = _Run(name, config, device)
    batches = load_batches(WorldStream(run.task.targets, config.fresh, config.seed, run.task.clean), workers)
    memory = Memory(config.remembered, device)
    while memory.added < 4 * config.batch_size:
        memory.add(*next(batches))
    with _fast_on_gpu():
        for step in range(config.steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            share = max(step / config.steps, (time.perf_counter() - started) / (60 * config.minutes))
            if share >= 1:
                break
            memory.add(*batch)
            run.advance(step, share, *memory.draw(config.batch_size))
            if (step + 1) % 100 == 0 or step + 1 == config.steps:
                losses = {key: float(value) for key, value in run.losses.items()}
                if not all(math.isfinite(value) for value in losses.values()):
                    raise ValueError(f"the loss is no longer a number at step {step + 1}: {losses}; lower lr")
                yield {"step": step + 1, "of": config.steps, "share": share,
                       "seconds": time.perf_counter() - started, "waited": waited} | losses
    save_weights(run.mean.shipped, folder / f"{name}.safetensors")


@contextmanager
def _fast_on_gpu() -> Iterator[None]:
    """TensorFloat32 and the fastest convolutions found by trying, while training."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    cudnn.allow_tf32 = cudnn.benchmark = matmul.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = before


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


def available_workers() -> int:
    """Processes that draw scenes: all cores but one, at most 15."""
    return min(15, len(os.sched_getaffinity(0)) - 1)
