"""Any reward second by second: a long clip is cut into segments, each is scored, and the scores are pooled."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evalkit.metrics.base import Measurement
from rewards.base import Reward


class Segments(Reward):
    """`reward` over whole segments of `seconds`, pooled: so that a clip of any length is judged on the same scale.

    A segment has round(seconds * fps) frames, at least the reward's own minimum; what is left over joins the last one,
    and a shorter clip is one segment. pooling: "mean" less kappa times the standard deviation over segments, or "min",
    whose gradient reaches the frames of the worst segment alone. Components are pooled with the same weights; "worst"
    is the least segment. Curves: "segments" (B, S), the rewards, and every component; NaN beyond the end of a clip.

    The extractors of `reward` run on every segment: features of the whole clip are no use. ValueError for seconds that
    are not positive, an unknown pooling, or a kappa that is negative or goes with "min".
    """

    summary = "a reward over segments of equal duration, pooled"
    needs_fps = True

    def __init__(self, reward: Reward, seconds: float = 1.0, pooling: Literal["mean", "min"] = "mean",
                 kappa: float = 0.0) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds: expected a positive number, got {seconds}")
        if pooling not in ("mean", "min"):
            raise ValueError(f'pooling: expected "mean" or "min", got {pooling!r}')
        if not 0 <= kappa < math.inf or (kappa and pooling == "min"):
            raise ValueError(f'kappa: expected a number from 0 on, and 0 with pooling="min", got {kappa}')
        super().__init__()
        self.reward, self.seconds, self.pooling, self.kappa = reward, seconds, pooling, kappa
        how = "_min" if pooling == "min" else f"_kappa{kappa:g}" if kappa else ""
        self.name = f"{reward.name}_{seconds:g}s{how}"
        self.metric_sign, self.needs_prompts = reward.metric_sign, reward.needs_prompts
        self.min_frames, self.recompute = reward.min_frames, reward.recompute
        low, high = reward.range
        self.range = (low - kappa * (high - low) / 2 if kappa else low, high)
        self.spec = replace(reward.spec, num_frames=None, min_frames=reward.min_frames, placement="start")
        self.eval()

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"reward": self.reward.name, "version": self.reward.version,
                "parameters": self.reward.parameters_of_protocol(),
                "extractors": [module.protocol() for _, module in self.reward._by_key()],
                "seconds": self.seconds, "pooling": self.pooling, "kappa": self.kappa}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        self.reward.check_prompts(prompts)

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        found = [self._by_segment(clip, None if prompts is None else prompts[k], fps[k])
                 for k, clip in enumerate(frames.unbind())]
        pooled = [self._pool(one) for one in found]
        curves = {name: pad_sequence([one[name].detach() for one in found], batch_first=True, padding_value=math.nan)
                  for name in found[0]}
        components = {name: torch.stack([one[name] for one in pooled]) for name in pooled[0]}
        return Measurement(components.pop("segments"), components, curves)

    def _by_segment(self, clip: Tensor, prompt: str | None, fps: Tensor) -> dict[str, Tensor]:
        """The reward, as "segments", and the components of each segment of (T, 3, H, W), each (S,)."""
        length = max(self.min_frames, round(self.seconds * float(fps)))
        count = max(1, len(clip) // length)
        equal = count if count * length == len(clip) else count - 1
        head, tail = clip.split([equal * length, len(clip) - equal * length])
        runs = [run for run in (head.unflatten(0, (equal, length)), tail[None]) if run.numel()]
        measured = [self.reward.measure_any(run, None if prompt is None else [prompt] * len(run), fps) for run in runs]
        values = {"segments": torch.cat([one.value for one in measured])}
        return values | {name: torch.cat([one.components[name] for one in measured]) for name in measured[0].components}

    def _pool(self, curves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> () from name -> (S,), and "worst"."""
        values = curves["segments"]
        if self.pooling == "min":
            pooled = {name: curve[values.argmin()] for name, curve in curves.items()}
        else:
            pooled = {name: curve.mean() for name, curve in curves.items()}
        if self.kappa:
            pooled["segments"] = pooled["segments"] - self.kappa * (values.var(correction=0) + 1e-8).sqrt()
        return pooled | {"worst": values.min()}
