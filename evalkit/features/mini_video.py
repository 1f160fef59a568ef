"""A small video network trained on the made-up world: its features see defects, motion and the order of frames."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.features.base import Extractor, register_extractor
from evalkit.features.preprocess import to_square

FRAMES, SIDE = 16, 64
APPEARANCE, MOTION, WIDTH = 64, 64, 128
CONTENT, TIME = 8, 16  # features of what is shown, and of how it moves and what is wrong with it
FEATURES = CONTENT + TIME
SHARE = 0.7  # by which features of content are multiplied: any two sets of clips differ most in what they show


def _tower(channels: int, features: int) -> nn.Sequential:
    """(N, channels, 64, 64) -> (N, features): a plain convolutional network."""
    widths = (24, 40, 64, 96)
    layers: list[nn.Module] = []
    for before, after in zip((channels, *widths[:-1]), widths, strict=True):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.GELU(),
                   nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, features))


class MiniVideoNetwork(nn.Module):
    """(B, 16, 3, 64, 64) in [0, 1] -> (B, 24) features; `frame_features` gives (B, 16, 64) of appearance alone.

    One tower sees single frames, the other pairs of consecutive ones; a transformer reads both along time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.appearance, self.motion = _tower(3, APPEARANCE), _tower(6, MOTION)
        self.position = nn.Parameter(0.1 * torch.randn(FRAMES, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True,
                                           norm_first=True)
        self.time = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.query = nn.Linear(WIDTH, 4)
        self.project = nn.Sequential(nn.Linear(4 * WIDTH, FEATURES), nn.BatchNorm1d(FEATURES, affine=False))

    def frame_features(self, frames: Tensor) -> Tensor:
        """(B, T, 64) of any number of frames."""
        return self.appearance(_rows(_centred(frames))).unflatten(0, frames.shape[:2])

    def forward(self, frames: Tensor) -> Tensor:
        centred = _centred(frames)
        pairs = torch.cat([centred[:, 1:] + centred[:, :-1], 4 * (centred[:, 1:] - centred[:, :-1])], dim=2) / 2
        motion = self.motion(_rows(pairs)).unflatten(0, pairs.shape[:2])
        tokens = torch.cat([self.frame_features(frames), F.pad(motion, (0, 0, 0, 1))], dim=2)
        read = self.time(tokens + self.position)
        weights = self.query(read).softmax(dim=1)
        return self.project((weights.transpose(1, 2) @ read).flatten(1))


def _centred(frames: Tensor) -> Tensor:
    return (frames - 0.5) * 4


def _rows(clips: Tensor) -> Tensor:
    """All frames of (B, T, C, H, W) in one batch, channels innermost: the convolutions' fastest layout."""
    return clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)


class MiniVideo(Extractor):
    """(B, 16, 3, H, W) -> (B, 24), frames brought to 64 x 64; meant for 8 frames a second. One clip at a time."""

    level = "clip"
    micro_batch = 1  # clips come one by one: nothing to pad

    def __init__(self, network: MiniVideoNetwork, weights_sha256: str | None = None) -> None:
        super().__init__()
        self.network, self.key, self.weights_sha256 = network, "mini_video", weights_sha256

    def forward(self, frames: Tensor) -> Tensor:
        if frames.shape[1] != FRAMES:
            raise ValueError(f"mini_video: expected {FRAMES} frames, got {frames.shape[1]}")
        content, time = self.network(to_square(frames.float(), SIDE)).split([CONTENT, TIME], dim=1)
        return torch.cat([SHARE * content, time], dim=1)


class MiniFrame(Extractor):
    """(N, 3, H, W) -> (N, 64): the same network's view of single frames."""

    level = "frame"
    micro_batch = 16

    def __init__(self, network: MiniVideoNetwork, weights_sha256: str | None = None) -> None:
        super().__init__()
        self.network, self.key, self.weights_sha256 = network, "mini_frame", weights_sha256

    def forward(self, images: Tensor) -> Tensor:
        return self.network.frame_features(to_square(images.float(), SIDE)[None])[0]


def _shipped_network() -> tuple[MiniVideoNetwork, str]:
    from evalkit.mini.weights import load_shipped

    network = MiniVideoNetwork()
    return network, load_shipped(network, "video")


@register_extractor("mini_video")
def load_mini_video() -> MiniVideo:
    """The shipped network that sees motion and defects; trained on the made-up world."""
    return MiniVideo(*_shipped_network())


@register_extractor("mini_frame")
def load_mini_frame() -> MiniFrame:
    """The shipped video network's view of single frames; trained on the made-up world."""
    return MiniFrame(*_shipped_network())
