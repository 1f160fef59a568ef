"""Weight-free metrics that the engine's tests register: one per video, one per set, one by prompt."""
import torch

from evalkit.clips import ClipSpec
from evalkit.features.base import Extractor, register_extractor
from evalkit.metrics.base import PerClipMetric, SetMetric, SetScore, register_metric


@register_metric("colorfulness")
class Colorfulness(PerClipMetric):
    """Spread and mean of the red-green and yellow-blue opponent channels."""

    higher_is_better = True
    spec = ClipSpec(max_frames=16, size=64)

    def score(self, generated, reference):
        r, g, b = generated.frames.unbind(dim=2)
        rg, yb = (r - g).flatten(2), ((r + g) / 2 - b).flatten(2)
        std, mean = torch.hypot(rg.std(-1), yb.std(-1)), torch.hypot(rg.mean(-1), yb.mean(-1))
        return (std + 0.3 * mean).mean(dim=1)


@register_metric("long_clip")
class LongClip(PerClipMetric):
    """Needs more frames than most test videos have."""

    higher_is_better = True
    spec = ClipSpec(num_frames=20, min_frames=20, size=32)

    def score(self, generated, reference):
        return generated.frames.mean(dim=(1, 2, 3, 4))


@register_metric("prompt_length")
class PromptLength(PerClipMetric):
    """Characters of the prompt."""

    higher_is_better = True
    needs_prompts = True
    spec = ClipSpec(max_frames=2, size=32)

    def score(self, generated, reference):
        return torch.tensor([float(len(prompt)) for prompt in generated.prompts])


@register_extractor("mean_colour")
class MeanColour(Extractor):
    """The mean colour of a clip's first and last frame."""

    key, level, micro_batch = "mean_colour", "clip", 1

    def forward(self, frames):
        return frames[:, [0, -1]].mean(dim=(3, 4)).flatten(1)


@register_metric("colour_distance")
class ColourDistance(SetMetric):
    """Distance of the two sets' mean colours."""

    higher_is_better = False
    spec = ClipSpec(num_frames=8, size=32)
    extractor_keys = ("mean_colour",)
    minimum = 4

    def compute(self, generated, reference, prompts, seed):
        if min(len(generated), len(reference)) < self.minimum:
            return SetScore(None, None, len(generated), reason="at least 4 clips a side are needed")
        return SetScore((generated.mean(0) - reference.mean(0)).norm().item(), None, len(generated))


ALL = ["colorfulness", "temporal_flicker", "vbench_temporal_flickering", "colour_distance"]
