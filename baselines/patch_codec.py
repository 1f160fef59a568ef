"""A latent space in closed form: an orthogonal linear code of spacetime patches, by principal components."""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class PatchCodec(nn.Module):
    """Pixels (B, 3, 4k + 1, H, W) in [-1, 1] <-> latents (B, channels, k + 1, H / 8, W / 8), whose variances average 1.

    The first frame stands for the four of its own patch, as if it had stood still before the clip began: an image is
    a clip of one latent frame. A channel tells either the mean of a patch's four frames or how they differ from it,
    never both, hence what the first frame holds comes back as it was.
    """

    def __init__(self, channels: int, time: int = 4, space: int = 8) -> None:
        """ValueError for more channels than a patch has numbers."""
        super().__init__()
        size = 3 * time * space**2
        if not 1 <= channels <= size:
            raise ValueError(f"expected 1 to {size} channels for patches of {time} x {space} x {space}, got {channels}")
        self.channels, self.time, self.space = channels, time, space
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size, channels))  # orthonormal columns, by falling variance
        self.register_buffer("std", torch.ones(channels))

    def encode(self, pixels: Tensor) -> Tensor:
        """ValueError for another number of frames, or sides that are no multiples of the patch's."""
        return ((self._patches(pixels) - self.mean) @ self.basis / self.std).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Differentiable; not clamped."""
        patches = (latents.movedim(1, -1) * self.std) @ self.basis.mT + self.mean
        batch, t, h, w, _ = patches.shape
        pixels = patches.reshape(batch, t, h, w, 3, self.time, self.space, self.space)
        pixels = pixels.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(
            batch, 3, t * self.time, h * self.space, w * self.space)
        first, rest = pixels[:, :, :self.time], pixels[:, :, self.time:]
        return torch.cat([first.mean(2, keepdim=True), rest], dim=2)

    @torch.no_grad()
    def fit(self, clips: Iterable[Tensor], whitening: float = 1.0) -> float:
        """Take the principal components of the patches of batches of pixels; returns the share of variance kept.

        whitening: 1 gives every channel unit variance; below, what varies most in pixels varies most in latents, and
        stands out of the noise before details do; 0 leaves their proportions alone. ValueError for no clips.
        """
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for pixels in clips:
            patches = self._patches(pixels).flatten(0, -2).double()
            count, total, products = count + len(patches), total + patches.sum(0), products + patches.mT @ patches
        if not count:
            raise ValueError("expected clips to fit a codec to, got none")
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        mixed = self._still(covariance)  # of numbers with means of four frames
        apart = covariance - mixed - mixed.mT + 2 * self._still(mixed.mT)  # as if means and motion were uncorrelated
        variances, vectors = torch.linalg.eigh(apart)
        variances, vectors = variances.flip(0), vectors.flip(1)
        self.mean.copy_(mean)
        self.basis.copy_(vectors[:, :self.channels])
        kept = variances[:self.channels].clamp_min(1e-6)
        self.std.copy_(kept.pow(whitening / 2) * kept.pow(1 - whitening).mean().sqrt())
        return float(variances[:self.channels].sum() / variances.sum())

    def _patches(self, pixels: Tensor) -> Tensor:
        """(B, t, h, w, 3 * time * space²)"""
        batch, _, frames, height, width = pixels.shape
        if frames % self.time != 1 or height % self.space or width % self.space:
            raise ValueError(f"expected {self.time}k + 1 frames and sides that are multiples of {self.space}, got "
                             f"{frames} frames of {height} x {width}")
        before = pixels[:, :, :1].expand(-1, -1, self.time - 1, -1, -1)
        whole = torch.cat([before, pixels], dim=2).reshape(
            batch, 3, -1, self.time, height // self.space, self.space, width // self.space, self.space)
        return whole.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)

    def _still(self, patches: Tensor) -> Tensor:
        """Each patch (..., 3 * time * space²) with all of its frames replaced by their mean."""
        frames = patches.unflatten(-1, (3, self.time, self.space**2))
        return frames.mean(-2, keepdim=True).expand_as(frames).flatten(-3)
