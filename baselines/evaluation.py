"""Held-out numbers while training: the same prompts and seeds each time, judged by the oracle and by rewards."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.model import VideoDiffusion
from evalkit.data.scene import NUM_FRAMES
from evalkit.devices import at_once

if TYPE_CHECKING:
    from rewards.base import Reward

BATCH = 64  # samples made at a time
PIXELS = {"cpu": 1 << 22, "cuda": 1 << 24}  # of all frames of the clips judged at a time


@dataclass
class HeldOut:
    """Two samples for each prompt. world: judge by the oracle, too; proxy: the reward that is optimized; held_out:
    another, never in a loss, or None: the oracle's overall quality."""

    prompts: Sequence[str]
    steps: int = 20
    guidance: float = 3.0
    world: bool = True
    proxy: Reward | None = None
    held_out: Reward | None = None

    @torch.no_grad()
    def __call__(self, model: VideoDiffusion) -> dict[str, float]:
        """follow, visual, motion, text, quality (of the world), diversity, "proxy" and "held_out"."""
        prompts = [prompt for prompt in self.prompts for _ in (0, 1)]
        seeds = [10_000_000 + k for k in range(len(prompts))]
        frames = torch.cat([model.sample(prompts[k: k + BATCH], seeds[k: k + BATCH], self.steps, self.guidance)
                            for k in range(0, len(prompts), BATCH)])
        found = {"diversity": _diversity(frames)}
        if self.world and frames.shape[1] == NUM_FRAMES:
            found |= judged(frames, prompts)
        asked = {"proxy": self.proxy, "held_out": self.held_out}
        found |= {name: fmean(score(reward, frames, prompts, model.preset.fps))
                  for name, reward in asked.items() if reward is not None}
        if "held_out" not in found and "quality" in found:
            found["held_out"] = found["quality"]
        return found


def judged(frames: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """The oracle's means: the share that follows its prompt, and quality by dimension."""
    from baselines.world import judge

    verdicts = judge(frames, prompts)
    names = {"visual": "visual", "motion": "motion", "text": "text", "quality": "overall"}
    return {"follow": fmean(one.follows for one in verdicts)} | {
        name: fmean(one.quality[key] for one in verdicts) for name, key in names.items()}


@torch.no_grad()
def score(reward: Reward, frames: Tensor, prompts: Sequence[str], fps: float) -> list[float]:
    """The reward of each of (B, T, 3, H, W) frames, on their device."""
    reward.to(frames.device)
    size = clips_at_once(frames.shape[1], *frames.shape[3:], frames.device)
    return [value for k in range(0, len(frames), size)
            for value in reward(frames[k: k + size], list(prompts[k: k + size]), fps).float().tolist()]


def clips_at_once(num_frames: int, height: int, width: int, device: torch.device) -> int:
    """How many clips of this size to judge together."""
    return max(1, at_once(PIXELS, device) // (num_frames * height * width))


def _diversity(frames: Tensor) -> float:
    """Mean distance in [0, 1] between frames, shrunk to 16 x 16, of the two samples of a prompt."""
    small = F.adaptive_avg_pool3d(frames.transpose(1, 2), (frames.shape[1], 16, 16))
    return float((small[::2] - small[1::2]).abs().mean())
