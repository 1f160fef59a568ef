"""FARM, the frame aesthetic reward with motion: the frames' aesthetic score plus lambda times guarded coherence."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from evalkit.metrics.base import Measurement
from rewards.base import Reward
from rewards.coherence import DYNAMIC_FLOOR, LIMIT, PRICES, coherence
from rewards.frames import evenly_spaced
from rewards.looks import LOOKS_KEY
from rewards.photographic import photographic

FRAMES = 8  # at most so many frames, evenly spaced, are judged one by one
# "laion" is the MLP head on open_clip/ViT-L-14/openai
LEARNED = {"laion": "aesthetic/l14_mlp", "embedded": LOOKS_KEY}


class Farm(Reward):
    """mean_t A(x_t) - kappa * std_t A(x_t) + lambda * C(x): how good the frames look, and how well they cohere.

    A: "photographic", in (0, 1]; "laion", the LAION head on CLIP ViT-L/14 over 10, about 0.1 to 1; "embedded", what the
    shipped preference network sees in single frames (`rewards.looks`), in (0, 1); or the key of any extractor that
    gives one number a frame on that scale of 1 to 10. C in [0, 1): guarded coherence.
    lambda = 1 (`weight`): both terms have the same range. kappa = 0.5: where one of 8 frames drops by a, the mean
    falls by a / 8 and kappa * std takes another a / 6, so that one ugly frame costs more than twice its share.
    pooling="sum" is the literal sum over all T frames (estimated from those judged) + lambda * C, which grows with T,
    so that lambda means another thing at every length. With the mean, the reward is in (-0.25, 2): std is at most 1/2.
    """

    name = "farm"
    version = 4
    needs_fps = True
    range = (-0.25, 2.0)
    summary = "how good frames look (photographic score) plus how coherently they move, guarded against stillness"
    extractor_keys = ("motion",)

    def __init__(self, aesthetic: str = "photographic", pooling: Literal["mean", "sum"] = "mean", weight: float = 1.0,
                 kappa: float = 0.5) -> None:
        if pooling not in ("mean", "sum"):
            raise ValueError(f'pooling: expected "mean" or "sum", got {pooling!r}')
        self.aesthetic_key = None if aesthetic == "photographic" else LEARNED.get(aesthetic, aesthetic)
        if self.aesthetic_key:
            self.extractor_keys = ("motion", self.aesthetic_key)
        self.pooling, self.weight, self.kappa = pooling, weight, kappa
        super().__init__()

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"aesthetic": self.aesthetic_key or "photographic", "pooling": self.pooling, "lambda": self.weight,
                "kappa": self.kappa, "frames": FRAMES, "prices": PRICES, "limit": LIMIT,
                "dynamic_floor": DYNAMIC_FLOOR}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """Reward (B,) with the mean aesthetic score, coherence and what they consist of; the curve is A over frames."""
        curve, looks = self._aesthetic(frames, features)
        coherent, parts = coherence(features["motion"], fps)
        value = self._pool(curve, frames.shape[1]) + self.weight * coherent
        components = {"aesthetic": curve.mean(1), "coherence": coherent} | parts
        components |= {f"aesthetic_{name}": cost.mean(1) for name, cost in looks.items()}
        return Measurement(value, components, {"aesthetic": curve})

    def _aesthetic(self, frames: Tensor, features: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores (B, F) of the judged frames and, of the photographic score, its costs."""
        if self.aesthetic_key is None:
            return photographic(evenly_spaced(frames, FRAMES))
        return evenly_spaced(features[self.aesthetic_key], FRAMES)[..., 0].float() / 10, {}

    def _pool(self, curve: Tensor, length: int) -> Tensor:
        if self.pooling == "sum":
            return length * curve.mean(1)
        spread = (curve.var(1, correction=0) + 1e-8).sqrt()
        return curve.mean(1) - self.kappa * spread
