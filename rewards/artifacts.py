"""Artifact reward: blockiness, banding, blur, noise, ghosting, judder, flicker and vanishing objects, priced as one."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.features.shots import hard_cuts
from evalkit.metrics.base import Measurement
from rewards import spatial_artifacts, temporal_artifacts
from rewards.base import Reward
from rewards.frames import evenly_spaced, pooled, to_luma

SPATIAL_FRAMES = 8
TEMPORAL_SIDE = 64  # short side, in pixels, at which the temporal detectors look


@dataclass(frozen=True)
class Scale:
    """From a raw measurement to a level: u / (1 + u) with u = (raw / half) ** power, strictly rising, 1/2 at `half`.

    weight: the level that the clip gets from this defect alone at its worst.
    """

    half: float
    power: float
    weight: float

    def level(self, raw: Tensor) -> Tensor:
        u = (raw / self.half).pow(self.power)
        return u / (1 + u)


# Halves lie between the 90 % quantile of real footage (UCF-101, WebVid, natural clips) and a plain defect, so that
# what real clips carry anyway weighs little and a defect that hides another one still outweighs it.
SCALES = {
    "blockiness": Scale(1.0, 1.5, 0.8),
    "banding": Scale(0.2, 1.5, 0.7),
    "blur": Scale(3.0, 1.5, 0.95),
    "noise": Scale(0.012, 2.0, 0.9),
    "ghosting": Scale(0.6, 2.0, 0.5),
    "duplicate_frames": Scale(1.0, 1.0, 0.9),
    "flicker": Scale(2 / 255, 1.0, 0.8),
    "vanishing": Scale(12 / 255, 2.0, 0.5),
}


class Artifacts(Reward):
    """Minus the artifact level of a clip: 1 - prod(1 - weight * level) over eight defects; the metric is the level.

    Components are the levels in [0, 1), 0 none. The product is a soft maximum: any one plain defect makes the clip
    bad, several make it worse. Spatial defects are read at native pixels in 8 evenly spaced frames, temporal ones in
    all frames at a short side of about 64 pixels, within shots. A black clip is all duplicates and nothing else.
    """

    name = "artifacts"
    metric_sign = -1
    range = (-1.0, 0.0)
    summary = "blocks, banding, blur, noise, ghosts, judder, flicker, vanishing objects: 0 clean, 1 ruined"
    spec = ClipSpec(size=None, crop=512, max_frames=64)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"spatial_frames": SPATIAL_FRAMES, "temporal_side": TEMPORAL_SIDE,
                "scales": {name: asdict(scale) for name, scale in SCALES.items()}}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """Reward (B,) in (-1, 0]; components are levels, curves are blur in px^2 and noise over the sampled frames."""
        raw, curves = _spatial(to_luma(evenly_spaced(frames, SPATIAL_FRAMES)))
        raw |= _temporal(pooled(frames, TEMPORAL_SIDE))
        levels = {name: scale.level(raw[name]) for name, scale in SCALES.items()}
        clean = torch.stack([1 - SCALES[name].weight * level for name, level in levels.items()]).prod(0)
        return Measurement(clean - 1, levels, curves)


def _spatial(luma: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    curves = {"blur": spatial_artifacts.blur(luma), "noise": spatial_artifacts.noise(luma)}
    raw = {name: curve.mean(1) for name, curve in curves.items()}
    return raw | {"blockiness": spatial_artifacts.blockiness(luma), "banding": spatial_artifacts.banding(luma)}, curves


def _temporal(frames: Tensor) -> dict[str, Tensor]:
    luma, whole = to_luma(frames), 1 - hard_cuts(frames)
    return {name: getattr(temporal_artifacts, name)(luma, whole)
            for name in ("ghosting", "duplicate_frames", "flicker", "vanishing")}
