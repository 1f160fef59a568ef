"""VBench dimensions (Huang et al., 2024) by their published formulas, so that numbers compare with its tables.

Their weaknesses stay in: a frozen clip is the best there is, and the flicker score depends on the frame rate.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.metrics.base import Measurement, PerClipMetric, register_metric

# VBench reads whole videos at native size; 256 frames is our bound on memory.
EVERY_FRAME = ClipSpec(max_frames=256, size=None)


@register_metric("vbench_temporal_flickering")
class TemporalFlickering(PerClipMetric):
    """(255 - mean |x_t - x_{t+1}|) / 255 in 8-bit units; meant for static scenes only."""

    higher_is_better = True
    range = (0.0, 1.0)
    summary = "VBench: 1 - mean absolute difference of neighbouring frames (static scenes only; rises with fps)"
    spec = EVERY_FRAME

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        frames = generated.frames
        pairs = zip(frames.unbind(1)[:-1], frames.unbind(1)[1:], strict=True)  # one at a time: native size is large
        errors = torch.stack([(a.float() - b.float()).abs().mean(dim=(1, 2, 3)) for a, b in pairs], dim=1)
        return Measurement(1 - errors.mean(dim=1), curves={"frame": 1 - errors})


class _Consistency(PerClipMetric):
    """Mean over frames of the two cosines, cut at 0, with the frame before and with the first frame."""

    higher_is_better = True
    range = (0.0, 1.0)
    spec = EVERY_FRAME

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        features = F.normalize(generated.features[self.extractor_keys[0]].float(), dim=-1)
        before = (features[:, 1:] * features[:, :-1]).sum(dim=-1).clamp(0, 1)
        first = (features[:, 1:] * features[:, :1]).sum(dim=-1).clamp(0, 1)
        frames = (before + first) / 2
        return Measurement(frames.mean(dim=1), {"before": before.mean(dim=1), "first": first.mean(dim=1)},
                           {"frame": frames})


@register_metric("vbench_subject_consistency")
class SubjectConsistency(_Consistency):
    """Consistency of DINO ViT-B/16 class tokens."""

    summary = "VBench: DINO ViT-B/16 cosine with the frame before and the first (a frozen clip scores 1)"
    extractor_keys = ("dino",)


@register_metric("vbench_background_consistency")
class BackgroundConsistency(_Consistency):
    """Consistency of CLIP ViT-B/32 image embeddings, resized without antialiasing as VBench does."""

    summary = "VBench: CLIP ViT-B/32 cosine with the frame before and the first (a frozen clip scores 1)"
    extractor_keys = ("open_clip/ViT-B-32/openai/aliased",)


@register_metric("vbench_dynamic_degree")
class DynamicDegree(PerClipMetric):
    """1 if the clip moves, else 0: the flow of the 5 % fastest pixels, in enough of the pairs of frames at 8 fps.

    A pair moves above 6 pixels per 256 of the short side; the clip moves with round(n / 4) such pairs of n frames.
    VBench takes every round(fps / 8)-th frame, we the frames nearest to eighths of a second (so that a video of fewer
    than 8 frames a second has still pairs among its own).
    """

    higher_is_better = True
    range = (0.0, 1.0)
    summary = "VBench: share of clips that move, by RAFT-large flow at 8 fps (yes or no per clip)"
    spec = ClipSpec(fps=8.0, size=None, min_frames=3)  # with 2 frames the published rule calls everything moving
    extractor_keys = ("raft_large",)

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        speed = generated.features[self.extractor_keys[0]]["top5"]
        moving = moves(speed, min(generated.frames.shape[-2:]))
        return Measurement(moving.float(), {"speed": speed.mean(dim=1)}, {"speed": speed})


def moves(speed: Tensor, short_side: int) -> Tensor:
    """(B,) bool from the (B, T-1) speeds of the fastest pixels, by the published threshold and count."""
    needed = round(4 * (speed.shape[1] + 1) / 16)  # Python's rounding of halves to even, as published
    return (speed > 6 * short_side / 256).sum(dim=1) >= needed


@register_metric("vbench_aesthetic_quality")
class AestheticQuality(PerClipMetric):
    """LAION's linear head on CLIP ViT-L/14, mean over frames, divided by 10."""

    higher_is_better = True
    summary = "VBench: LAION linear aesthetic head on CLIP ViT-L/14, mean over frames, / 10"
    spec = EVERY_FRAME
    extractor_keys = ("aesthetic/l14_linear/aliased",)

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        frames = generated.features[self.extractor_keys[0]].float().squeeze(-1) / 10
        return Measurement(frames.mean(dim=1), {"worst_frame": frames.amin(dim=1)}, {"frame": frames})
