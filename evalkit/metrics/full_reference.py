"""Full-reference scores, each frame against its own reference: PSNR, SSIM (Wang 2004), LPIPS (Zhang 2018)."""
from __future__ import annotations

import warnings
from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.features.base import Extractor
from evalkit.features.weight_files import NEEDED
from evalkit.features.weights import checked_weights, load_state
from evalkit.metrics.base import Measurement, PerClipMetric, register_metric

PSNR_CAP = 100.0  # dB; identical frames would be infinite
SSIM_WINDOW = 11  # pixels
CHUNK = 8  # frames at a time


class FullReference(PerClipMetric):
    """Mean over frames of `frame_scores`. Frames are compared at native size; shapes must agree."""

    needs_reference = "paired"
    spec = ClipSpec(size=None)

    @abstractmethod
    def frame_scores(self, generated: Tensor, reference: Tensor) -> Tensor:
        """(N,) from two (N, 3, H, W) float32 in [0, 1]."""

    def measure(self, generated: ClipBatch, reference: ClipBatch | None) -> Measurement:
        if reference is None or reference.frames.shape != generated.frames.shape:
            got = None if reference is None else tuple(reference.frames.shape)
            raise ValueError(f"{self.name}: expected a reference of shape {tuple(generated.frames.shape)}, got {got}")
        pairs = zip(*(batch.frames.flatten(0, 1).split(CHUNK) for batch in (generated, reference)), strict=True)
        scores = torch.cat([self.frame_scores(one.float(), two.float()) for one, two in pairs])
        frames = scores.unflatten(0, generated.frames.shape[:2])
        return Measurement(frames.mean(dim=1), curves={"frame": frames})


@register_metric("psnr")
class Psnr(FullReference):
    """Peak signal-to-noise ratio of each frame, capped at 100 dB (identical frames), mean over frames."""

    higher_is_better = True
    unit = "dB"
    range = (0.0, PSNR_CAP)
    summary = "peak signal-to-noise ratio against a paired reference, frames capped at 100 dB"

    def frame_scores(self, generated: Tensor, reference: Tensor) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        return peak_signal_noise_ratio(generated, reference, data_range=1.0, dim=(1, 2, 3),
                                       reduction="none").clamp(max=PSNR_CAP)


@register_metric("ssim")
class Ssim(FullReference):
    """Structural similarity of each frame, mean over frames: Gaussian windows of sigma 1.5 and 11 pixels, all of them
    inside the picture (torchmetrics' own mean has included its padded border since some version)."""

    higher_is_better = True
    range = (-1.0, 1.0)
    summary = "structural similarity to a paired reference"

    def frame_scores(self, generated: Tensor, reference: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(generated.shape[-2:]) < SSIM_WINDOW:
            raise ValueError(f"ssim: expected frames of at least {SSIM_WINDOW} pixels a side, got "
                             f"{tuple(generated.shape[-2:])}")
        pair = generated.double(), reference.double()  # variances are differences of near-equal numbers
        _, image = structural_similarity_index_measure(*pair, sigma=1.5, data_range=1.0, reduction="none",
                                                       return_full_image=True)
        inside = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))
        return image[..., inside, inside].mean(dim=(1, 2, 3)).float()


@register_metric("lpips")
class Lpips(FullReference):
    """LPIPS v0.1, AlexNet: distance of learned-weighted deep features of each frame, mean over frames."""

    higher_is_better = False
    range = (0.0, float("inf"))
    summary = "LPIPS v0.1 (AlexNet) distance to a paired reference"
    extractor_keys = ("lpips",)  # its network compares two images, so it is no extractor: see `network`

    def __init__(self, network: nn.Module | None = None) -> None:
        """`network` (N, 3, H, W) x 2 in [-1, 1] -> (N, 1, 1, 1) replaces the published one."""
        if network is not None:
            self._loaded = network.eval(), "given"

    @cached_property
    def _loaded(self) -> tuple[nn.Module, str]:
        path, sha256 = checked_weights(*NEEDED["lpips"][0])
        return build_lpips(load_state(path)), sha256

    def extractors(self) -> list[Extractor]:
        """None to run beforehand; MissingWeights where the backbone is not on this machine."""
        assert self._loaded
        return []

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"network": "alex", "weights_sha256": self._loaded[1]}

    def frame_scores(self, generated: Tensor, reference: Tensor) -> Tensor:
        network = self._loaded[0].to(generated.device)
        return network(2 * generated - 1, 2 * reference - 1).reshape(len(generated))


def build_lpips(backbone: dict[str, Tensor], net: str = "alex") -> nn.Module:
    """The lpips package's network with its own linear weights on a torchvision backbone's state dict."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision in an old manner
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for part in (getattr(network.net, f"slice{i}") for i in range(1, network.net.N_slices + 1)):
        for index, layer in part.named_children():  # the slices keep the backbone's own numbering
            prefix = f"features.{index}."
            layer.load_state_dict({name.removeprefix(prefix): value for name, value in backbone.items()
                                   if name.startswith(prefix)})
    return network.eval().requires_grad_(False)
