"""Defects of single frames, in sharpness, compression, exposure, colour and overlays, for `corruptions`."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.data.corruptions import Dial, register_corruption

LUMA = (0.299, 0.587, 0.114)  # BT.601


def gaussian_blur(frames: Tensor, sigma: float) -> Tensor:
    """Float (T, C, H, W) blurred with `sigma` pixels, edges replicated."""
    rows, columns = (_blur_matrix(n, sigma, frames) for n in frames.shape[-2:])
    return rows @ (frames @ columns.T)


def _blur_matrix(n: int, sigma: float, like: Tensor) -> Tensor:
    """(n, n) whose rows blur a line of n pixels; one matrix product is faster than long 1-D kernels."""
    radius = math.ceil(3 * sigma)
    taps = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    sources = (torch.arange(n)[:, None] + taps).clamp(0, n - 1)
    return torch.zeros(n, n).scatter_add_(1, sources, (kernel / kernel.sum()).expand(n, -1)).to(like)


def luma(frames: Tensor) -> Tensor:
    """(T, 1, H, W) float luma of uint8 or float RGB."""
    r, g, b = frames.split(1, dim=1)
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def pixels(frames: Tensor) -> float:
    """Size of a detail that looks alike at every resolution, in pixels: 1.5 at 240 lines, 0.77 at 64."""
    return 0.5 + min(frames.shape[-2:]) / 240


@register_corruption("blur", "spatial")
def blur(frames: Tensor, dial: Dial) -> Tensor:
    """Gaussian blur."""
    return gaussian_blur(frames.float(), dial(0.7, 1.1, 1.7, 2.7, 4.5) * pixels(frames))


@register_corruption("noise", "spatial")
def noise(frames: Tensor, dial: Dial) -> Tensor:
    """White Gaussian noise, independent per frame and channel."""
    field = torch.from_numpy(dial.rng.standard_normal(tuple(frames.shape), dtype="float32")).to(frames.device)
    return field.mul_(dial(5, 10, 20, 35, 60)).add_(frames)


@register_corruption("blocks", "spatial")
def blocks(frames: Tensor, dial: Dial) -> Tensor:
    """Coarse quantisation of 8x8 DCT blocks, as JPEG and MPEG at a low bit rate."""
    height, width = frames.shape[-2:]
    to_ycc = torch.tensor([LUMA, (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813)], device=frames.device)
    ycc = torch.einsum("dc,tchw->tdhw", to_ycc, frames.float() - 128)
    ycc = F.pad(ycc, (0, -width % 8, 0, -height % 8), mode="replicate")
    k = torch.arange(8, device=frames.device)
    basis = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) * 0.5
    basis[0] *= math.sqrt(0.5)  # orthonormal DCT-II
    coarser = torch.tensor([1.0, 2.0, 2.0], device=frames.device).view(3, 1, 1, 1, 1)  # chroma
    steps = dial(2.0, 3.5, 6.0, 10.0, 18.0) * coarser * (14 + 6.0 * (k + k[:, None]))
    steps[..., 0, 0] = 16.0  # codecs keep the mean of a block fine
    tiles = ycc.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-2, -3)  # (T, 3, rows, columns, 8, 8)
    quantised = (basis @ tiles @ basis.T).div_(steps).round_().mul_(steps)
    ycc = (basis.T @ quantised @ basis).transpose(-2, -3).flatten(-4, -3).flatten(-2)
    return torch.einsum("cd,tdhw->tchw", torch.linalg.inv(to_ycc), ycc[..., :height, :width]) + 128


@register_corruption("banding", "colour")
def banding(frames: Tensor, dial: Dial) -> Tensor:
    """Few levels per channel: contours in smooth gradients."""
    spacing = 255 / (dial(32, 20, 13, 9, 6) - 1)
    return frames.float().div_(spacing).round_().mul_(spacing)


@register_corruption("over_sharpen", "spatial")
def over_sharpen(frames: Tensor, dial: Dial) -> Tensor:
    """Unsharp masking beyond taste: halos along edges."""
    original = frames.float()
    edges = original - gaussian_blur(original, 0.9 * pixels(frames))
    return original + dial(0.6, 1.2, 2.2, 3.6, 6.0) * edges


@register_corruption("desaturation", "colour")
def desaturation(frames: Tensor, dial: Dial) -> Tensor:
    """Colours fade to grey."""
    return torch.lerp(frames.float(), luma(frames).expand(frames.shape), dial(0.2, 0.4, 0.6, 0.8, 1.0))


@register_corruption("over_saturation", "colour")
def over_saturation(frames: Tensor, dial: Dial) -> Tensor:
    """Colours beyond nature."""
    grey = luma(frames)
    return grey + dial(1.3, 1.7, 2.3, 3.2, 4.5) * (frames - grey)


@register_corruption("over_exposure", "colour")
def over_exposure(frames: Tensor, dial: Dial) -> Tensor:
    """Brighter until highlights clip."""
    return frames * dial(1.15, 1.35, 1.65, 2.1, 2.8)


@register_corruption("under_exposure", "colour")
def under_exposure(frames: Tensor, dial: Dial) -> Tensor:
    """Darker until shadows drown."""
    return frames * dial(0.8, 0.62, 0.46, 0.32, 0.2)


@register_corruption("contrast_loss", "colour")
def contrast_loss(frames: Tensor, dial: Dial) -> Tensor:
    """Fades towards the clip's mean luma."""
    original = frames.float()
    return torch.lerp(original, luma(original).mean().expand(original.shape), dial(0.15, 0.3, 0.5, 0.7, 0.85))


@register_corruption("grid", "spatial")
def grid(frames: Tensor, dial: Dial) -> Tensor:
    """A regular pattern of dark lines, 8 pixels apart."""
    ys, xs = (torch.arange(n, device=frames.device) % 8 == 0 for n in frames.shape[-2:])
    return frames * (1 - dial(0.06, 0.12, 0.22, 0.4, 0.7) * (ys[:, None] | xs))


@register_corruption("border", "spatial")
def border(frames: Tensor, dial: Dial) -> Tensor:
    """A black frame around the picture."""
    height, width = frames.shape[-2:]
    share = dial(0.03, 0.06, 0.1, 0.16, 0.25)
    top, left = (min(max(dial.severity, round(share * n)), (n - 1) // 2) for n in (height, width))
    result = torch.zeros_like(frames)
    inner = (..., slice(top, height - top), slice(left, width - left))
    result[inner] = frames[inner]
    return result


@register_corruption("caption_overlay", "spatial")
def caption_overlay(frames: Tensor, dial: Dial) -> Tensor:
    """Lines of illegible white writing on black, from the bottom up; the severity counts them."""
    height, width = frames.shape[-2:]
    dot = max(1, height // 90)
    columns = width // dot
    ink = torch.from_numpy(dial.rng.random((5, 5, columns)) < 0.5).to(frames.device)  # severity, row, column
    ink[:, :, ::5] = False  # gaps between letters
    text = F.pad(ink, (0, 0, 1, 1)).flatten(0, 1)[: 7 * dial.severity].flip(0)
    text = text.repeat_interleave(dot, 0).repeat_interleave(dot, 1)[-height:, :width] * 255
    result = frames.clone()
    result[..., -len(text):, :text.shape[1]] = text.to(torch.uint8)
    return result
