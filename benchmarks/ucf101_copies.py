"""Which samples of benchmarks/ucf101.py copy a clip that was trained on: how far they lie from the nearest."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from ucf101_clips import FPS, blur
from ucf101_tables import SPACES

from baselines.ladder_scores import Scores, score_frames

BLOCK = 8  # pixels


class Bank:
    """All clips that were trained on, in every space, and how far test clips lie from them.

    Distances in pixels favour what is busy over what is smooth, copied or not: `controls` tells. Means of blocks do
    not, and copies that were blurred are still found.
    """

    def __init__(self, frames: Tensor, test: Tensor, ref: Scores, device: str) -> None:
        self.device, self.ref = device, ref
        features = score_frames(frames, [str(k) for k in range(len(frames))], FPS, device, ("fvd_mini",))
        self.clips = self.places(frames, features)
        self.limits = {space: float(np.quantile(far, 0.05)) for space, far in self.distances(test, ref).items()}

    def places(self, frames: Tensor, scores: Scores) -> dict[str, Tensor]:
        """Space -> (N, D) of uint8 (N, T, 3, H, W)."""
        blocks = [F.avg_pool2d(part.to(self.device).flatten(0, 1).float(), BLOCK).unflatten(0, part.shape[:2])
                  for part in frames.split(128)]
        return {"layout": torch.cat(blocks).flatten(1), "pixels": frames.to(self.device).flatten(1),
                "features": torch.from_numpy(scores.features["fvd_mini"]).double()}

    def distances(self, frames: Tensor, scores: Scores) -> dict[str, np.ndarray]:
        """Space -> (N,) distance to the nearest clip trained on; but for features root mean square, of 0 to 1."""
        found = {}
        for space, rows in self.places(frames, scores).items():
            if space == "features":
                found[space] = torch.cdist(rows, self.clips[space]).amin(1).numpy()
                continue
            nearest = torch.stack([torch.cdist(rows.float(), part.float()).amin(1) for part in
                                   self.clips[space].split(512)]).amin(0)
            found[space] = (nearest / 255 / rows.shape[1] ** 0.5).cpu().numpy()
        return found

    def novelty(self, frames: Tensor, scores: Scores) -> dict[str, float]:
        """Share of the clips that lie farther from all training clips than the 5th percentile of test clips."""
        found = self.distances(frames, scores)
        return {space: float((found[space] > self.limits[space]).mean()) for space in SPACES}

    def controls(self, test: Tensor, copied: Tensor) -> dict[str, dict[str, float]]:
        """The novelty of clips that copy nothing, though blurred, and of copies that were blurred or brightened."""
        bright = (1.1 * copied.float()).clamp_max(255).to(torch.uint8)
        sets = {f"test clips, blurred {BLOCK} x": blur(test, BLOCK), "copies, blurred 4 x": blur(copied, 4),
                "copies, a tenth brighter": bright}
        return {name: self.novelty(frames, score_frames(frames, [str(k) for k in range(len(frames))], FPS, self.device,
                                                        ("fvd_mini",))) for name, frames in sets.items()}
