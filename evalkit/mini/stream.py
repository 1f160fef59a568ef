"""An endless stream of labelled clips of the world, drawn, rendered and damaged in worker processes."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from evalkit.data.captions import claims
from evalkit.data.corruptions import CORRUPTIONS, available_corruptions, corrupt
from evalkit.data.rendering import MOST_THINGS, pack, render
from evalkit.data.scene import COLOURS, FPS, NUM_FRAMES, SHAPES, SIZE, SPLITS, Scene, make_scene
from evalkit.features.preprocess import to_square
from evalkit.memory import keep_freed_memory
from evalkit.mini.classes import CLASSES

DEFECTS = tuple(available_corruptions())
OTHER_SIZES = (32, 48, 96)
UNASKED = -100  # a class index that a cross entropy leaves out

Defects = list[tuple[str, int, int]]  # of one clip: name, severity, seed
Targets = dict[str, Tensor]


class WorldStream(IterableDataset):
    """Fresh clips without end: (frames uint8 (B, 16, 3, 64, 64), what is to be said of them).

    targets: (scenes, defects) -> what a network is to learn. clean: the share of clips without a defect; of the others
    a third has two. One batch in nine is made at another size and brought to 64 pixels, as foreign clips are.
    """

    def __init__(self, targets: Callable[[list[Scene], list[Defects]], Targets], batch_size: int, seed: int,
                 clean: float) -> None:
        self.targets, self.batch_size, self.seed, self.clean = targets, batch_size, seed, clean

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        keep_freed_memory()
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        while True:
            size = int(rng.choice(OTHER_SIZES)) if rng.random() < 1 / 9 else SIZE
            scenes = [make_scene(int(seed)) for seed in SPLITS["train"] + rng.integers(10**6, size=self.batch_size)]
            defects = [self._defects(rng) for _ in scenes]
            frames = damaged_frames(scenes, defects, size)
            if size != SIZE:
                frames = (255 * to_square(frames.float() / 255, SIZE)).round().to(torch.uint8)
            yield frames, self.targets(scenes, defects)

    def _defects(self, rng: np.random.Generator) -> Defects:
        if rng.random() < self.clean:
            return []
        names = rng.choice(len(DEFECTS), 2 if rng.random() < 1 / 3 else 1, replace=False)
        return [(DEFECTS[name], int(rng.integers(1, 6)), int(rng.integers(2**31))) for name in names]


def load_batches(stream: WorldStream, workers: int) -> Iterator[tuple[Tensor, Targets]]:
    """The stream's batches, made ahead in `workers` processes (0: here)."""
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))


class Memory:
    """The newest `capacity` clips of a stream, kept on the device: a network looks at each of them several times."""

    def __init__(self, capacity: int, device: str) -> None:
        self.capacity, self.device, self.added = capacity, device, 0
        self._kept: Targets = {}

    def add(self, frames: Tensor, targets: Targets) -> None:
        """Take in a batch; the oldest clips make room. KeyError where a batch has other targets than the first."""
        rows = torch.arange(self.added, self.added + len(frames), device=self.device) % self.capacity
        for name, values in (targets | {"frames": frames}).items():
            if self.added == 0:
                self._kept[name] = torch.empty(self.capacity, *values.shape[1:], dtype=values.dtype, device=self.device)
            self._kept[name][rows] = values.to(self.device)
        self.added += len(frames)

    def draw(self, count: int) -> tuple[Tensor, Targets]:
        """`count` clips with replacement: frames (count, 16, 3, 64, 64) in [0, 1], and what is to be said of them."""
        rows = torch.randint(min(self.added, self.capacity), (count,), device=self.device)
        found = {name: values[rows] for name, values in self._kept.items()}
        return found.pop("frames").float() / 255, found


def damaged_frames(scenes: Sequence[Scene], defects: Sequence[Defects], size: int = SIZE) -> Tensor:
    """uint8 (B, 16, 3, size, size): the scenes in the world's format, each with its defects."""
    return damaged(render(pack(scenes, np.arange(NUM_FRAMES) / FPS), size, size), defects)


def damaged(frames: Tensor, defects: Sequence[Defects]) -> Tensor:
    """The same (B, 16, 3, H, W), overwritten with each clip's defects in order."""
    for row, mine in enumerate(defects):
        for name, severity, seed in mine:
            frames[row] = corrupt(frames[row], name, severity, seed=seed, fps=FPS)
    return frames


def severities_of(defects: list[Defects]) -> Tensor:
    """(B, defects) severity / 5 of every defect, 0 where it is absent."""
    found = torch.zeros(len(defects), len(DEFECTS))
    for row, mine in enumerate(defects):
        for name, severity, _ in mine:
            found[row, DEFECTS.index(name)] = severity / 5
    return found


def factors_of(scenes: list[Scene], classes: Mapping[str, tuple[str, ...]] = CLASSES) -> dict[str, Tensor]:
    """Factor -> (B,) index of its true value among `classes`."""
    truths = [claims(scene) for scene in scenes]
    return {factor: torch.tensor([values.index(truth[factor]) for truth in truths])
            for factor, values in classes.items()}


def things_of(scenes: list[Scene]) -> dict[str, Tensor]:
    """"shapes" and "colours" (B, 3) of the subject and of the others in their order; UNASKED where there is none."""
    found = torch.full((2, len(scenes), MOST_THINGS), UNASKED)
    for row, scene in enumerate(scenes):
        for column, thing in enumerate(scene.things):
            found[0, row, column] = SHAPES.index(thing.shape)
            found[1, row, column] = list(COLOURS).index(thing.colour)
    return {"shapes": found[0], "colours": found[1]}


def places_of(scenes: list[Scene], defects: list[Defects]) -> Tensor:
    """(B, 16, 3) cell of a 16 x 16 grid that holds the centre of the subject and of each of the others.

    UNASKED where there is no such thing or it is outside the picture, and where a temporal defect has moved the frames.
    """
    times = np.arange(NUM_FRAMES) / FPS
    found = torch.full((len(scenes), NUM_FRAMES, MOST_THINGS), UNASKED)
    for row, (scene, mine) in enumerate(zip(scenes, defects, strict=True)):
        if any(CORRUPTIONS[name].kind == "temporal" for name, *_ in mine):
            continue
        for column in range(len(scene.things)):
            cells = np.floor((scene.on_screen(times, column) + 0.5) * 16).astype(int)
            inside = ((cells >= 0) & (cells < 16)).all(1)
            found[row, :, column] = torch.from_numpy(np.where(inside, cells[:, 1] * 16 + cells[:, 0], UNASKED))
    return found
