"""Text alignment: the raw cosine of CLIP image and text embeddings (Radford et al., 2021), mean over frames."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.features.mini_clip import tokenize
from evalkit.metrics.base import Measurement
from evalkit.metrics.clip_score import CLIP, TEXT_SPEC, text_cosines
from rewards.base import Reward


class ClipAlignment(Reward):
    """Mean over frames of cos(CLIP image, CLIP text), OpenAI's ViT-B/32; real pairs lie near 0.3.

    Differentiable in the frames; the text embedding is a constant. A single good frame lifts it, so the component
    `worst_frame` is shown beside it.
    """

    name = "clip_alignment"
    range = (-1.0, 1.0)
    summary = "cosine of CLIP ViT-B/32 frame and prompt embeddings, mean over 16 frames"
    spec = TEXT_SPEC
    extractor_keys = (CLIP,)
    needs_prompts = True
    min_frames = 1

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        if prompts is None:
            raise ValueError(f"{self.name}: expected one prompt per clip, got None")
        (key, clip), = self._by_key()
        cosines = text_cosines(features[key], clip.encode_text(prompts))
        return Measurement(cosines.mean(dim=1), {"worst_frame": cosines.amin(dim=1)}, {"frame": cosines})


class ClipAlignmentMini(Reward):
    """cos(clip, text) in the shipped mini CLIP, for prompts of the made-up world alone.

    It reads sixteen frames at once, so it sees direction and camera; differentiable in the frames.
    """

    name = "clip_alignment_mini"
    range = (-1.0, 1.0)
    summary = "cosine of clip and prompt in a small CLIP of the made-up world (shipped); other prompts are refused"
    spec = ClipSpec(num_frames=16, min_frames=16, placement="start", fps=8.0, size=(64, 64))
    extractor_keys = ("mini_clip",)
    needs_prompts = True
    min_frames = 8

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError for words that the made-up world does not have."""
        tokenize(prompts)

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        if prompts is None:
            raise ValueError(f"{self.name}: expected one prompt per clip, got None")
        (key, clip), = self._by_key()
        return Measurement(F.cosine_similarity(features[key].float(), clip.encode_text(prompts), dim=-1))
