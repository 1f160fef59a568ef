"""CLIP compatibility scores: CLIPScore as torchmetrics scales it, CLIP-temp as EvalCrafter defines it."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.features.base import make_extractor
from evalkit.metrics.base import Measurement, PerClipMetric, register_metric
from evalkit.metrics.frame_consistency import consecutive_cosines

CLIP = "open_clip/ViT-B-32/openai"
# 16 frames spread over the video; above 512 pixels the towers' own resize to 224 sees no more.
TEXT_SPEC = ClipSpec(num_frames=16, placement="uniform", size=512)


def text_cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine (B, T) of frame embeddings (B, T, D) with the prompt's (B, D)."""
    return F.cosine_similarity(images.float(), texts.float().unsqueeze(1), dim=-1)


@register_metric("clip_score")
class ClipScore(PerClipMetric):
    """max(100 * mean over frames of cos(image, text), 0), CLIP ViT-B/32 of OpenAI."""

    higher_is_better = True
    range = (0.0, 100.0)
    summary = "100 x cosine of CLIP ViT-B/32 frame and prompt embeddings, mean over 16 frames (torchmetrics' scale)"
    spec = TEXT_SPEC
    extractor_keys = (CLIP,)
    needs_prompts = True

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        texts = make_extractor(self.extractor_keys[0]).encode_text(generated.prompts)
        cosines = 100 * text_cosines(generated.features[self.extractor_keys[0]], texts)
        return Measurement(cosines.mean(dim=1).clamp(min=0), curves={"frame": cosines})


@register_metric("clip_temp")
class ClipTemp(PerClipMetric):
    """Mean cosine of consecutive frames' CLIP embeddings. A frozen clip scores 1."""

    higher_is_better = True
    range = (-1.0, 1.0)
    summary = "cosine of consecutive frames' CLIP ViT-B/32 embeddings (a frozen clip scores 1)"
    extractor_keys = (CLIP,)

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        cosines = consecutive_cosines(generated.features[self.extractor_keys[0]])
        return Measurement(cosines.mean(dim=1), curves={"cosine": cosines})
