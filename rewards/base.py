"""A reward: a differentiable number per clip, higher is better. The metric of the same name is this very object."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from evalkit.clips import ClipSpec, check_frames
from evalkit.features.base import Extractor, extract, in_float32, make_extractor
from evalkit.metrics.base import Measurement

if TYPE_CHECKING:
    from rewards.combined import Combined


class Reward(nn.Module, ABC):
    """`reward(frames, prompts, fps) -> (B,)`, differentiable in `frames`, higher is better.

    Subclasses declare the class attributes below and implement `measure`. A reward scores the frames it is given;
    `spec` says which frames the metric of the same name reads from a video file.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    metric_sign: ClassVar[int] = 1  # -1 where the metric is printed lower-is-better (artifacts)
    unit: ClassVar[str] = ""
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)  # of the reward
    summary: ClassVar[str] = ""
    spec: ClassVar[ClipSpec] = ClipSpec()
    extractor_keys: ClassVar[tuple[str, ...]] = ()
    needs_prompts: ClassVar[bool] = False
    needs_fps: ClassVar[bool] = False
    min_frames: ClassVar[int] = 2
    recompute: bool = False  # see `checkpointed`

    def __init__(self) -> None:
        super().__init__()
        self.extractors = nn.ModuleDict()
        for key in self.extractor_keys:
            self.extractors[key.replace(".", "_")] = make_extractor(key)

    def parameters_of_protocol(self) -> dict[str, Any]:
        """Constants that change the number, for the protocol id."""
        return {}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError for a prompt that it cannot read; most read any."""

    @abstractmethod
    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """The reward with components and curves, from frames and the features of `extractor_keys`, all (B, ...)."""

    def score(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
              fps: Tensor | None) -> Tensor:
        """(B,) rewards from features extracted before (the runner caches them)."""
        return self.measure(frames, features, prompts, fps).value

    def forward(self, frames: Tensor | Sequence[Tensor], prompts: Sequence[str] | None = None,
                fps: float | Tensor | None = None) -> Tensor:
        """(B,) rewards of frames (B, T, 3, H, W) in [0, 1], or of a list of (T, 3, H, W) of unequal shapes.

        float32 whatever the frames are; under autocast its networks follow that, and nothing else does.
        Raises ValueError on a wrong shape, range or number of prompts, too few frames, or a missing fps.
        """
        return self.measure_any(frames, prompts, fps).value

    def components(self, frames: Tensor | Sequence[Tensor], prompts: Sequence[str] | None = None,
                   fps: float | Tensor | None = None) -> dict[str, Tensor]:
        """What the reward is made of: name -> (B,)."""
        return dict(self.measure_any(frames, prompts, fps).components)

    def checkpointed(self, on: bool = True) -> Self:
        """This reward, from now on with gradient checkpointing of its extractors: same value, same gradient.

        A network then holds one micro-batch at a time in memory instead of all, and runs forward twice. Rewards
        without a network on every frame gain next to nothing: they keep little of big clips anyway.
        """
        for module in self.modules():
            if isinstance(module, Reward):
                module.recompute = on
        return self

    def __mul__(self, weight: float) -> Combined:
        """`0.5 * reward`: with a weight, standardised; see `rewards.combined`."""
        from rewards.combined import weighted

        return weighted(self, weight)

    __rmul__ = __mul__

    def __add__(self, other: Reward) -> Combined:
        from rewards.combined import added

        return added(self, other)

    def __neg__(self) -> Combined:
        return self * -1

    def standardised(self, mean: float, std: float) -> Combined:
        """(reward - mean) / std, with your own constants; ValueError where they are not finite or std not positive."""
        from rewards.combined import Combined, Scale, Term

        return Combined([Term(self, 1.0, Scale(mean, std))])

    @property
    def device(self) -> torch.device | None:
        """Where its weights and constants lie; None where it has none, and works wherever the frames are."""
        first = next(chain(self.parameters(), self.buffers()), None)
        return None if first is None else first.device

    def measure_any(self, frames: Tensor | Sequence[Tensor], prompts: Sequence[str] | None,
                    fps: float | Tensor | None) -> Measurement:
        """Value and components of what `forward` takes. Raises as that."""
        clips = [clip.unsqueeze(0) for clip in frames] if isinstance(frames, (list, tuple)) else [frames]
        for clip in clips:
            self._check(clip)
        count = sum(len(clip) for clip in clips)
        if self.needs_prompts and (prompts is None or isinstance(prompts, str) or len(prompts) != count):
            got = prompts if prompts is None or isinstance(prompts, str) else len(prompts)
            raise ValueError(f"{self.name}: expected {count} prompts, one per clip, got {got!r}")
        if self.needs_fps and fps is None:
            raise ValueError(f"{self.name}: expected fps (a number or (B,)), got None; it is never guessed")
        rates = None if fps is None else torch.as_tensor(fps, dtype=torch.float32).to(clips[0].device).expand(count)
        if rates is not None and not bool((rates > 0).all()):
            raise ValueError(f"{self.name}: expected positive fps, got {rates.tolist()}")
        measured, start = [], 0
        for clip in clips:
            here = slice(start, start := start + len(clip))
            features = {key: extract(module, clip, self.recompute) for key, module in self._by_key()}
            with in_float32(clip):
                measured.append(self.measure(clip, features, None if prompts is None else list(prompts[here]),
                                             None if rates is None else rates[here]))
        if len(measured) == 1:
            return measured[0]
        return Measurement(
            torch.cat([one.value for one in measured]),
            {key: torch.cat([one.components[key] for one in measured]) for key in measured[0].components},
        )

    def _by_key(self) -> list[tuple[str, Extractor]]:
        return [(key, self.extractors[key.replace(".", "_")]) for key in self.extractor_keys]

    def _check(self, clip: Tensor) -> None:
        check_frames(clip)
        if clip.shape[1] < self.min_frames:
            raise ValueError(f"{self.name}: expected at least {self.min_frames} frames, got {clip.shape[1]}")
