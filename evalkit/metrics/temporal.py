"""How much moves: the guard against videos that win other scores by standing still."""
from __future__ import annotations

from torch import Tensor

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.metrics.base import Measurement, PerClipMetric, register_metric


@register_metric("dynamic_degree")
class DynamicDegree(PerClipMetric):
    """Speed of the fastest 5 % of the picture, camera motion included, in % of the short side per second.

    Read at 8 frames per second whatever the video's rate, and averaged over pairs of frames within a shot: the same
    scene gives the same number at any rate of 8 and more. Luma flicker is fitted and removed before; stills give 0.
    Motion beyond 19 % of the short side per frame (150 % per second at 8 fps) is not followed: there the number
    saturates. Higher is better only as a guard: above what real videos of the kind show, more is not better.
    Curve: "speed" (B, T-1), 0 at cuts. Components: camera (the global motion's translation), cuts (their number).
    """

    higher_is_better = True
    unit = "% of short side/s"
    range = (0.0, float("inf"))
    summary = "speed of the fastest 5 % of the picture, camera included; 0 = a still"
    spec = ClipSpec(fps=8.0, max_frames=40, size=128)
    extractor_keys = ("motion",)
    needs_fps = True

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        if generated.fps is None:
            raise ValueError("dynamic_degree: expected fps, one per clip, got None")
        motion = generated.features["motion"]
        percent = 100 * generated.fps.to(motion["displacement"])[:, None]
        within = 1 - motion["cut"]
        speed = motion["displacement"] * percent * within
        pan = (motion["transform"][..., :2].square().sum(-1) + 1e-12).sqrt() - 1e-6
        components = {"camera": _mean(pan * percent * within, within), "cuts": motion["cut"].sum(1)}
        return Measurement(_mean(speed, within), components, {"speed": speed})


def _mean(values: Tensor, within: Tensor) -> Tensor:
    return values.sum(1) / within.sum(1).clamp_min(1)
