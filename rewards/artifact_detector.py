"""The learned artifact detector: the four labels of 2504.21334, fitted to dialled defects by `artifact_training`."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.clips import ClipSpec
from evalkit.metrics.base import Measurement
from rewards.artifact_features import STATISTICS_KEY, artifact_statistics
from rewards.base import Reward
from rewards.injectors import LABELS
from rewards.preference_features import FRAMES, SIDE
from rewards.trained import read_trained

WEIGHTS, CARD = "artifact_detector.safetensors", "artifact_detector.json"  # what a trained folder holds
SHIPPED = Path(__file__).parent / "weights"
ANSWERS = (*LABELS, "any")  # columns of what the network says
LARGEST = 5.0  # standard deviations; a statistic of a strange clip may lie far beyond all that was trained on
SUREST = 8.0  # largest log odds, so that a clip beyond doubt keeps a gradient


@lru_cache(maxsize=1)
def num_statistics() -> int:
    """How many numbers `artifact_statistics` gives."""
    return artifact_statistics(torch.zeros(1, FRAMES, 3, SIDE, SIDE)).shape[1]


class ArtifactNetwork(nn.Module):
    """(B, K) statistics of 16 frames -> (B, 5) log odds of ANSWERS; calibrated by `slope` and `shift`."""

    def __init__(self, statistics: int | None = None, width: int = 256, answers: int = len(ANSWERS)) -> None:
        super().__init__()
        k = num_statistics() if statistics is None else statistics
        self.register_buffer("mean", torch.zeros(k))
        self.register_buffer("scale", torch.ones(k))
        self.register_buffer("slope", torch.ones(answers))
        self.register_buffer("shift", torch.zeros(answers))
        self.body = nn.Sequential(nn.Dropout(0.1), nn.Linear(k, width), nn.GELU(), nn.Dropout(0.2),
                                  nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2))
        self.head = nn.Linear(width, answers)

    @torch.no_grad()
    def standardise(self, statistics: Tensor) -> None:
        """Take mean and standard deviation from (N, K) statistics."""
        self.mean.copy_(statistics.mean(0))
        self.scale.copy_(statistics.std(0).clamp_min(1e-3))

    def raw(self, statistics: Tensor) -> Tensor:
        """(B, answers): before calibration."""
        return self.head(self.body(LARGEST * torch.tanh((statistics - self.mean) / self.scale / LARGEST)))

    def forward(self, statistics: Tensor) -> Tensor:
        return SUREST * torch.tanh((self.raw(statistics) * self.slope + self.shift) / SUREST)


class ArtifactDetector(Reward):
    """Minus the probability that a clip shows any of four kinds of artifacts; the metric is the probability.

    Components are the probabilities, in (0, 1), of boundary and edge defects, of texture and noise, of anomalies of
    movement and joints, and of objects that are mismatched or vanish (2504.21334), given that four in five clips show
    something. Frames are squeezed to 64 x 64; of a long clip the odds are those of its windows of 16 frames, averaged.
    Learned and differentiable; it shares nothing with the oracle. A hard cut in real footage reads as an object that
    changes.

    folder: what `evalkit rewards train --artifacts` wrote; by default the weights that ship. MissingWeights where there
    are none; ValueError for a file that is not such a network, or not the one that its card describes.
    """

    name = "artifact_detector"
    metric_sign = -1
    range = (-1.0, 0.0)
    summary = "learned: chance of edge, texture, movement or object artifacts; 0 none, 1 certain"
    spec = ClipSpec(max_frames=64, min_frames=8, placement="center", size=(SIDE, SIDE))
    extractor_keys = (STATISTICS_KEY,)
    min_frames = 8

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        self.network = ArtifactNetwork()
        self.card = load_detector(self.network, SHIPPED if folder is None else Path(folder))
        self.network.eval().requires_grad_(False)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"weights_sha256": self.card["sha256"]}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """Reward (B,) in (-1, 0); components (B,) by LABELS, in (0, 1)."""
        odds = self.network(features[STATISTICS_KEY])  # (B, n, 5)
        chances = torch.sigmoid(odds.logsumexp(1) - math.log(odds.shape[1])).unbind(1)
        named = dict(zip(ANSWERS, chances, strict=True))
        return Measurement(-named.pop("any"), named)


def load_detector(network: ArtifactNetwork, folder: Path) -> dict[str, Any]:
    """Fill `network` from a folder that was trained; returns its card. Errors as `ArtifactDetector`."""
    from safetensors import SafetensorError

    from evalkit.mini.weights import load_weights

    weights = folder / WEIGHTS
    told = read_trained(weights, folder / CARD, "evalkit rewards train --artifacts 19200")
    try:
        load_weights(network, weights)
    except SafetensorError as error:
        raise ValueError(f"{weights}: not a safetensors file of ArtifactNetwork: {error}") from error
    return told
