"""Registers every reward with evalkit as the metric of the same name: the only file that knows both."""
from __future__ import annotations

from functools import cached_property

from evalkit.clips import ClipBatch
from evalkit.features.base import Extractor
from evalkit.metrics.base import Measurement, PerClipMetric, register_metric
from rewards.artifact_detector import ArtifactDetector
from rewards.artifacts import Artifacts
from rewards.base import Reward
from rewards.cinematic import CinematicComposition
from rewards.external import HPSv3, VideoReward, VideoScore2
from rewards.farm import Farm
from rewards.flicker import TemporalFlicker
from rewards.guarded import Guarded
from rewards.preference import Preference
from rewards.text_alignment import ClipAlignment, ClipAlignmentMini


class RewardMetric(PerClipMetric):
    """The reward times its declared sign."""

    reward_class: type[Reward]

    @cached_property
    def reward(self) -> Reward:
        """The reward itself, built on first use: building may load weights."""
        return self.reward_class().eval()

    def extractors(self) -> list[Extractor]:
        return [module for _, module in self.reward._by_key()]

    def parameters_of_protocol(self) -> dict:
        return {"reward": type(self.reward).__name__, **self.reward.parameters_of_protocol()}

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        self.reward.to(generated.frames.device)
        found = self.reward.measure(generated.frames, generated.features, generated.prompts, generated.fps)
        return Measurement(self.reward_class.metric_sign * found.value, found.components, found.curves)


def register_reward(reward_class: type[Reward]) -> type[Reward]:
    """Make `reward_class` an evalkit metric under its own name."""
    sign = reward_class.metric_sign
    low, high = sorted(sign * bound + 0.0 for bound in reward_class.range)  # + 0.0: never -0.0
    cls = type(f"{reward_class.__name__}Metric", (RewardMetric,), {
        "__doc__": reward_class.__doc__,
        "__module__": __name__,
        "reward_class": reward_class,
        "version": reward_class.version,
        "higher_is_better": sign > 0,
        "unit": reward_class.unit,
        "range": (low, high),
        "summary": reward_class.summary,
        "spec": reward_class.spec,
        "extractor_keys": reward_class.extractor_keys,
        "needs_prompts": reward_class.needs_prompts,
        "needs_fps": reward_class.needs_fps,
    })
    register_metric(reward_class.name)(cls)
    return reward_class


register_reward(ClipAlignment)
register_reward(ClipAlignmentMini)
register_reward(TemporalFlicker)
register_reward(Artifacts)
register_reward(ArtifactDetector)
register_reward(CinematicComposition)
register_reward(Farm)
register_reward(Guarded)
register_reward(Preference)
register_reward(VideoReward)
register_reward(VideoScore2)
register_reward(HPSv3)
