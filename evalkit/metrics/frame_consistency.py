"""Mean cosine of consecutive frames' features: does the picture stay the same thing?"""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipBatch
from evalkit.metrics.base import Measurement, PerClipMetric, register_metric


def consecutive_cosines(features: Tensor) -> Tensor:
    """(B, T, D) -> (B, T-1) cosine of each frame with the next."""
    return F.cosine_similarity(features[:, :-1].float(), features[:, 1:].float(), dim=-1)


@register_metric("frame_consistency")
class FrameConsistency(PerClipMetric):
    """Mean cosine of SqueezeNet features of consecutive frames.

    A frozen clip scores 1, so read it beside `dynamic_degree`.
    """

    higher_is_better = True
    range = (-1.0, 1.0)
    summary = "cosine of consecutive frames' SqueezeNet features (a frozen clip scores 1: read with dynamic_degree)"
    extractor_keys = ("squeezenet",)

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        cosines = consecutive_cosines(generated.features[self.extractor_keys[0]])
        return Measurement(cosines.mean(dim=1), {"worst": cosines.amin(dim=1)}, {"cosine": cosines})


@register_metric("frame_consistency_mini")
class FrameConsistencyMini(FrameConsistency):
    """The same with the shipped mini network's frame features: no weights to fetch, trained on the made-up world."""

    summary = "cosine of consecutive frames' features in a small network of the made-up world (shipped)"
    extractor_keys = ("mini_frame",)
