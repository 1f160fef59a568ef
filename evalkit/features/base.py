"""What an extractor is: a frozen network or a fixed computation whose output several metrics share."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evalkit.features.weights import MissingWeights as MissingWeights

FeatureTree = Tensor | dict[str, Tensor]


class Extractor(nn.Module):
    """Frames in, features out.

    level "frame": forward takes (N, 3, H, W) and returns (N, D); applied to every frame, features are (B, T, D).
    level "clip": forward takes (B, T, 3, H, W) and returns (B, D).
    level "sequence": forward takes (B, T, 3, H, W) and returns a dict of (B, ...) tensors.
    Frames are float in [0, 1]; resizing and normalisation belong to the extractor, so that they are in its version.
    """

    key: str  # unique: name plus what distinguishes its weights, e.g. "open_clip/ViT-B-32/openai"
    version: int = 1  # raise on any change of the numbers
    level: Literal["frame", "clip", "sequence"] = "frame"
    micro_batch: int = 16  # frames (or clips) per forward, always padded to exactly this many: see `extract`
    weights_sha256: str | None = None  # set when weights are loaded; None for weight-free computations

    def protocol(self) -> dict[str, Any]:
        """What the features depend on, for the protocol id."""
        return {"extractor": self.key, "version": self.version, "weights_sha256": self.weights_sha256}


def extract(extractor: Extractor, frames: Tensor) -> FeatureTree:
    """Run `extractor` over (B, T, 3, H, W) frames: (B, T, D), (B, D) or a dict, by its level.

    Networks run in micro-batches of one fixed size, the last padded with its own last row: kernels choose other
    algorithms for other batch sizes, and results would differ in the last digits with the batch size.
    """
    if extractor.level == "sequence":
        return extractor(frames)
    rows = frames.flatten(0, 1) if extractor.level == "frame" else frames
    outputs = []
    for chunk in rows.split(extractor.micro_batch):
        missing = extractor.micro_batch - len(chunk)
        padded = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])]) if missing else chunk
        outputs.append(extractor(padded)[: len(chunk)])
    features = torch.cat(outputs)
    return features.unflatten(0, frames.shape[:2]) if extractor.level == "frame" else features


_FACTORIES: dict[str, Callable[..., Extractor]] = {}


def register_extractor(name: str) -> Callable[[Callable[..., Extractor]], Callable[..., Extractor]]:
    """Class decorator: makes the extractor known as `name`; arguments follow slashes, "open_clip/ViT-B-32/openai"."""

    def add(factory: Callable[..., Extractor]) -> Callable[..., Extractor]:
        _FACTORIES[name] = factory
        return factory

    return add


def available_extractors() -> Mapping[str, Callable[..., Extractor]]:
    """Every registered extractor by name."""
    import evalkit.features.registry  # noqa: F401  (imports the modules that register themselves)

    return dict(sorted(_FACTORIES.items()))


@lru_cache(maxsize=16)
def make_extractor(key: str) -> Extractor:
    """The frozen extractor called `key` ("squeezenet", "open_clip/ViT-B-32/openai"), shared within the process.

    Raises ValueError for an unknown name and MissingWeights where its weights are not on this machine.
    """
    name, *arguments = key.split("/")
    known = available_extractors()
    if name not in known:
        raise ValueError(f"unknown extractor {name!r}; there are: {', '.join(known)}")
    extractor = known[name](*arguments).eval().requires_grad_(False)
    extractor.key = key  # as it was asked for: scores look their features up by it
    return extractor
