"""The made-up world as training data and as judge: fresh clips by step, held-out prompts, and true quality as read."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from baselines.model import VideoDiffusion
from baselines.stage import Batch, Shard, send
from evalkit.data.captions import caption, parse
from evalkit.data.oracle import Reading, load_oracle, read_frames
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.data.truth import COSTS
from evalkit.errors import UsageError
from evalkit.memory import keep_freed_memory
from evalkit.mini.stream import damaged

# What footage from anywhere suffers: seen well by the oracle, and none hides a shape, a colour or a direction.
DEFECTS = ("blur", "over_exposure", "under_exposure", "contrast_loss", "luma_flicker", "camera_jitter", "ghosting",
           "grid")
TOGETHER = 16  # steps, at most
FOLLOWED = ("shape", "colour", "direction")


@dataclass(frozen=True)
class WorldData:
    """Which clips: of simple or full scenes, told in one register, a share of them `clean` and the rest damaged."""

    level: str = "simple"
    register: str = "terse"
    clean: float = 0.6
    seed: int = 0


class FreshClips(Dataset):
    """Entry k: `count` clips that depend on k and the seed alone, (frames uint8 (count, T, 3, H, W), prompts)."""

    def __init__(self, data: WorldData, count: int, num_frames: int, fps: float, size: tuple[int, int]) -> None:
        self.data, self.count, self.num_frames, self.fps, self.size = data, count, num_frames, fps, size

    def __getitem__(self, k: int) -> tuple[Tensor, list[str]]:
        keep_freed_memory()
        data, rng = self.data, np.random.default_rng([self.data.seed, 17, k])
        scenes = [make_scene(int(seed), level=data.level) for seed in rng.integers(SPLITS["test"], size=self.count)]
        frames = render_scenes(scenes, self.num_frames, self.fps, self.size)
        defects = [[] if rng.random() < data.clean else
                   [(str(rng.choice(DEFECTS)), int(rng.integers(1, 6)), int(rng.integers(2**31)))] for _ in scenes]
        return damaged(frames, defects), [caption(scene, data.register) for scene in scenes]


class WorldClips:
    """Batches of clips of the world: the newest `remembered` are kept on the device, and `fresh` come in each step.

    Drawing scenes takes longer than learning from them; hence each clip is looked at several times. They come in
    together for some steps: the device waits while they do.
    """

    def __init__(self, model: VideoDiffusion, data: WorldData, fresh: int, remembered: int, workers: int) -> None:
        preset = model.preset
        self.model, self.data, self.workers = model, data, workers
        self.every = max(1, min(TOGETHER, remembered // (4 * fresh)))
        self.count = fresh * self.every
        self.capacity = max(self.count, remembered // self.count * self.count)
        self.clips = FreshClips(data, self.count, preset.num_frames, preset.fps, (preset.height, preset.width))

    def batches(self, start: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        """"frames" uint8 and "text" of the rows of this process, for step `start` and those that follow."""
        parts = self.capacity // self.count
        ahead = min(parts, math.ceil(4 * batch_size / self.count))  # parts that are there before the first step
        there = start // self.every + ahead
        first = max(0, there - parts)
        stream = iter(DataLoader(self.clips, batch_size=None, sampler=_From(first), num_workers=self.workers,
                                 prefetch_factor=2 if self.workers else None))
        ring = _Ring(self.capacity, first * self.count, self.model.device)
        for _ in range(first, there):
            self._add(ring, *next(stream))
        step = start
        while True:
            generator = torch.Generator().manual_seed((self.data.seed * 1_000_003 + step) * 16 + 5)
            chosen = torch.randint(min(ring.added, self.capacity), (batch_size,), generator=generator)
            rows = shard.rows(batch_size)
            yield ring.take(chosen[rows.start:: rows.step], rows)
            step += 1
            if step % self.every == 0:
                self._add(ring, *next(stream))

    def _add(self, ring: _Ring, frames: Tensor, prompts: list[str]) -> None:
        states = self.model.encode_prompts(prompts)
        ring.add({"frames": frames, "text": states.half()}, prompts)


class _Ring:
    """The newest clips with their prompts; entry i of all that came lies in row i modulo the capacity."""

    def __init__(self, capacity: int, added: int, device: torch.device) -> None:
        self.capacity, self.added, self.device = capacity, added, device
        self.kept: dict[str, Tensor] = {}
        self.prompts: list[str] = [""] * capacity

    def add(self, values: dict[str, Tensor], prompts: list[str]) -> None:
        rows = [(self.added + k) % self.capacity for k in range(len(prompts))]
        for name, value in values.items():
            if name not in self.kept:
                self.kept[name] = torch.zeros(self.capacity, *value.shape[1:], dtype=value.dtype, device=self.device)
            self.kept[name][rows[0]: rows[0] + len(rows)] = value.to(self.device)
        for row, prompt in zip(rows, prompts, strict=True):
            self.prompts[row] = prompt
        self.added += len(prompts)

    def take(self, chosen: Tensor, rows: range) -> Batch:
        index = send(chosen, self.device)
        return Batch({name: value[index] for name, value in self.kept.items()},
                     [self.prompts[k] for k in chosen.tolist()], rows)


class _From(torch.utils.data.Sampler):
    """first, first + 1, ... without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        k = self.first
        while True:
            yield k
            k += 1


def world_prompts(count: int, split: str = "test", level: str = "simple", register: str = "terse") -> list[str]:
    """Distinct captions of scenes of a split, the first `count`. UsageError for an unknown split."""
    if split not in SPLITS:
        raise UsageError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    found: dict[str, None] = {}
    seed = SPLITS[split]
    while len(found) < count:
        found.setdefault(caption(make_scene(seed, level=level), register))
        seed += 1
    return list(found)


@dataclass(frozen=True)
class Verdict:
    """What the oracle sees of a sample. quality: visual, motion, text and overall in [0, 1], as `truth` counts them;
    follows: whether shape, colour and direction are all as the prompt says."""

    quality: dict[str, float]
    follows: bool


def judge(frames: Tensor, prompts: Sequence[str]) -> list[Verdict]:
    """A verdict on each of (B, 16, 3, H, W) frames. ValueError for another number of frames, or a prompt not of the
    world's language."""
    networks = tuple(network.to(frames.device) for network in load_oracle())
    return [verdict(reading, prompt) for reading, prompt in zip(read_frames(frames, networks), prompts, strict=True)]


def verdict(reading: Reading, prompt: str) -> Verdict:
    """Defects cost what `truth.COSTS` says, by the severity read and by the chance that they are there."""
    said, agrees = parse(prompt), reading.agrees(prompt)
    quality = {name: math.prod(1 - COSTS[defect][column] * reading.defects[defect] * severity / 5
                               for defect, severity in reading.severities.items() if defect in COSTS)
               for column, name in enumerate(("visual", "motion"))}
    quality["text"] = sum(agrees.values()) / len(agrees)
    quality["overall"] = sum(quality.values()) / 3
    return Verdict(quality, all(agrees[factor] for factor in FOLLOWED if factor in said))
