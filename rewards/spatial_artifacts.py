"""Spatial defects of luma frames, weight-free: blockiness, banding, blur, noise (Immerkaer 1996). Raw, not yet levels.

Every function takes luma (B, F, H, W) in [0, 1] and pools over the F frames to (B,).
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PERIODS = (*range(6, 18), 20, 24, 32)  # grids of codecs and of VAEs, and what resizing makes of them
STANDARD_ERRORS = 2.5  # of a grid's mean that chance may explain: 214 grids are searched
BLUR_SIGMA = 2.0  # pixels; wide enough that noise, which is white, hardly enters the product of fine and coarse
FLAT = 1e-7  # squared luma per pixel: a picture with weaker slopes is neither sharp nor blurred
TILE = 16  # pixels; noise is read in the smoothest tiles, where there is no texture to take for it


def blockiness(luma: Tensor) -> Tensor:
    """Step height on the best-fitting regular grid, relative to the mean slope: 0 none, about 2 for harsh JPEG.

    Period and phase are searched for each direction; the excess of the slope on grid lines over that of their
    neighbours, less its standard error, must stand out (so long periods need large pictures).
    """
    slope_x = luma.diff(dim=-1).abs().mean((1, 2))  # (B, W-1): one number per column, the grid being fixed in time
    slope_y = luma.diff(dim=-2).abs().mean((1, 3))
    step = 0.5 * (_grid_step(slope_x) + _grid_step(slope_y))
    return step / (0.5 * (slope_x.mean(1) + slope_y.mean(1)) + 0.002)


def _grid_step(slope: Tensor) -> Tensor:
    """(B,) from a profile (B, n): height above its surroundings of the best grid, smoothly floored at 0."""
    excess = slope[:, 1:-1] - 0.5 * (slope[:, :-2] + slope[:, 2:])
    excess = excess - excess.mean(1, keepdim=True)
    grids = _grids(excess.shape[1], excess.device)  # (n, G) of zeros and ones
    lines = grids.sum(0)
    spread = (excess.square().mean(1, keepdim=True) + 1e-10).sqrt()
    best = (excess @ grids / lines - STANDARD_ERRORS * spread / lines.sqrt()).amax(1)
    return _floored(best, 5e-5)


def _grids(length: int, device: torch.device) -> Tensor:
    """(length, G): the lines of every grid of `PERIODS` at every phase that has two lines or more."""
    position = torch.arange(length, device=device)[:, None]
    period = torch.tensor([p for p in PERIODS for _ in range(p)], device=device)
    phase = torch.tensor([k for p in PERIODS for k in range(p)], device=device)
    grids = (position % period == phase).float()
    return grids[:, grids.sum(0) > 1] if length > 2 * PERIODS[0] else torch.ones(length, 1, device=device)


def banding(luma: Tensor) -> Tensor:
    """Share in [0, 1) of the picture's slope that lies in isolated steps: flat, one step, flat again, as at contours.

    A lens spreads true edges over several pixels, and noise has no flat sides.
    """
    isolated, total = zip(*(_isolated_steps(luma, dim) for dim in (-1, -2)), strict=True)
    return sum(isolated) / (sum(total) + 0.002)


def _isolated_steps(luma: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    slope = luma.diff(dim=dim).abs()
    n = slope.shape[dim] - 4
    if n < 1:
        return slope.mean((1, 2, 3)) * 0, slope.mean((1, 2, 3))
    centre, *around = (slope.narrow(dim, k, n) for k in (2, 0, 1, 3, 4))
    return F.relu(centre - sum(around)).mean((1, 2, 3)), centre.mean((1, 2, 3))


def blur(luma: Tensor) -> Tensor:
    """Variance in square pixels of the Gaussian that blurs a picture of 1/f amplitude as much; (B, F).

    With g the slope and Gg the same after a Gaussian of variance s = 4, <g, Gg> / <Gg, Gg> = 1 + s / (s + 2 v) for
    blur of variance v: solved for v, smoothly floored at 0 and levelling off at about 200.
    """
    rows = luma.flatten(0, 1)
    coarse = _gaussian(rows, BLUR_SIGMA)
    slopes = [(rows.diff(dim=dim), coarse.diff(dim=dim)) for dim in (-1, -2)]
    product = sum((fine * smooth).mean((1, 2)) for fine, smooth in slopes)
    power = sum(smooth.square().mean((1, 2)) for _, smooth in slopes)
    variance = BLUR_SIGMA**2
    detail = _floored((product + 1.5 * FLAT) / (power + FLAT) - 1, 0.005)
    return _floored(0.5 * variance / detail - 0.5 * variance, 0.25).view(luma.shape[:2])


def _floored(x: Tensor, width: float) -> Tensor:
    """`x` where it is far above `width`, falling smoothly to 0 below; always positive."""
    return 0.5 * (x + (x.square() + 4 * width**2).sqrt())


def _gaussian(rows: Tensor, sigma: float) -> Tensor:
    """(N, H, W) blurred along both axes, edges replicated."""
    radius = math.ceil(3 * sigma)
    offset = torch.arange(-radius, radius + 1, device=rows.device, dtype=torch.float32)
    kernel = torch.softmax(-0.5 * (offset / sigma).square(), dim=0)
    padded = F.pad(rows[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def noise(luma: Tensor) -> Tensor:
    """Standard deviation of white noise in luma, in the smoother third of the picture; (B, F), frame by frame."""
    rows = luma.flatten(0, 1)
    for dim in (-1, -2):  # the kernel (1, -2, 1) along both axes
        rows = rows.diff(dim=dim).diff(dim=dim)
    residual = rows.abs()[:, None] * (math.sqrt(math.pi / 2) / 6)
    tile = min(TILE, *residual.shape[-2:])
    return F.avg_pool2d(residual, tile).flatten(1).quantile(0.3, dim=1).view(luma.shape[:2])
