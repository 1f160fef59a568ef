"""What each of the small networks is to learn from clips of the made-up world, and how that is scored in training."""
from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.data.captions import caption, claims, distractors, parse
from evalkit.data.corruptions import CORRUPTIONS
from evalkit.data.oracle import build_oracle
from evalkit.data.scene import Scene
from evalkit.features.clip_tower import LOOK
from evalkit.features.mini_clip import EMBEDDING, build_clip, tokenize
from evalkit.features.mini_video import CONTENT, TIME, MiniVideoNetwork
from evalkit.mini.classes import CLASSES
from evalkit.mini.stream import DEFECTS, UNASKED, Defects, factors_of, places_of, severities_of, things_of


class Task(nn.Module, ABC):
    """A network with what its training alone needs; `shipped` is the part that is saved."""

    shipped: nn.Module
    lr: float = 2e-3
    clean: float = 0.45  # share of clips without a defect

    @staticmethod
    @abstractmethod
    def targets(scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        """What the network is to say of the clips, (B, ...) each; called in the worker that draws the scenes."""

    @abstractmethod
    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named losses, whose sum is minimized, from (B, 16, 3, 64, 64) frames."""


class OracleTask(Task):
    """Cross entropy of every factor and of every defect; where each thing is and what it is; the speed."""

    def __init__(self) -> None:
        super().__init__()
        self.shipped = build_oracle()

    @staticmethod
    def targets(scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        return factors_of(scenes) | things_of(scenes) | {
            "severity": severities_of(defects), "where": places_of(scenes, defects),
            "speed": torch.tensor([scene.subject.speed for scene in scenes], dtype=torch.float32)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        answers = {name: answer.float() for name, answer in self.shipped(frames).items()}
        severity = targets["severity"]
        there = severity > 0
        return {"where": _entropy(answers["where"], targets["where"]),
                "things": 3 * (_entropy(answers["shapes"], targets["shapes"])
                               + _entropy(answers["colours"], targets["colours"])),
                "factors": sum(_entropy(answers[name], targets[name]) for name in CLASSES if name in answers),
                "defects": 10 * F.binary_cross_entropy_with_logits(answers["defects"], there.float()),
                "severity": 2 * ((answers["severity"] - severity).square() * there).sum() / there.sum().clamp_min(1),
                "speed": 20 * F.mse_loss(answers["speed"][:, 0], targets["speed"])}


def _entropy(answers: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of (..., classes) logits and (...) class indices, UNASKED left out; 0 where all are."""
    targets = targets.flatten().long()
    asked = (targets != UNASKED).sum().clamp_min(1)
    return F.cross_entropy(answers.float().flatten(0, -2), targets, ignore_index=UNASKED, reduction="sum") / asked


class VideoTask(Task):
    """Severity of every defect, and the factors of the scene, read linearly from noisy features.

    What is shown is read from few of the features, motion and defects from the others: a Fréchet distance grows with
    the square of the number of features even between equal sets, and content has most to say.
    """

    CONTENT = ("shape", "colour", "size", "ground", "pattern", "count", "grade")
    TIME = ("direction", "path", "pace", "camera", "camera_speed", "light", "cut")
    NOISE = 0.3  # on features of unit variance: what the heads need must stand out
    SUBTLE = 3.0  # weight of blur and of defects in time, which show less than others do
    lr = 1.5e-3

    def __init__(self) -> None:
        super().__init__()
        self.shipped = MiniVideoNetwork()
        self.severity = nn.Linear(TIME, len(DEFECTS))
        subtle = [self.SUBTLE if name == "blur" or CORRUPTIONS[name].kind == "temporal" else 1.0 for name in DEFECTS]
        self.register_buffer("weights", torch.tensor(subtle))
        self.content = nn.ModuleDict({name: nn.Linear(CONTENT, len(CLASSES[name])) for name in self.CONTENT})
        self.time = nn.ModuleDict({name: nn.Linear(TIME, len(CLASSES[name])) for name in self.TIME})

    @classmethod
    def targets(cls, scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        asked = {name: CLASSES[name] for name in (*cls.CONTENT, *cls.TIME)}
        return factors_of(scenes, asked) | {"severity": severities_of(defects)}

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.shipped(frames).float()
        content, time = (features + self.NOISE * torch.randn_like(features)).split([CONTENT, TIME], dim=1)
        errors = (self.severity(time).float() - targets["severity"]).square()
        return {"severity": 100 * (self.weights * errors).mean(),
                "content": 0.2 * _entropies(self.content, content, targets),
                "time": 0.2 * _entropies(self.time, time, targets)}


def _entropies(heads: nn.ModuleDict, features: Tensor, targets: dict[str, Tensor]) -> Tensor:
    return sum(_entropy(head(features), targets[name]) for name, head in heads.items())


class ClipTask(Task):
    """Contrast of clips and captions in the batch, with captions wrong in one factor beside them (NegCLIP).

    In training alone, the factors are read from the embedding of a clip, and those that a caption tells from its own,
    by one and the same heads: both towers lay them out alike. The visual tower is shown where each thing is.
    """

    KEPT, WRONG = 24, 4  # false captions kept of a clip, and set against it at a time
    TOLD = ("terse", "dense", "temporal", "dense")  # registers in turn: a dense caption tells twice what others do
    FAINT = ("camera", "camera_speed", "grade", "path")  # factors that show least, and weigh more
    lr = 1.5e-3
    clean = 0.6

    def __init__(self) -> None:
        super().__init__()
        self.shipped = build_clip()
        self.factors = nn.ModuleDict({name: nn.Linear(EMBEDDING, len(values)) for name, values in CLASSES.items()})
        self.others = nn.Linear(EMBEDDING, len(THINGS))
        self.shapes, self.colours = (nn.Linear(2 * LOOK, len(CLASSES[name])) for name in ("shape", "colour"))

    @classmethod
    def targets(cls, scenes: list[Scene], defects: list[Defects]) -> dict[str, Tensor]:
        texts = []
        for scene in scenes:
            register, wording = cls.TOLD[scene.seed % len(cls.TOLD)], scene.seed % 1013
            wrong = distractors(scene, cls.KEPT, register, wording)
            texts += [caption(scene, register, wording), *(one.text for one in wrong)]
        said = torch.tensor([told_in(parse(text)) for text in texts], dtype=torch.int8)
        return things_of(scenes) | {
            "where": places_of(scenes, defects), "factors": torch.tensor([told_in(claims(scene)) for scene in scenes]),
            "texts": tokenize(texts).to(torch.uint8).unflatten(0, (len(scenes), -1)),  # (B, 1 + KEPT, 96), true first
            "said": said.unflatten(0, (len(scenes), -1))}  # (B, 1 + KEPT, factors)

    def loss(self, frames: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        clip, count = self.shipped, len(frames)
        chosen = 1 + torch.rand(count, self.KEPT, device=frames.device).argsort(1)[:, :self.WRONG]
        chosen = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], dim=1)  # (B, 1 + WRONG)
        texts, said = (targets[name].take_along_dim(chosen[..., None], 1) for name in ("texts", "said"))
        seen = clip.visual.look(frames)
        image = F.normalize(seen.embedding.float(), dim=-1)
        text = clip.encode_text(texts.flatten(0, 1).long(), normalize=True).float().unflatten(0, (count, -1))
        scale = clip.logit_scale.exp().clamp_max(100)
        own = scale * torch.einsum("bd,bkd->bk", image, text[:, 1:])
        logits = scale * image @ text[:, 0].T
        target = torch.arange(count, device=frames.device)
        return {"to_text": F.cross_entropy(torch.cat([logits, own], dim=1), target),
                "to_image": F.cross_entropy(logits.T, target),
                "own": F.cross_entropy(torch.cat([logits.diagonal()[:, None], own], dim=1), torch.zeros_like(target)),
                "where": 0.5 * _entropy(seen.where, targets["where"]),
                "things": _entropy(self.shapes(seen.things), targets["shapes"])
                + _entropy(self.colours(seen.things), targets["colours"]),
                "factors": 0.15 * self._read(image, targets["factors"]),
                "said": 0.15 * self._read(text, said)}

    def _read(self, embeddings: Tensor, told: Tensor) -> Tensor:
        """Entropies of what `told_in` gives (..., K), read from (..., D) of unit length."""
        spread = embeddings * EMBEDDING ** 0.5
        factors = sum((3 if name in self.FAINT else 1) * _entropy(head(spread), told[..., k])
                      for k, (name, head) in enumerate(self.factors.items()))
        beside = told[..., len(CLASSES):].long()
        there = torch.zeros(*beside.shape[:-1], len(THINGS) + 1, device=told.device).scatter(-1, beside.clamp_min(0), 1)
        wrong = F.binary_cross_entropy_with_logits(self.others(spread), there[..., :-1], reduction="none").sum(-1)
        asked = (beside[..., 0] != UNASKED).float()
        return factors + 2 * (wrong * asked).sum() / asked.sum().clamp_min(1)


THINGS = tuple(f"{colour} {shape}" for colour in CLASSES["colour"] for shape in CLASSES["shape"])


def told_in(truth: dict[str, str]) -> list[int]:
    """The class of every factor of CLASSES and the two others among THINGS, UNASKED where nothing is told of them.

    Where there is no such other, its class is len(THINGS).
    """
    factors = [values.index(truth[name]) if name in truth else UNASKED for name, values in CLASSES.items()]
    if "others" not in truth:
        return [*factors, UNASKED, UNASKED]
    beside = [THINGS.index(name) for name in truth["others"].split(", ") if name]
    return [*factors, *beside, *[len(THINGS)] * (2 - len(beside))]


TASKS: dict[str, type[Task]] = {"oracle": OracleTask, "video": VideoTask, "clip": ClipTask}
