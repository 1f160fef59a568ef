"""Shot composition of single frames, from luma alone: thirds, leading lines, vanishing point, framing.

Colour takes no part, so that a change of the grade never moves a score of composition.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SURROUNDS = (16, 8)  # sigma of the surround: the short side divided by these; the centre is a quarter of it
CONTRAST_FLOOR = 0.02  # luma: contrast well below it is not salient, so that a flat picture's centroid is its centre
SHARPNESS = 3  # power of contrast that attention goes with
THIRDS_SIGMA = 0.17  # of width and height: distance to a power point at which the score is exp(-1/2)
CELL = 4  # pixels a side over which the structure tensor is averaged
ANGLE_SIGMA = 0.17  # sine of the angle by which a line may miss the point that it leads to: 10 degrees
NEAR = 0.12  # of the short side: edges nearer than this to a point are its own outline and lead nowhere
EDGE_FLOOR = 0.02  # luma per pixel: edges well below it are no lines
VANISHING_GRID = (5, 7)  # candidate vanishing points, rows and columns
TYPICAL_LEADING, TYPICAL_VANISHING = 0.056, 0.13  # shares in the median of 95 real clips, which score one half
BORDER = 0.07  # of width and height: what lies nearer than this to an edge is about to be cut off


def saliency(luma: Tensor) -> Tensor:
    """(N, H, W) weights that sum to one: cubed local contrast at two centre-surround scales.

    A differentiable stand-in for learned saliency; a flat picture is uniformly salient.
    """
    short = min(luma.shape[-2:])
    contrast = sum((_blur(luma, short / (4 * k)) - _blur(luma, short / k)).square() for k in SURROUNDS)
    weight = (contrast + CONTRAST_FLOOR**2) ** (SHARPNESS / 2)
    return weight / weight.sum((-2, -1), keepdim=True)


def centroid(weight: Tensor) -> Tensor:
    """(N, 2) x and y, in 0..1 of width and height, of weights (N, H, W) that sum to one."""
    y, x = (_positions(n, weight) for n in weight.shape[-2:])
    return torch.stack([weight.sum(-2) @ x, weight.sum(-1) @ y], dim=-1)


def thirds(weight: Tensor) -> Tensor:
    """(N,) in (0, 1]: exp(-d^2 / 2 s^2), d the distance of the salient centroid to the nearest of four power points."""
    off = (centroid(weight) - 0.5).abs() - 1 / 6
    return torch.exp(-off.square().sum(-1) / (2 * THIRDS_SIGMA**2))


def framing(weight: Tensor) -> Tensor:
    """(N,) in (0, 1): 1 where nothing salient touches the border, 1/2 where it is no emptier than the rest."""
    y, x = (((_positions(n, weight) - 0.5).abs() > 0.5 - BORDER).to(weight) for n in weight.shape[-2:])
    border = torch.maximum(y[:, None], x)
    area = border.mean().clamp_min(1e-3)
    return area / (area + (weight * border).sum((-2, -1)))


def structure_tensor(luma: Tensor) -> Tensor:
    """(N, 3, h, w): xx, xy, yy of the structure tensor of (N, H, W), averaged over cells."""
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    cell = min(CELL, *luma.shape[-2:])
    return F.avg_pool2d(torch.stack([dx * dx, dx * dy, dy * dy], dim=1), cell)


def leading_lines(structure: Tensor, weight: Tensor) -> Tensor:
    """(N,) in [0, 1): how much edge length points at the salient centroid of `weight`; 0 where there are no edges.

    The structure tensor J of a cell knows the direction across its edge; for d, the way from the cell to the
    centroid, d'Jd / (|d|^2 tr J) is the squared sine between edge and way: a line detector with a gradient.
    """
    share = _pointing(structure, centroid(weight)[:, None], weight.shape[-2:])[:, 0]
    return share / (share + TYPICAL_LEADING)


def vanishing_point(structure: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,) in [0, 1): how much edge length converges on one point of a coarse grid, the best, softly."""
    rows, columns = (_positions(n, structure) for n in VANISHING_GRID)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)
    shares = _pointing(structure, grid.expand(len(structure), -1, -1), size)
    share = (shares * torch.softmax(shares * 50, dim=1)).sum(1)
    return share / (share + TYPICAL_VANISHING)


def _positions(count: int, like: Tensor) -> Tensor:
    """Centres of `count` pixels in 0..1."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def _blur(maps: Tensor, sigma: float) -> Tensor:
    """(N, H, W) under a Gaussian of `sigma` pixels, cut at the borders; two matrix products beat wide kernels."""
    rows, columns = (_blur_matrix(n, sigma, maps) for n in maps.shape[-2:])
    return rows @ maps @ columns.T


def _blur_matrix(count: int, sigma: float, like: Tensor) -> Tensor:
    position = torch.arange(count, device=like.device, dtype=like.dtype)
    weight = torch.exp(-(position[:, None] - position).square() / (2 * sigma**2))
    return weight / weight.sum(1, keepdim=True)


def _pointing(tensor: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, P) share of edge length in (N, 3, h, w) cells that leads to each of (N, P, 2) points, in 0..1."""
    height, width = (side / min(size) for side in size)
    xx, xy, yy = tensor.flatten(2)[:, :, None].unbind(1)  # each (N, 1, cells)
    y, x = (_positions(n, tensor) for n in tensor.shape[-2:])
    x, y = (axis.flatten() for axis in torch.meshgrid(x, y, indexing="xy"))
    dx = (points[..., :1] - x) * width
    dy = (points[..., 1:] - y) * height
    far = dx * dx + dy * dy
    energy = xx + yy + 1e-9
    sine = (xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy) / (energy * (far + 1e-6))
    straight = ((xx - yy).square() + 4 * xy * xy) / energy.square()  # 1: one direction, 0: none
    length = straight * energy / (energy + EDGE_FLOOR**2)  # bounded, so that faint long lines count as well
    leads = torch.exp(-sine / (2 * ANGLE_SIGMA**2)) * (1 - torch.exp(-far / (2 * NEAR**2)))
    return (length * leads).mean(-1) / (length.mean(-1) + 0.02)
