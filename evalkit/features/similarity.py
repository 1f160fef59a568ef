"""Robust registration of image pairs by a similarity (Lucas-Kanade, inverse compositional: Baker & Matthews 2004)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.features.median import median_of_rows

GRADIENT_FLOOR = 0.004  # luma per pixel: image slopes well below it are taken for noise and move nothing
LUMA_FLOOR = 0.004  # scale of luma residuals that are never outliers


def coordinates(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (H, W) of the pixel centres from the image centre, in fractions of the short side."""
    short = min(height, width)
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5 - height / 2) / short
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5 - width / 2) / short
    return x.expand(height, width), y[:, None].expand(height, width)


def similarity_flow(transform: Tensor, height: int, width: int, sparse: int = 1) -> Tensor:
    """(N, 2, H, W) displacements, in fractions of the short side, of (N, 4) [tx, ty, log_scale, angle]."""
    x, y = (part[::sparse, ::sparse] for part in coordinates(height, width, transform))
    tx, ty, log_scale, angle = (part[:, None, None] for part in transform.unbind(-1))
    cos, sin = log_scale.exp() * angle.cos(), log_scale.exp() * angle.sin()
    return torch.stack([cos * x - sin * y + tx - x, sin * x + cos * y + ty - y], dim=1)


def warp(image: Tensor, flow: Tensor, sparse: int = 1) -> tuple[Tensor, Tensor]:
    """(N, H, W) `image` read at x + flow(x), and (N, H, W) of 0.0 / 1.0: whether that lies inside the image.

    `flow` and the result have every `sparse`-th row and column only.
    """
    height, width = image.shape[-2:]
    x, y = (part[::sparse, ::sparse] for part in coordinates(height, width, image))
    scale = 2 * min(height, width)
    across, down = (x + flow[:, 0]) * (scale / width), (y + flow[:, 1]) * (scale / height)
    grid = torch.stack([across, down], dim=-1)
    moved = F.grid_sample(image[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved[:, 0], (torch.maximum(across.detach().abs(), down.detach().abs()) <= 1).to(image.dtype)


def slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivative (N, H, W) of (N, H, W), per short side."""
    padded = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    half = min(image.shape[-2:]) / 2
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * half, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * half


def fit_similarity(first: Sequence[Tensor], second: Sequence[Tensor], start: Tensor,
                   steps: int = 2) -> tuple[Tensor, Tensor]:
    """The transform (N, 4) that carries content of `first` to `second`, and gain and offset (N, 2) of the luma.

    `first` and `second` are luma pyramids, coarse to fine, of (N, H, W); `start` (N, 2) a translation to begin from.
    Solves second(W(x)) = (1 + gain) (first(x) - mean) + mean + offset by re-weighted least squares. The gradient is
    that of the one step on the finest level, which by the implicit function theorem is all that it needs.
    """
    with torch.no_grad():
        transform = torch.cat([start, torch.zeros_like(start)], dim=1)
        for a, b in zip(first[:-1], second[:-1], strict=True):
            system = _Columns(a)
            for _ in range(steps):
                transform = system.step(b, transform)[0]
    return _Columns(first[-1], sparse=2).step(second[-1], transform)  # fine slopes, at a quarter of the pixels


class _Columns:
    """One pyramid level: the derivative of the first image by each unknown, (N, 6, pixels)."""

    def __init__(self, first: Tensor, sparse: int = 1) -> None:
        height, width = first.shape[-2:]
        maps = (*coordinates(height, width, first), *slopes(first), first)
        x, y, dx, dy, self.first = (part[..., ::sparse, ::sparse] for part in maps)
        self.sparse = sparse
        self.centred = self.first - first.mean((1, 2), keepdim=True)
        columns = [dx, dy, x * dx + y * dy, x * dy - y * dx, self.centred, torch.ones_like(dx)]
        self.columns = torch.stack(columns, dim=1).flatten(2)
        floor = (GRADIENT_FLOOR * min(height, width)) ** 2
        self.ridge = torch.diag(first.new_tensor([floor, floor, floor / 4, floor / 4, 1e-4, 1e-6]))

    def step(self, second: Tensor, transform: Tensor) -> tuple[Tensor, Tensor]:
        """One Gauss-Newton step from `transform`: the better transform, and (N, 2) gain and offset."""
        moved, inside = warp(second, similarity_flow(transform, *second.shape[-2:], self.sparse), self.sparse)
        error = (moved - self.first).flatten(1)
        weight = inside.flatten(1) * _trust(error.detach(), self.centred.detach().flatten(1), inside.flatten(1))
        weighted = self.columns * (weight / weight.sum(1, keepdim=True).clamp_min(1.0))[:, None]
        normal = weighted @ self.columns.transpose(1, 2) + self.ridge
        solution = torch.linalg.solve(normal, (error[:, None] @ weighted.transpose(1, 2))[:, 0])
        return _undo(transform, solution[:, :4]), solution[:, 4:]


def _trust(error: Tensor, centred: Tensor, inside: Tensor) -> Tensor:
    """Geman-McClure weights (N, P): small where a pixel differs by far more than most, as moving things do."""
    count = inside.sum(1, keepdim=True).clamp_min(1.0)
    offset = (error * inside).sum(1, keepdim=True) / count
    gain = ((error - offset) * centred * inside).sum(1, keepdim=True) / (centred.square().sum(1, keepdim=True) + 1e-4)
    left = (error - offset - gain * centred).abs()
    scale = 2.5 * median_of_rows(left[:, ::3]) + LUMA_FLOOR  # every third pixel tells it as well
    return (1 + (left / scale).square()).pow(-2)


def _undo(transform: Tensor, step: Tensor) -> Tensor:
    """W after the inverse of `step`, both (N, 4)."""
    turned = transform[:, 2:] - step[:, 2:]
    scale, angle = turned[:, 0].exp(), turned[:, 1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    tx = transform[:, 0] - (cos * step[:, 0] - sin * step[:, 1])
    ty = transform[:, 1] - (sin * step[:, 0] + cos * step[:, 1])
    return torch.cat([tx[:, None], ty[:, None], turned], dim=1)
