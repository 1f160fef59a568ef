"""What a transformer works on: pixels themselves, or what a VAE makes of them.

time, space: by how much they shorten time and each side; channels; `encode` takes pixels (B, 3, T, H, W) in [-1, 1] to
latents (B, channels, t, h, w) of about unit variance, `decode` takes them back and is differentiable.
"""
from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from baselines.patch_codec import PatchCodec


class Latents(Protocol):
    """Names that all kinds answer to."""

    time: int
    space: int
    channels: int

    def encode(self, pixels: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class Pixels:
    """No VAE."""

    time = space = 1
    channels = 3

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class WanLatents:
    """Those of diffusers' AutoencoderKLWan, standardised by the statistics in its configuration."""

    def __init__(self, vae: nn.Module) -> None:
        config = vae.config
        self.vae, self.channels = vae, config.z_dim
        self.time = 2 ** sum(config.temperal_downsample)
        self.space = (config.patch_size or 1) * 2 ** (len(config.dim_mult) - 1)

    def encode(self, pixels: Tensor) -> Tensor:
        mean, std = self._statistics(pixels.device)
        return (self.vae.encode(pixels).latent_dist.mode() - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents.device)
        return self.vae.decode(latents * std + mean).sample

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.vae.config  # read each time: a checkpoint that is loaded sets them
        return tuple(torch.tensor(values, device=device).reshape(1, -1, 1, 1, 1)
                     for values in (config.latents_mean, config.latents_std))


def latents_of(vae: nn.Module | None) -> Latents:
    """Of an AutoencoderKLWan, a PatchCodec, or None: pixels."""
    if vae is None:
        return Pixels()
    return vae if isinstance(vae, PatchCodec) else WanLatents(vae)
