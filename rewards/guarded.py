"""The recommended composite: FARM, less a price for what the learned artifact detector is sure of."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.metrics.base import Measurement
from rewards.artifact_detector import ArtifactDetector
from rewards.base import Reward
from rewards.farm import Farm

# Chosen on the tuning part of the hack suite (`hack_clips`): of real clips there fewer than one in twenty is this
# suspect, and at this price a spoilt one loses more than any hack of MUST_SEE gains with farm.
SUSPECT, WIDTH, PRICE = 0.8, 0.05, 2.0


class Guarded(Reward):
    """farm - 2 * h(p) with p from `artifact_detector`; h(p) = p - 0.8 above 0.8, smoothly 0 below.

    Two judges that share nothing: farm's measures are made by hand, the detector's are learned. The guard is a fence,
    not a goal: a clip that is no suspect gains nothing by looking still cleaner to the detector, so that there is
    little to climb, and what noise its chances have does not drown farm. It is for looks and motion: prompts are not
    looked at; add `clip_alignment` where text matters. Components: farm, guard (what it takes), and the parts of both.
    """

    name = "guarded"
    version = 3
    range = (-0.7, 2.0)
    summary = "the recommended composite: farm, less a price where the learned artifact detector is sure"
    spec = ClipSpec(min_frames=8, max_frames=64)
    extractor_keys = (*Farm.extractor_keys, *ArtifactDetector.extractor_keys)
    needs_fps = True
    min_frames = 8

    def __init__(self) -> None:
        super().__init__()
        self.farm, self.detector = Farm(), ArtifactDetector()

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"suspect": SUSPECT, "width": WIDTH, "price": PRICE, "farm": self.farm.parameters_of_protocol(),
                "artifact_detector": self.detector.parameters_of_protocol()}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """Reward (B,); components (B,): farm, guard, and "farm.coherence", "artifact_detector.boundary" and so on."""
        farm = self.farm.measure(frames, features, prompts, fps)
        seen = self.detector.measure(frames, features, prompts, fps)
        guard = PRICE * WIDTH * F.softplus((-seen.value - SUSPECT) / WIDTH)
        parts = {f"{reward.name}.{name}": part for reward, found in ((self.farm, farm), (self.detector, seen))
                 for name, part in found.components.items()}
        return Measurement(farm.value - guard, {"farm": farm.value, "guard": guard} | parts, farm.curves)
