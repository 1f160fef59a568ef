"""An endless stream of labelled clips of the world, drawn, rendered and damaged in worker processes."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from evalkit.data.captions import claims
from evalkit.data.corruptions import CORRUPTIONS, available_corruptions, corrupt
from evalkit.data.rendering import Packed, pack, render
from evalkit.data.scene import FPS, NUM_FRAMES, SIZE, SPLITS, Scene, make_scene
from evalkit.features.preprocess import to_square
from evalkit.memory import keep_freed_memory
from evalkit.mini.classes import CLASSES, THINGS
from evalkit.workers import map_in_processes

DEFECTS = tuple(available_corruptions())
OTHER_SIZES = (32, 48, 96)


Defects = list[tuple[str, int, int]]  # of one clip: name, severity, seed
Targets = Callable[[list[Scene], list[Defects]], dict[str, Tensor]]


@dataclass(frozen=True)
class Batch:
    """frames uint8 (B, 16, 3, H, W), and what each network is to say of them."""

    frames: Tensor
    targets: list[dict[str, Tensor]]

    def floats(self, device: str) -> Tensor:
        """(B, 16, 3, 64, 64) in [0, 1]."""
        return to_square(self.frames.to(device, non_blocking=True).float() / 255, SIZE)


class WorldStream(IterableDataset):
    """Batches of `batch_size` clips, without end: clips of the pools, each time with other defects.

    pools: rendered scenes by size (see `render_pool`). targets: one function (scenes, defects) -> what is to be learnt,
    per network. clean: the share of clips without a defect; of the others a third has two.
    """

    def __init__(self, pools: Sequence[Pool], targets: Sequence[Targets], batch_size: int, seed: int,
                 clean: float) -> None:
        self.pools, self.targets, self.batch_size, self.seed, self.clean = pools, targets, batch_size, seed, clean

    def __iter__(self) -> Iterator[Batch]:
        keep_freed_memory()
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        sizes = np.array([len(pool.seeds) for pool in self.pools])
        while True:
            yield self._batch(self.pools[int(rng.choice(len(sizes), p=sizes / sizes.sum()))], rng)

    def _batch(self, pool: Pool, rng: np.random.Generator) -> Batch:
        rows = rng.integers(len(pool.seeds), size=self.batch_size)
        scenes = [make_scene(int(pool.seeds[row])) for row in rows]
        defects = [self._defects(rng) for _ in scenes]
        frames = torch.from_numpy(pool.frames[rows])
        return Batch(damaged(frames, defects), [targets(scenes, defects) for targets in self.targets])

    def _defects(self, rng: np.random.Generator) -> Defects:
        if rng.random() < self.clean:
            return []
        names = rng.choice(len(DEFECTS), 2 if rng.random() < 1 / 3 else 1, replace=False)
        return [(DEFECTS[name], int(rng.integers(1, 6)), int(rng.integers(2**31))) for name in names]


@dataclass(frozen=True)
class Pool:
    """Clean clips of one size, uint8 (N, 16, 3, H, W), and the seeds of their scenes (N,)."""

    seeds: np.ndarray
    frames: np.ndarray


def render_pools(count: int, seed: int, device: str, workers: int) -> list[Pool]:
    """`count` scenes of the training split in the world's format, and a twentieth as many at each other size.

    Scenes are drawn in processes and rendered on the device: drawing all of them anew for every batch is what would
    take the time.
    """
    rng = np.random.default_rng([seed, 1])
    pools = []
    for size, n in ((SIZE, count), *((other, count // 20) for other in OTHER_SIZES)):
        seeds = SPLITS["train"] + rng.choice(10**6, n, replace=False)
        frames = np.empty((n, NUM_FRAMES, 3, size, size), np.uint8)
        chunks = [seeds[start:start + 256] for start in range(0, n, 256)]
        start = 0
        for packed in map_in_processes(_pack, chunks, workers, _crashed):
            part = render(packed.to(device), size, size)
            frames[start:start + len(part)] = part.cpu().numpy()
            start += len(part)
        pools.append(Pool(seeds, frames))
    return pools


def _pack(seeds: np.ndarray) -> Packed:
    return pack([make_scene(int(seed)) for seed in seeds], np.arange(NUM_FRAMES) / FPS)


def _crashed(seeds: np.ndarray) -> Packed:
    raise RuntimeError(f"drawing the scenes from seed {seeds[0]} on ended its process")


def load_batches(stream: WorldStream, workers: int) -> Iterator[Batch]:
    """The stream's batches, made ahead in `workers` processes (0: here)."""
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))


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


def others_of(scenes: list[Scene]) -> Tensor:
    """(B, things) 1.0 for every thing that a scene holds beside its subject."""
    found = torch.zeros(len(scenes), len(THINGS))
    for row, scene in enumerate(scenes):
        for thing in scene.things[1:]:
            found[row, THINGS.index(f"{thing.colour} {thing.shape}")] = 1
    return found


def places_of(scenes: list[Scene], defects: list[Defects]) -> Tensor:
    """(B, 16) cell of a 16 x 16 grid that holds the subject's centre.

    -100 where that is outside the picture, and where a temporal defect has moved the frames.
    """
    times = np.arange(NUM_FRAMES) / FPS
    cells = np.floor((np.stack([scene.on_screen(times) for scene in scenes]) + 0.5) * 16).astype(int)
    found = torch.from_numpy(cells[..., 1] * 16 + cells[..., 0])
    moved = torch.tensor([any(CORRUPTIONS[name].kind == "temporal" for name, *_ in mine) for mine in defects])
    outside = torch.from_numpy(((cells < 0) | (cells > 15)).any(-1))
    return found.masked_fill(outside | moved[:, None], -100)
