"""`cinematic_composition`: composition, colour grading, smoothness of motion and the camera's path, in one number."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evalkit.metrics.base import Measurement
from rewards import camera, composition, grading
from rewards.base import Reward
from rewards.frames import evenly_spaced, pooled, to_luma

STILLS = 12  # frames per clip on which composition and colour are judged, evenly spaced, first and last included
SHORT_SIDE = 96  # pixels, about: the size at which they are judged

# Four things a cinematographer decides weigh the same, and so do the parts of each.
WEIGHTS = {
    "thirds": 1 / 16, "leading_lines": 1 / 16, "vanishing_point": 1 / 16, "framing": 1 / 16,
    "palette": 1 / 12, "grading": 1 / 12, "exposure": 1 / 12,
    "motion_smoothness": 1 / 4,
    "camera_path": 1 / 4,
}


class CinematicComposition(Reward):
    """Weighted mean of nine scores in [0, 1] (see WEIGHTS), with shot types as diagnostics.

    Saturation, brightness and contrast are scored by bands of real footage. A static camera is legitimate, a frozen
    picture is not: it loses motion_smoothness. What changes across a hard cut counts neither as motion nor as grade.
    """

    name = "cinematic_composition"
    summary = "shot composition, colour grading, motion smoothness and camera path"
    extractor_keys = ("motion",)
    needs_fps = True

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"weights": WEIGHTS, "stills": STILLS, "short_side": SHORT_SIDE}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        motion = features["motion"]
        scores = still_scores(frames, motion["cut"]) | motion_scores(motion, fps)
        value = sum(weight * scores[name] for name, weight in WEIGHTS.items())
        with torch.no_grad():
            shots = camera.shot_type(camera.camera_velocity(motion["transform"], motion["cut"], fps))
        return Measurement(value, scores | {f"shot_{name}": share for name, share in shots.items()})


def still_scores(frames: Tensor, cut: Tensor) -> dict[str, Tensor]:
    """Composition and colour, name -> (B,), of (B, T, 3, H, W) frames with hard cuts (B, T-1)."""
    stills = pooled(evenly_spaced(frames, STILLS), SHORT_SIDE).clamp(0, 1)
    luma = to_luma(stills)
    shots = evenly_spaced(torch.cat([torch.zeros_like(cut[:, :1]), cut], dim=1).cumsum(1), STILLS)
    return composition_scores(luma) | {
        "palette": grading.palette(stills),
        "grading": grading.grading(grading.lab_of(pooled(stills, SHORT_SIDE // 2)), (shots.diff(dim=1) == 0).to(luma)),
        "exposure": grading.exposure(luma),
    }


def composition_scores(luma: Tensor) -> dict[str, Tensor]:
    """Composition of (B, N, H, W) luma, name -> (B,), averaged over frames."""
    flat = luma.flatten(0, 1)
    attention = composition.saliency(flat)
    structure = composition.structure_tensor(flat)
    scores = {
        "thirds": composition.thirds(attention),
        "leading_lines": composition.leading_lines(structure, attention),
        "vanishing_point": composition.vanishing_point(structure, flat.shape[-2:]),
        "framing": composition.framing(attention),
    }
    return {name: score.unflatten(0, luma.shape[:2]).mean(1) for name, score in scores.items()}


def motion_scores(motion: Mapping[str, Tensor], fps: Tensor) -> dict[str, Tensor]:
    """Smoothness of motion and of the camera's path, name -> (B,), from the features of the motion extractor."""
    velocity = camera.camera_velocity(motion["transform"], motion["cut"], fps)
    speed = camera.fill_cuts(motion["displacement"][..., None], motion["cut"])[..., 0] * fps[:, None]
    return {
        "motion_smoothness": camera.motion_smoothness(velocity, speed, fps),
        "camera_path": camera.camera_path(velocity, fps),
    }
