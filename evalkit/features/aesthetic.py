"""LAION aesthetic heads on CLIP image embeddings: one score per frame, about 1 to 10."""
from __future__ import annotations

import hashlib

import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.features.base import Extractor, make_extractor, register_extractor
from evalkit.features.weights import checked_weights, load_state

# head -> the CLIP model it was trained on
CLIP_OF = {"l14_mlp": "ViT-L-14", "l14_linear": "ViT-L-14", "b32_linear": "ViT-B-32", "b16_linear": "ViT-B-16"}


def build_mlp(width: int = 768) -> nn.Sequential:
    """The improved predictor: five linear layers, dropout between, no nonlinearity at all (so in the original)."""
    sizes, dropouts = (width, 1024, 128, 64, 16, 1), (0.2, 0.2, 0.1, None, None)
    layers: list[nn.Module] = []
    for inputs, outputs, dropout in zip(sizes, sizes[1:], dropouts, strict=False):
        layers += [nn.Linear(inputs, outputs)] + ([nn.Dropout(dropout)] if dropout is not None else [])
    return nn.Sequential(*layers)


def load_head(name: str) -> tuple[nn.Module, str]:
    """The head `name` of `CLIP_OF`, (N, D) unit embeddings -> (N, 1), and its file's sha256."""
    if name not in CLIP_OF:
        raise ValueError(f"unknown aesthetic head {name!r}; there are: {', '.join(CLIP_OF)}")
    path, sha256 = checked_weights(f"aesthetic_{name}")
    state = load_state(path)
    if name.endswith("mlp"):
        head = build_mlp()
        state = {key.removeprefix("layers."): value for key, value in state.items()}
    else:
        head = nn.Linear(state["weight"].shape[1], 1)
    head.load_state_dict(state)
    return head.eval(), sha256


class Aesthetic(Extractor):
    """(N, 3, H, W) -> (N, 1): `head` on the unit-length image embedding of `clip`."""

    level = "frame"
    micro_batch = 16

    def __init__(self, clip: Extractor, head: nn.Module, key: str = "aesthetic",
                 weights_sha256: str | None = None) -> None:
        super().__init__()
        self.clip, self.head = clip, head
        self.key, self.weights_sha256 = key, weights_sha256

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.normalize(self.clip(images), dim=-1))


@register_extractor("aesthetic")
def load_aesthetic(head: str = "l14_mlp", resize: str = "antialias") -> Aesthetic:
    """A LAION head with its CLIP; `weights_sha256` is the hash of both hashes. `resize` as in `OpenClip`."""
    network, head_sha256 = load_head(head)
    suffix = "" if resize == "antialias" else f"/{resize}"
    clip = make_extractor(f"open_clip/{CLIP_OF[head]}/openai{suffix}")
    both = hashlib.sha256(f"{clip.weights_sha256} {head_sha256}".encode()).hexdigest()
    return Aesthetic(clip, network, f"aesthetic/{head}{suffix}", both)
