"""How different the samples of one prompt are from each other; also the Vendi score (Friedman & Dieng, 2023)."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from evalkit.clips import ClipSpec
from evalkit.metrics.base import SetMetric, SetScore, register_metric
from evalkit.metrics.moments import as_rows
from evalkit.statistics import cluster_bootstrap


def mean_pairwise_distance(rows: Any) -> float:
    """Mean cosine distance 1 − cos over the pairs of (N, D) rows, in [0, 2]; 0 where all point one way."""
    unit = _unit(rows)
    if len(unit) < 2:
        raise ValueError(f"expected at least 2 samples, got {len(unit)}: one has no distance")
    pairs = len(unit) * (len(unit) - 1)
    return max(0.0, float((len(unit) ** 2 - unit.sum(0).square().sum()) / pairs))


def vendi_score(rows: Any) -> float:
    """Effective number of different rows among (N, D): exp of the entropy of the spectrum of cosines / N, in [1, N]."""
    unit = _unit(rows)
    spectrum = torch.linalg.svdvals(unit).square() / len(unit)
    spectrum = spectrum[spectrum > 1e-15]
    return float(torch.exp(-(spectrum * spectrum.log()).sum()))


def _unit(rows: Any) -> Tensor:
    rows = as_rows(rows)
    norms = rows.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        raise ValueError("expected features other than 0: they have no direction")
    return rows / norms


class PromptSetMetric(SetMetric):
    """A number per prompt from the features of its samples, averaged over prompts, its interval over prompts.

    Features: SqueezeNet on 8 frames spread over the video, each normalised, laid side by side. The cosine of two
    videos is then the mean cosine of their frames at equal relative times, so another course of events counts too.
    """

    higher_is_better = True
    needs_reference = ""
    group_by_prompt = True
    minimum = 2
    extractor_keys = ("squeezenet",)
    spec = ClipSpec(num_frames=8, min_frames=8, placement="uniform")

    def pool(self, features: Mapping[str, Any]) -> Tensor:
        """(B, T·D) from (B, T, D): frames normalised, in their order."""
        (value,) = features.values()
        return normalize(value.float(), dim=-1).flatten(1)

    def compute(self, generated: Tensor, reference: Tensor | None, prompts: list[str] | None, seed: int) -> SetScore:
        """The mean over prompts with at least 2 samples; null with the reason where there is none."""
        rows = as_rows(generated, "generated")
        if prompts is None:
            return SetScore(None, None, len(rows), f"{self.name}: expected prompts: it compares samples of one prompt")
        if len(prompts) != len(rows):
            raise ValueError(f"prompts: expected one per sample ({len(rows)}), got {len(prompts)}")
        groups: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(prompt, []).append(i)
        groups = {prompt: index for prompt, index in sorted(groups.items()) if len(index) >= self.minimum}
        if not groups:
            reason = f"{self.name}: expected at least {self.minimum} samples (seeds) of one prompt, got one of each"
            return SetScore(None, None, len(rows), reason)
        values = [self.of_prompt(rows[index]) for index in groups.values()]
        sizes = [len(index) for index in groups.values()]
        details = {"prompts": len(groups), "samples_per_prompt": [min(sizes), max(sizes)],
                   "prompts_with_one_sample": len(set(prompts)) - len(groups),
                   "by_prompt": dict(zip(groups, values, strict=True))}
        return SetScore(float(np.mean(values)), cluster_bootstrap(values, seed=seed), sum(sizes), details=details)

    @abstractmethod
    def of_prompt(self, rows: Tensor) -> float:
        """The number for the (S, D) samples of one prompt."""


@register_metric("diversity")
class Diversity(PromptSetMetric):
    """Mean cosine distance between samples of one prompt: 0 where every seed gives the same video."""

    summary = "how different the samples of one prompt are (several seeds)"
    range = (0.0, 2.0)

    def of_prompt(self, rows: Tensor) -> float:
        return mean_pairwise_distance(rows)


@register_metric("vendi")
class Vendi(PromptSetMetric):
    """Effective number of different videos per prompt, from 1 (all the same) to the number of seeds."""

    summary = "effective number of different samples of one prompt; compare equal numbers of seeds only"
    range = (1.0, float("inf"))

    def of_prompt(self, rows: Tensor) -> float:
        return vendi_score(rows)
