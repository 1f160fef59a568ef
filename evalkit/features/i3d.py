"""I3D (Carreira & Zisserman, 2017), Kinetics-400 logits: the features of FVD (Unterthiner et al., 2018)."""
from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weight_files import NEEDED
from evalkit.features.weights import checked_weights, find_weights, load_state

MIN_FRAMES = 10
# Output channels of the four branches of each block: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1.
BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)), "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)), "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)), "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)), "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zero padding of TensorFlow's "SAME": the odd element goes after, and it depends on the input's size."""
    sides = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        sides.append((total // 2, total - total // 2))
    return F.pad(x, [side for pair in reversed(sides) for side in pair])


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU; or convolution with a bias alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, norm_eps: float | None = 1e-5):
        super().__init__()
        plain = norm_eps is None
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(outputs, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Pool(nn.Module):
    """Max pooling with "SAME" padding; zeros are neutral after a ReLU."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An inception block: four branches side by side."""

    def __init__(self, inputs: int, outputs: tuple[int, ...], norm_eps: float) -> None:
        super().__init__()
        self.b0 = ConvUnit(inputs, outputs[0], norm_eps=norm_eps)
        self.b1a = ConvUnit(inputs, outputs[1], norm_eps=norm_eps)
        self.b1b = ConvUnit(outputs[1], outputs[2], 3, norm_eps=norm_eps)
        self.b2a = ConvUnit(inputs, outputs[3], norm_eps=norm_eps)
        self.b2b = ConvUnit(outputs[3], outputs[4], 3, norm_eps=norm_eps)
        self.b3a = Pool((3, 3, 3), (1, 1, 1))
        self.b3b = ConvUnit(inputs, outputs[5], norm_eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class InceptionI3D(nn.Module):
    """(B, 3, T, 224, 224) in [-1, 1] -> (B, classes) logits averaged over time; T >= 9.

    Parameter names are those of the published state dicts. `norm_eps` is 1e-5 in the VideoGPT / TATS carrier of the
    TF-Hub weights and 1e-3 for the deepmind/kinetics-i3d ones.
    """

    def __init__(self, classes: int = 400, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(3, 64, 7, 2, norm_eps)
        self.MaxPool3d_2a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(64, 64, norm_eps=norm_eps)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, 3, norm_eps=norm_eps)
        self.MaxPool3d_3a_3x3 = Pool((1, 3, 3), (1, 2, 2))
        before = {"Mixed_4b": ("MaxPool3d_4a_3x3", 3), "Mixed_5b": ("MaxPool3d_5a_2x2", 2)}
        for name, (inputs, outputs) in BLOCKS.items():
            if name in before:
                pool, kernel = before[name]
                self.add_module(pool, Pool((kernel,) * 3, (2, 2, 2)))
            self.add_module(name, Mixed(inputs, outputs, norm_eps))
        self.logits = ConvUnit(1024, classes, norm_eps=None)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name != "logits":
                x = layer(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1)).mean(dim=(2, 3, 4))


class I3D(Extractor):
    """(B, T, 3, H, W), T >= 10 -> (B, 400) logits. `network` takes (B, 3, T, 224, 224) in [-1, 1].

    Frames are resized to 224 x 224 bilinearly, aspect not kept, without antialiasing, then 2x/255 - 1.
    """

    level = "clip"
    micro_batch = 4

    def __init__(self, network: nn.Module, key: str = "i3d", weights_sha256: str | None = None) -> None:
        super().__init__()
        self.network, self.key, self.weights_sha256 = network, key, weights_sha256

    def forward(self, frames: Tensor) -> Tensor:
        if frames.shape[1] < MIN_FRAMES:
            raise ValueError(f"{self.key}: expected at least {MIN_FRAMES} frames, got {frames.shape[1]}")
        small = preprocess.per_frame(frames.float(), lambda images: preprocess.resize(images, (224, 224)))
        return self.network(2 * small.transpose(1, 2) - 1)


class TorchScriptI3D(I3D):
    """The TorchScript carrier of StyleGAN-V: it resizes and rescales (B, 3, T, H, W) in 0..255 by itself."""

    def forward(self, frames: Tensor) -> Tensor:
        if frames.shape[1] < MIN_FRAMES:
            raise ValueError(f"{self.key}: expected at least {MIN_FRAMES} frames, got {frames.shape[1]}")
        return self.network(255 * frames.float().transpose(1, 2), rescale=True, resize=True, return_features=True)


def load_inception(path: Path, norm_eps: float) -> InceptionI3D:
    """An `InceptionI3D` with a published state dict; its counters of batches may be absent."""
    state = load_state(path)
    network = InceptionI3D(state["logits.conv3d.bias"].numel(), norm_eps)
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{path}: expected an I3D state dict; missing {missing[:3]}, unexpected {unexpected[:3]}")
    return network.eval()


@register_extractor("i3d")
def load_i3d() -> I3D:
    """TF-Hub I3D: the TorchScript carrier where it is here, else the VideoGPT / TATS state dict."""
    path, sha256 = checked_weights(*NEEDED["i3d"][0])
    if path == find_weights("i3d_torchscript"):
        return TorchScriptI3D(torch.jit.load(str(path), map_location="cpu"), "i3d", sha256)
    return I3D(load_inception(path, norm_eps=1e-5), "i3d", sha256)


@register_extractor("i3d_deepmind")
def load_i3d_deepmind() -> I3D:
    """deepmind/kinetics-i3d RGB weights: not those of published FVD."""
    path, sha256 = checked_weights("i3d_deepmind")
    return I3D(load_inception(path, norm_eps=1e-3), "i3d_deepmind", sha256)
