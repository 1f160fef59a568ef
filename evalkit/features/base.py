"""What an extractor is: a frozen network or a fixed computation whose output several metrics share."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def extract(extractor: Extractor, frames: Tensor, recompute: bool = False, at_once: int = 0) -> FeatureTree:
    """Run `extractor` over (B, T, 3, H, W) frames: (B, T, D), (B, D) or a dict, by its level.

    Networks run in micro-batches of one fixed size, the last padded with its own last row: kernels choose other
    algorithms for other batch sizes, and results would differ in the last digits with the batch size; at_once is a
    larger size than the extractor's own, for whole batches on a GPU. `recompute` keeps nothing of what lies inside a
    micro-batch for the gradient, and computes it a second time there (checkpointing). Weight-free computations stay in
    float32 under autocast, which networks follow.
    """
    run = partial(checkpoint, extractor, use_reentrant=False) if recompute else extractor
    if extractor.weights_sha256 is None:
        with in_float32(frames):
            return _extract(extractor, run, frames, at_once)
    return _extract(extractor, run, frames, at_once)


def in_float32(like: Tensor) -> AbstractContextManager:
    """Where autocast is off on the device of `like`: 8 bits of mantissa are too few for differences of frames."""
    return torch.autocast(like.device.type, enabled=False)


def _extract(extractor: Extractor, run: Callable[[Tensor], FeatureTree], frames: Tensor, at_once: int) -> FeatureTree:
    if extractor.level == "sequence":
        return run(frames)
    rows = frames.flatten(0, 1) if extractor.level == "frame" else frames
    outputs, size = [], max(extractor.micro_batch, at_once)
    for chunk in rows.split(size):
        missing = size - len(chunk)
        padded = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])]) if missing else chunk
        outputs.append(run(padded)[: len(chunk)])
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
