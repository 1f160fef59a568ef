"""Several trained rewards of one kind as one that is careful where they disagree: mean - k * std."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evalkit.metrics.base import Measurement
from rewards.base import Reward
from rewards.combined import AS_IT_IS, Combined, Term


class Ensemble(Combined):
    """The members' mean less k times their standard deviation (n - 1), itself a reward.

    Components: `mean`, `uncertainty` (that standard deviation), and the members' own, averaged. Members are of one
    class, with other weights: what different rewards say is added instead (`0.5 * one + other`). ValueError for fewer
    than two, for different classes or a k that is negative.
    """

    summary = "mean - k * std of several trained rewards of one kind"

    def __init__(self, members: Sequence[Reward], k: float = 1.0) -> None:
        if len(members) < 2 or len(kinds := {type(member).__name__ for member in members}) > 1:
            got = "one" if len(members) == 1 else "none" if not members else ", ".join(sorted(kinds))
            raise ValueError(f"Ensemble: expected two or more rewards of one class, got {got}")
        if not 0 <= k < math.inf:
            raise ValueError(f"k: expected 0 or more standard deviations, got {k}")
        super().__init__([Term(member, 1 / len(members), AS_IT_IS) for member in members])
        self.k, self.name, self.spec = k, f"ensemble of {len(members)} {members[0].name}", members[0].spec

    def terms(self) -> list[Term]:
        """Itself: in a sum it stays one reward."""
        return [Term(self, 1.0)]

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"k": self.k, "members": [member.parameters_of_protocol() for member in self.parts]}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        found = [member.measure(frames, features, prompts, fps) for member in self.parts]
        values = torch.stack([one.value.float() for one in found])  # (members, B)
        # the root has no slope where members agree to the last digit
        mean, spread = values.mean(0), (values.var(0) + 1e-12).sqrt()
        components = {key: torch.stack([one.components[key] for one in found]).mean(0) for key in found[0].components}
        return Measurement(mean - self.k * spread, components | {"mean": mean, "uncertainty": spread})
