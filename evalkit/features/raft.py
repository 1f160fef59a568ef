"""RAFT optical flow (Teed & Deng, 2020) through torchvision, reduced to what scores read."""
from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weight_files import NEEDED
from evalkit.features.weights import checked_weights, load_state

SMALLEST = 128  # pixels a side below which the correlation pyramid does not fit
TOP = 0.05  # the share of pixels that counts as "what moves most"


class Raft(Extractor):
    """(B, T, 3, H, W) -> {"top5": (B, T-1), "mean": (B, T-1)} flow magnitude of each pair, in pixels.

    "top5" is the mean over the 5 % of pixels that move most. `updates` is the number of refinements.
    """

    level = "sequence"

    def __init__(self, network: nn.Module, updates: int, key: str = "raft", weights_sha256: str | None = None) -> None:
        super().__init__()
        self.network, self.updates = network, updates
        self.key, self.weights_sha256 = key, weights_sha256

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        magnitudes = []
        for flow in self._flows(frames):
            size = torch.linalg.vector_norm(flow, dim=1).flatten()
            fastest = size.topk(max(1, int(len(size) * TOP))).values
            magnitudes.append(torch.stack([fastest.mean(), size.mean()]))
        top, mean = torch.stack(magnitudes, dim=1).unflatten(1, (len(frames), -1))
        return {"top5": top, "mean": mean}

    def flow(self, frames: Tensor) -> Tensor:
        """(B, T-1, 2, H, W) displacement in pixels (x, y) from each frame to the next."""
        return torch.cat(list(self._flows(frames))).unflatten(0, (len(frames), -1))

    def _flows(self, frames: Tensor) -> Iterator[Tensor]:
        # One pair at a time: the correlation volume grows with the square of the pixels, 4 GB at 1920 x 1080.
        if frames.shape[1] < 2:
            raise ValueError(f"{self.key}: expected at least 2 frames, got {frames.shape[1]}")
        for clip in frames:
            for one, two in pairwise(clip.split(1)):
                yield self._flow_of_pair(one.float(), two.float())

    def _flow_of_pair(self, one: Tensor, two: Tensor) -> Tensor:
        height, width = one.shape[-2:]
        scale = max(1.0, SMALLEST / min(height, width))
        one, two = (2 * self._fit(images, scale) - 1 for images in (one, two))
        flow = self.network(one, two, num_flow_updates=self.updates)[-1]
        top, left = _before(flow.shape[-2], round(height * scale)), _before(flow.shape[-1], round(width * scale))
        flow = flow[..., top: top + round(height * scale), left: left + round(width * scale)]
        if scale == 1:
            return flow
        ratio = torch.tensor([width / flow.shape[-1], height / flow.shape[-2]], device=flow.device).view(2, 1, 1)
        return preprocess.resize(flow, (height, width)) * ratio

    @staticmethod
    def _fit(images: Tensor, scale: float) -> Tensor:
        """Small frames enlarged to the smallest side; then edges repeated to multiples of 8, as RAFT's own padder."""
        size = (round(images.shape[-2] * scale), round(images.shape[-1] * scale))
        images = preprocess.resize(images, size)
        rows, columns = (-side % 8 for side in size)
        return F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")


def _before(padded: int, side: int) -> int:
    return (padded - side) // 2


@register_extractor("raft_large")
def load_raft_large() -> Raft:
    """The original raft-things weights in torchvision's port, 20 refinements, as VBench."""
    path, sha256 = checked_weights("raft_large")
    from torchvision.models.optical_flow import raft_large

    return _load(raft_large(), path, 20, "raft_large", sha256)


@register_extractor("raft_small")
def load_raft_small() -> Raft:
    """The original small weights (torchvision's port, or princeton-vl's file re-keyed), 12 refinements."""
    path, sha256 = checked_weights(*NEEDED["raft_small"][0])
    from torchvision.models.optical_flow import raft_small

    return _load(raft_small(), path, 12, "raft_small", sha256)


def _load(network: nn.Module, path: Path, updates: int, key: str, sha256: str) -> Raft:
    network.load_state_dict(load_state(path))
    return Raft(network, updates, key, sha256)
