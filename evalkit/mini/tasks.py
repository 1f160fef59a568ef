"""What each of the small networks is to learn from clips of the made-up world, and how that is scored in training."""
from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.data.captions import REGISTERS, caption, distractors
from evalkit.data.oracle import build_oracle
from evalkit.data.scene import Scene
from evalkit.features.mini_clip import EMBEDDING, build_clip, contact_sheet, tokenize
from evalkit.features.mini_video import CONTENT, TIME, MiniVideoNetwork
from evalkit.mini.classes import CLASSES
from evalkit.mini.stream import DEFECTS, Defects, factors_of, others_of, places_of, severities_of


class Task(nn.Module, ABC):
    """A network with what its training alone needs; `shipped` is the part that is saved."""

    shipped: nn.Module
    lr: float = 2e-3

    @staticmethod
    @abstractmethod
    def targets(scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        """What the network is to say of the clips, (B, ...) each; called in the worker that draws the scenes."""

    @abstractmethod
    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named losses, whose sum is minimized, from (B, 16, 3, 64, 64) frames."""


class OracleTask(Task):
    """Cross entropy of every factor and of every defect; what others there are; the speed."""

    def __init__(self) -> None:
        super().__init__()
        self.shipped = build_oracle()

    @staticmethod
    def targets(scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        return factors_of(scenes) | {
            "others": others_of(scenes), "severity": severities_of(defects),
            "where": places_of(scenes, defects),
            "speed": torch.tensor([scene.subject.speed for scene in scenes], dtype=torch.float32)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        answers = {name: answer.float() for name, answer in self.shipped(frames).items()}
        severity = targets["severity"]
        there = severity > 0
        return {"where": F.cross_entropy(answers["where"].flatten(0, 1), targets["where"].flatten(), ignore_index=-100),
                "factors": sum(F.cross_entropy(answers[name], targets[name]) for name in CLASSES),
                "others": 10 * F.binary_cross_entropy_with_logits(answers["others"], targets["others"]),
                "defects": 10 * F.binary_cross_entropy_with_logits(answers["defects"], there.float()),
                "severity": 2 * ((answers["severity"] - severity).square() * there).sum() / there.sum().clamp_min(1),
                "speed": 20 * F.mse_loss(answers["speed"][:, 0], targets["speed"])}


class VideoTask(Task):
    """Severity of every defect, and the factors of the scene, read linearly from noisy features.

    What is shown is read from few of the features, motion and defects from the others: a Fréchet distance grows with
    the square of the number of features even between equal sets, and content has most to say.
    """

    CONTENT = ("shape", "colour", "size", "ground", "pattern", "count", "grade")
    TIME = ("direction", "path", "pace", "camera", "camera_speed", "light", "cut")
    NOISE = 0.3  # on features of unit variance: what the heads need must stand out
    lr = 1.5e-3

    def __init__(self) -> None:
        super().__init__()
        self.shipped = MiniVideoNetwork()
        self.severity = nn.Linear(TIME, len(DEFECTS))
        self.content = nn.ModuleDict({name: nn.Linear(CONTENT, len(CLASSES[name])) for name in self.CONTENT})
        self.time = nn.ModuleDict({name: nn.Linear(TIME, len(CLASSES[name])) for name in self.TIME})

    @classmethod
    def targets(cls, scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        asked = {name: CLASSES[name] for name in (*cls.CONTENT, *cls.TIME)}
        return factors_of(scenes, asked) | {"severity": severities_of(defects)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.shipped(frames).float()
        content, time = (features + self.NOISE * torch.randn_like(features)).split([CONTENT, TIME], dim=1)
        return {"severity": 100 * F.mse_loss(self.severity(time).float(), targets["severity"]),
                "content": 0.2 * _entropies(self.content, content, targets),
                "time": 0.2 * _entropies(self.time, time, targets)}


def _entropies(heads: nn.ModuleDict, features: Tensor, targets: dict[str, Tensor]) -> Tensor:
    return sum(F.cross_entropy(head(features).float(), targets[name]) for name, head in heads.items())


class ClipTask(Task):
    """Contrast of clips and captions in the batch, with captions wrong in one factor beside them (NegCLIP).

    Factors read from the clip's embedding, in training alone, show the young network where to look.
    """

    WRONG = 4  # captions a clip
    lr = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.shipped = build_clip()
        self.factors = nn.ModuleDict({name: nn.Linear(EMBEDDING, len(values)) for name, values in CLASSES.items()})

    @classmethod
    def targets(cls, scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        true, false = [], []
        for scene in scenes:
            register, seed = REGISTERS[(0, 0, 1, 2)[scene.seed % 4]], scene.seed % 1013
            true.append(caption(scene, register, seed))
            false += [one.text for one in distractors(scene, cls.WRONG, register, seed)]
        return factors_of(scenes) | {"true": tokenize(true), "false": tokenize(false)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        clip = self.shipped
        seen = clip.encode_image(contact_sheet(frames)).float()
        image = F.normalize(seen, dim=-1)
        text = clip.encode_text(torch.cat([targets["true"], targets["false"]]), normalize=True).float()
        true, false = text.split([len(frames), self.WRONG * len(frames)])
        scale = clip.logit_scale.exp().clamp_max(100)
        own = scale * torch.einsum("bd,bkd->bk", image, false.unflatten(0, (len(frames), self.WRONG)))
        logits = scale * image @ true.T
        target = torch.arange(len(frames), device=frames.device)
        return {"to_text": F.cross_entropy(torch.cat([logits, own], dim=1), target),
                "to_image": F.cross_entropy(logits.T, target),
                "factors": 0.1 * _entropies(self.factors, seen, targets)}


TASKS: dict[str, type[Task]] = {"oracle": OracleTask, "video": VideoTask, "clip": ClipTask}
