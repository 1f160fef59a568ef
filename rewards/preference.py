"""The learned preference: looks, motion and agreement with the prompt, fitted to pairs (see `rewards.train`)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.clips import ClipSpec
from evalkit.data.corruptions import available_corruptions
from evalkit.features.mini_clip import EMBEDDING, sixteen_frames, tokenize
from evalkit.features.preprocess import to_square
from evalkit.metrics.base import Measurement
from rewards.base import Reward
from rewards.preference_features import SIDE, clip_statistics
from rewards.trained import read_trained

DIMENSIONS = ("visual", "motion", "text")
WEIGHTS, CARD = "preference.safetensors", "card.json"  # what a trained folder holds
SHIPPED = Path(__file__).parent / "weights"
LARGEST = 5.0  # standard deviations; a statistic of a strange clip may lie far beyond all that was trained on
DEFECTS = tuple(available_corruptions())  # columns of `read_defects`


@lru_cache(maxsize=1)
def num_statistics() -> int:
    """How many numbers `clip_statistics` gives."""
    return clip_statistics(torch.zeros(1, 16, 3, SIDE, SIDE)).shape[1]


class PreferenceNetwork(nn.Module):
    """(B, K) statistics, (B, 256) mini CLIP embeddings of clips and of prompts -> {dimension: (B,) in (0, 1)}.

    A trunk learns from dialled defects to tell what is wrong with a clip; three heads learn from pairs what that costs.
    """

    def __init__(self, statistics: int | None = None, width: int = 256) -> None:
        super().__init__()
        k = num_statistics() if statistics is None else statistics
        self.register_buffer("mean", torch.zeros(k))
        self.register_buffer("scale", torch.ones(k))
        self.body = nn.Sequential(nn.Linear(k, width), nn.GELU(), nn.Dropout(0.15), nn.Linear(width, width), nn.GELU(),
                                  nn.Dropout(0.15))
        self.defects = nn.Linear(width, 2 * len(DEFECTS))
        self.quality = nn.Sequential(nn.Linear(2 * len(DEFECTS) + 1, 64), nn.GELU(), nn.Linear(64, 2))
        self.agreement = nn.Sequential(nn.Linear(3 * EMBEDDING + 1, 160), nn.GELU(), nn.Dropout(0.2),
                                       nn.Linear(160, 32))
        self.text = nn.Sequential(nn.Linear(32 + len(DEFECTS), 64), nn.GELU(), nn.Linear(64, 1))
        self.shares = nn.Parameter(torch.zeros(len(DIMENSIONS)))

    @torch.no_grad()
    def standardise(self, statistics: Tensor) -> None:
        """Take mean and standard deviation from (N, K) statistics."""
        self.mean.copy_(statistics.mean(0))
        self.scale.copy_(statistics.std(0).clamp_min(1e-3))

    def inner(self, statistics: Tensor) -> Tensor:
        """(B, width): the trunk."""
        return self.body(LARGEST * torch.tanh((statistics - self.mean) / self.scale / LARGEST))

    def read_defects(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of presence and severity / 5 as if present, each (B, defects), columns as DEFECTS."""
        presence, severity = self.defects(self.inner(statistics)).chunk(2, dim=1)
        return presence, severity

    def looks(self, statistics: Tensor) -> Tensor:
        """(B, 2): visual and motion before the sigmoid, from the defects that are seen."""
        return self._quality(*self.read_defects(statistics))[1]

    def _quality(self, presence: Tensor, severity: Tensor) -> tuple[Tensor, Tensor]:
        found = presence.sigmoid() * severity
        return found, self.quality(torch.cat([found, presence.sigmoid(), found.square().sum(1, keepdim=True)], dim=1))

    def forward(self, statistics: Tensor, clips: Tensor, prompts: Tensor) -> dict[str, Tensor]:
        found, looks = self._quality(*self.read_defects(statistics))
        clips, prompts = F.normalize(clips, dim=1), F.normalize(prompts, dim=1)
        both = clips * prompts
        said = torch.cat([16 * both, 8 * (clips - prompts).abs(), 8 * prompts, 4 * both.sum(1, keepdim=True)], dim=1)
        text = self.text(torch.cat([self.agreement(said), found], dim=1))
        values = torch.cat([looks, text], dim=1).sigmoid().unbind(1)
        return dict(zip(DIMENSIONS, values, strict=True))

    def overall(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) in (0, 1): the dimensions' weighted mean, the weights learnt from what raters say of the whole."""
        return weighted_mean(values, self.shares)


def weighted_mean(values: Mapping[str, Tensor], shares: Tensor) -> Tensor:
    """(B,): of the DIMENSIONS, by the softmax of `shares`."""
    return torch.stack([values[name] for name in DIMENSIONS], dim=1) @ shares.softmax(0)


class Preference(Reward):
    """Which of two clips is truly better, in (0, 1): a weighted mean of `visual`, `motion` and `text`.

    folder: what `evalkit rewards train` wrote; by default the weights that ship. Trained on pairs of the made-up world,
    whose prompts alone it understands, unless it was trained with a --backbone; differentiable in the frames.

    MissingWeights where there are no weights; ValueError for a file that is not such a network, or not the one that
    its card describes.
    """

    name = "preference"
    range = (0.0, 1.0)
    summary = "learned from pairs of the made-up world: looks, motion, agreement with the prompt; 1 the best"
    spec = ClipSpec(num_frames=16, min_frames=16, placement="start", fps=8.0, size=(SIDE, SIDE))
    extractor_keys = ("mini_clip",)
    needs_prompts = True
    min_frames = 8

    def __init__(self, folder: str | Path | None = None) -> None:
        folder = SHIPPED if folder is None else Path(folder)
        card = read_card(folder)
        if "lora" in card:
            self.extractor_keys = ()
        super().__init__()
        self.card = card
        self.network = self._adapted(folder) if "lora" in card else embedded_network(folder)
        self.network.eval().requires_grad_(False)

    def _adapted(self, folder: Path) -> nn.Module:
        """The network on the backbone that the card names, with the frames that it reads."""
        from rewards.lora import LEAST, LoraNetwork, clip_spec, open_backbone

        told = self.card["lora"]
        clip = open_backbone(told["backbone"])
        if clip.weights_sha256 != told["backbone_sha256"]:
            raise ValueError(f"{folder}: trained on a {told['backbone']} of sha256 {told['backbone_sha256']}, got one "
                             f"of {clip.weights_sha256}")
        self.spec, self.min_frames = clip_spec(clip.image.size), LEAST
        network = LoraNetwork(clip, told["rank"])
        network.load_learnt(folder / WEIGHTS)
        return network

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """ValueError for words that the made-up world does not have, unless it was trained on another backbone."""
        if "lora" not in self.card:
            tokenize(prompts)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return {"weights_sha256": self.card["sha256"]} | ({"lora": self.card["lora"]} if "lora" in self.card else {})

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        """Reward (B,); components visual, motion and text, each (B,) in (0, 1)."""
        if prompts is None:
            raise ValueError(f"{self.name}: expected one prompt per clip, got None")
        if "lora" in self.card:
            values = self.network(frames, prompts, self.recompute)
        else:
            (key, clip), = self._by_key()
            statistics = clip_statistics(to_square(sixteen_frames(frames.float()), SIDE))
            values = self.network(statistics, features[key].float(), clip.encode_text(prompts))
        return Measurement(self.network.overall(values), values)

    def probability(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """(N,) calibrated chance that clips of rewards `chosen` (N,) are truly better than those of `rejected` (N,).

        ValueError where too few pairs were held out to calibrate.
        """
        found = self.card.get("calibration", {}).get("overall")
        if found is None:
            raise ValueError("preference: trained on too few pairs to be calibrated; no probability can be told")
        return torch.sigmoid((chosen - rejected) / found["temperature"])


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder that `evalkit rewards train` wrote, its weights those that it describes. Errors as above."""
    return read_trained(folder / WEIGHTS, folder / CARD, "evalkit rewards train --world 4000")


def embedded_network(folder: Path) -> PreferenceNetwork:
    """The network of such a folder. Errors as `Preference`."""
    from safetensors import SafetensorError

    from evalkit.mini.weights import load_weights

    network = PreferenceNetwork()
    try:
        load_weights(network, folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: not a safetensors file of PreferenceNetwork: {error}") from error
    return network
