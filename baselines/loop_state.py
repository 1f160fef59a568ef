"""What a training run carries from step to step: averaged weights, the guard over losses, and its state on disk."""
from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.errors import UsageError

RECENT = 100  # losses that a spike is judged by
ENOUGH = 50  # of them, before one can be


class Diverged(UsageError):
    """Training stopped itself: a loss or gradient is not a number, or far above those before it."""


class Ema:
    """Exponential mean of parameters, float32, warmed up: early steps count less long."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step 0, 1, ..."""
        keep = min(self.decay, (step + 1) / (step + 11))
        fast = [parameter.float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), fast, 1 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the network has the averaged weights."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(own[name])


@dataclass
class Guard:
    """Looks at every step's loss and gradient norm, some steps later so that the device need not wait."""

    factor: float  # a loss this many times what is usual is a spike
    recent: list[float] = field(default_factory=list)
    start: float = -math.inf  # the median of the first losses: one that has become small may rise to it again

    def check(self, steps: Sequence[int], losses: Tensor, norms: Tensor, names: Sequence[Sequence[str]],
              folder: Path) -> None:
        """Diverged, naming the first bad step and its batch."""
        for step, loss, norm, batch in zip(steps, losses.tolist(), norms.tolist(), names, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise Diverged(f"step {step}: the loss is {loss:g}, its gradient {norm:g}" + _tail(batch, folder))
            usual = max(median(self.recent), self.start) if len(self.recent) >= ENOUGH else math.inf
            if loss > self.factor * usual > 0:
                raise Diverged(f"step {step}: the loss is {loss:g}, and {usual:g} is usual" + _tail(batch, folder))
            self.recent = [*self.recent[-RECENT + 1:], loss]
            if self.start == -math.inf and len(self.recent) == ENOUGH:
                self.start = median(self.recent)


def _tail(batch: Sequence[str], folder: Path) -> str:
    shown = "; ".join(batch[:8]) + f"; and {len(batch) - 8} more" * (len(batch) > 8)
    return (f". Its batch: {shown}. What {folder} holds is kept: lower --lr, or look at these clips, and run the same "
            "command again")


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """In one step: a full disk or a kill leaves the state before. OSError saying so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, f"{path}: cannot save: {os.strerror(cause.errno or 0)}; the last good state is "
                                   "kept: free some space and run the same command again") from error
    finally:
        Path(partial).unlink(missing_ok=True)


def read_state(path: Path, mapped: bool = False) -> dict[str, Any] | None:
    """What `write_state` wrote, on the CPU; None where there is nothing. Executes nothing from the file.

    mapped: into memory that the processes of a machine share, read where it is used.
    """
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped) if path.is_file() else None


def has_diverged(proxy: Sequence[float], held_out: Sequence[float], patience: int) -> bool:
    """Whether the proxy went on rising while what it stands for fell: `patience` evaluations or more ago the held-out
    value was at its best, all since are below it, and the proxy is above what it was there."""
    best = max(range(len(held_out)), key=held_out.__getitem__, default=0)
    return len(held_out) - 1 - best >= patience > 0 and proxy[-1] > proxy[best]


def rate_at(step: int, steps: int, warmup: int, decay: str) -> float:
    """The share of the learning rate at a step: a rise over `warmup` steps, then constant or half a cosine to 0."""
    if decay not in ("constant", "cosine"):
        raise UsageError(f"--decay: expected constant or cosine, got {decay!r}")
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * (0.5 + 0.5 * math.cos(math.pi * step / max(1, steps)) if decay == "cosine" else 1.0)
