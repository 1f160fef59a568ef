"""Which dialled defects a clip of the made-up world has, and how severe each is, read from measured statistics."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from evalkit.data.defect_statistics import defect_statistics, num_statistics

LARGEST = 5.0  # standard deviations: two defects at once may push a statistic far beyond what was trained on


class DefectReader(nn.Module):
    """frames -> {"defects": (B, defects) logits, "severity": (B, defects) severity / 5, as if it were there}.

    Columns are those of `available_corruptions()`.
    """

    def __init__(self, defects: int = 27, width: int = 256) -> None:
        super().__init__()
        statistics = num_statistics()
        self.register_buffer("mean", torch.zeros(statistics))
        self.register_buffer("scale", torch.ones(statistics))
        self.body = nn.Sequential(nn.Linear(statistics, width), nn.GELU(), nn.Dropout(0.2),
                                  nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(width, defects) for name in ("defects", "severity")})

    @torch.no_grad()
    def standardise(self, statistics: Tensor) -> None:
        """Take mean and standard deviation from (N, K) statistics."""
        self.mean.copy_(statistics.mean(0))
        self.scale.copy_(statistics.std(0).clamp_min(1e-3))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """(B, 16, 3, 64, 64) in [0, 1]."""
        return self.read(defect_statistics(frames))

    def read(self, statistics: Tensor) -> dict[str, Tensor]:
        """The same from (B, K) statistics."""
        inner = self.body(((statistics - self.mean) / self.scale).clamp(-LARGEST, LARGEST))
        return {name: head(inner) for name, head in self.heads.items()}
