"""Fitting any network of pairs: Bradley-Terry, with or without ties; the share of wrong labels is learnt along."""
from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evalkit.results import write_atomic
from rewards.losses import bradley_terry, bradley_terry_with_ties
from rewards.preference_clips import DIMENSIONS, shuffled

if TYPE_CHECKING:
    from rewards.train import Config

DECAY = 0.05
MOST_FLIPPED = 0.45  # share of wrong labels that a fit may believe in: at 0.5 they would say nothing


def fit_pairs(network: nn.Module, margins_at: Callable[[Tensor], Tensor], labels: Tensor, rows: Tensor, config: Config,
              groups: Sequence[tuple[list[nn.Parameter], float]], rate: float, batch: int,
              keep: Path | None = None) -> Iterator[dict[str, Any]]:
    """Fit `groups` of parameters, each at its highest rate, so that margins_at(rows) (B, 4) tell the labels of `rows`.

    What margins are multiplied by and the share of wrong labels are learnt along, at `rate`. Yields after each epoch.
    keep: where the state after each epoch is written, from which the same fit goes on.
    """
    device = groups[0][0][0].device
    sharpness = nn.Parameter(torch.full((len(DIMENSIONS),), 3.0, device=device))  # log of the margins' factors
    doubt = nn.Parameter(torch.tensor(-3.0, device=device))
    optimizer = torch.optim.AdamW([*({"params": parameters} for parameters, _ in groups),
                                   {"params": [sharpness, doubt], "weight_decay": 0.0}], weight_decay=DECAY)
    generator = torch.Generator().manual_seed(config.seed)
    steps = config.epochs * max(1, round(len(rows) / batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [*(peak for _, peak in groups), rate], max(1, steps))
    loss_of = bradley_terry_with_ties if config.ties else bradley_terry
    state = None if keep is None else FitState(keep, config, optimizer, schedule, generator)
    for epoch in range(state.restore() if state else 0, config.epochs):
        network.train()
        total = 0.0
        for chosen in shuffled(len(rows), batch, generator):
            margins, told = margins_at(rows[chosen]) * sharpness.exp(), labels[rows[chosen]].to(device)
            flip = MOST_FLIPPED * doubt.sigmoid()
            loss = margins.sum() * 0
            for k in range(len(DIMENSIONS)):
                if len(said := told[:, k].isfinite().nonzero()[:, 0]):
                    loss = loss + loss_of(margins[said, k], told[said, k], flip=flip).mean()
            step(optimizer, schedule, loss)
            total += loss.item() * len(chosen) / len(rows)
        if state:
            state.write(epoch + 1)
        yield {"epoch": epoch + 1, "loss": total, "flip": flip.item()}
    network.eval()


def step(optimizer: torch.optim.Optimizer, schedule: Any, loss: Tensor) -> None:
    """One of `optimizer` down `loss`, and of its schedule."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()


class FitState:
    """All that the next epoch of a fit depends on, in a file of tensors and numbers."""

    def __init__(self, path: Path, config: Config, optimizer: torch.optim.Optimizer, schedule: Any,
                 generator: torch.Generator) -> None:
        self.path, self.optimizer, self.schedule, self.generator = path, optimizer, schedule, generator
        self.parameters = [value for group in optimizer.param_groups for value in group["params"]]
        elsewhere = {"out", "features", "workers", "device", "max_failures"}  # change no number
        self.of = json.dumps({key: value for key, value in asdict(config).items() if key not in elsewhere})

    def write(self, epoch: int) -> None:
        """After `epoch` epochs, in one step."""
        buffer = io.BytesIO()
        torch.save({"of": self.of, "epoch": epoch, "parameters": [value.detach() for value in self.parameters],
                    "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                    "rows": self.generator.get_state(), "random": torch.get_rng_state(),
                    "cuda": torch.cuda.get_rng_state_all() if self.parameters[0].is_cuda else []}, buffer)
        write_atomic(self.path, buffer.getvalue())

    @torch.no_grad()
    def restore(self) -> int:
        """The epochs that are done: those of the file where it is of this very fit, else 0."""
        if not self.path.is_file():
            return 0
        held = torch.load(self.path, map_location="cpu", weights_only=True)
        if held["of"] != self.of:
            return 0
        for value, kept in zip(self.parameters, held["parameters"], strict=True):
            value.copy_(kept)
        self.optimizer.load_state_dict(held["optimizer"])
        self.schedule.load_state_dict(held["schedule"])
        self.generator.set_state(held["rows"])
        torch.set_rng_state(held["random"])
        if self.parameters[0].is_cuda and held["cuda"]:
            torch.cuda.set_rng_state_all(held["cuda"])
        return held["epoch"]
