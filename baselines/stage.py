"""What a stage is: a model, batches that depend on the step alone, and a loss; `train` does the rest."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines import objectives
from baselines.adapters import Lora, reference
from baselines.checkpoints import Checkpoint, save_model, trainable_weights
from baselines.model import VideoDiffusion


@dataclass(frozen=True)
class Shard:
    """This process's share of every batch: rows rank, rank + world, ..."""

    rank: int = 0
    world: int = 1

    def rows(self, count: int) -> range:
        return range(self.rank, count, self.world)


@dataclass
class Batch:
    """Tensors whose first axis is the row, and a name for each; rows: which of the batch of all processes they are."""

    tensors: dict[str, Tensor]
    names: list[str]
    rows: range
    draws: Draws | None = None

    def part(self, start: int, stop: int) -> Batch:
        return Batch({name: value[start:stop] for name, value in self.tensors.items()}, self.names[start:stop],
                     self.rows[start:stop], self.draws)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Draws:
    """The randomness of one step: drawn for the whole batch, of which every process and part takes its rows.

    Hence one process and two, and one part and four, compute the same gradient.
    """

    seed: int
    step: int
    total: int
    device: torch.device

    def _generator(self, kind: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed((self.seed * 1_000_003 + self.step) * 16 + kind)

    def noise(self, rows: range, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(self.total, *shape, generator=self._generator(1), device=self.device)[_cut(rows)]

    def times(self, rows: range, shift: float, even: float = 0.0) -> Tensor:
        return objectives.sample_t(self.total, self._generator(2), shift, even=even)[_cut(rows)]

    def chance(self, rows: range, probability: float) -> Tensor:
        """(B,) bool."""
        return torch.rand(self.total, generator=self._generator(3), device=self.device)[_cut(rows)] < probability


def _cut(rows: range) -> slice:
    """A view, where a list would be sent to the device, which waits for all that was asked of it before."""
    return slice(rows.start, rows.stop, rows.step)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it."""
    return tensor.to(device) if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Stage(ABC):
    """What differs between stages: the model that learns, its batches and its loss."""

    name: ClassVar[str]
    lora: Lora | None = None  # None: the whole transformer learns
    base: str | None = None  # the checkpoint that the adapter stands on
    pretrained: str | None = None
    one_shape: bool = True  # of all batches
    model: VideoDiffusion

    @abstractmethod
    def batches(self, start: int, shard: Shard) -> Iterator[Batch]:
        """Endless, of step `start` on; the batch of a step depends on the step and the seed alone."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """"loss", a mean over the rows, is minimized; other entries are logged."""

    def module(self) -> nn.Module:
        """What learns."""
        return self.model.transformer

    def install(self, network: nn.Module) -> None:
        """Compute losses by `network`: the module, or what a trainer wraps around it."""
        self.model.network = network

    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that learn, by the names under which `save` writes them."""
        return trainable_weights(self.model)

    def save(self, folder: Path, step: int, weights: Mapping[str, Tensor]) -> Checkpoint:
        """Write a checkpoint of these weights."""
        return save_model(self.model, folder, self.name, step, weights=weights, lora=self.lora, base=self.base,
                          pretrained=self.pretrained)

    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out numbers of the model as it is; with "proxy" and "held_out" among them, a run that diverges stops."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside weights and optimizer; what has a parameter's name is sharded like it."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: B027  (most stages have none)
        """Take up what `state` gave."""

    def noised(self, x: Tensor, batch: Batch, even: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and the velocity to predict, of clean latents, by the step's draws; a share of times evenly drawn."""
        noise = batch.draws.noise(batch.rows, tuple(x.shape[1:]))
        t = batch.draws.times(batch.rows, self.model.preset.shift, even)
        return objectives.add_noise(x, noise, t), t, objectives.velocity(x, noise)

    @torch.no_grad()
    def ref_velocity(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """What ref_model predicts: the same transformer with its adapter off."""
        with self.model.unwrapped(), reference(self.model.transformer):
            return self.model.velocity(x_t, t, text)


class ClosedForm(ABC):
    """What is learned at once, without steps; `train` runs it like a stage."""

    name: ClassVar[str]
    model: VideoDiffusion

    @abstractmethod
    def solve(self, folder: Path) -> tuple[Checkpoint, dict[str, float]]:
        """Write the checkpoint; numbers that tell how good it is."""


def drop_text(text: Tensor, nothing: Tensor, batch: Batch, probability: float) -> Tensor:
    """The states (B, L, D) with those of no prompt, (B or 1, L, D), in some rows: what guidance needs."""
    return torch.where(batch.draws.chance(batch.rows, probability)[:, None, None], nothing, text)
