"""Clips with dialled artifacts, measured for the learned detector: the made-up world and real footage."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.data.datasets import VideoItem
from evalkit.data.scene import FPS, SECONDS, SIZE, make_scene
from evalkit.data.synthetic import render_scene
from evalkit.data.video import VideoError, read_clips
from evalkit.features.preprocess import to_square
from rewards.artifact_features import artifact_statistics, windows
from rewards.injectors import CELLS, HELD_OUT, INJECTORS, LABELS, NEUTRAL, VISIBLE, inject, label_of
from rewards.preference_clips import cached_map
from rewards.preference_features import FRAMES

Arrays = dict[str, np.ndarray]
Defects = list[tuple[str, int, int]]  # of one clip: name, severity, seed
Progress = Callable[[str, int, int], None]
CHUNK = 16  # clips of the world a task
SPEC = ClipSpec(max_frames=96, min_frames=FRAMES, size=128)  # of real videos; injected at this size, then brought to 64
SHARES = {  # of clips with 0, 1, 2 defects
    "train": (0.2, 0.65, 0.15), "one": (0.2, 0.8, 0.0), "two": (0.2, 0.0, 0.8)}
SHORT = 0.08  # of windows have 8 to 15 frames, read as the detector reads them
NEITHER = 0.12  # of the defects are neutral, the others of the four labels alike
# Of the world: frames a second, size, share.
FORMATS = ((8.0, 64, 0.5), (12.0, 64, 0.15), (16.0, 64, 0.15), (8.0, 96, 0.1), (8.0, (72, 128), 0.1))


@dataclass(frozen=True)
class Examples:
    """statistics (N, K) of clips; severities (N, 4) / 5 of their visible defects by LABELS; sources (N,), for splits.

    names (N,): the defects of each, joined by "+".
    """

    statistics: Tensor
    severities: Tensor
    sources: np.ndarray
    names: np.ndarray

    @property
    def labels(self) -> Tensor:
        """(N, 4) of zeros and ones."""
        return (self.severities > 0).float()

    def __getitem__(self, rows: np.ndarray) -> Examples:
        return Examples(self.statistics[rows], self.severities[rows], self.sources[rows], self.names[rows])


def joined(parts: Sequence[Examples]) -> Examples:
    """All of them, one after another."""
    return Examples(torch.cat([part.statistics for part in parts]), torch.cat([part.severities for part in parts]),
                    np.concatenate([part.sources for part in parts]), np.concatenate([part.names for part in parts]))


def draw_defects(rng: np.random.Generator, number: str = "train") -> Defects:
    """None to two trained defects after SHARES: a label first, all alike, as some have few injectors."""
    count = int(rng.choice(3, p=SHARES[number]))
    groups = [*INJECTORS.values(), NEUTRAL]
    shares = [(1 - NEITHER) / len(LABELS)] * len(LABELS) + [NEITHER]
    chosen = rng.choice(len(groups), count, replace=False, p=shares)
    return [_dialled(rng, str(rng.choice(groups[k]))) for k in chosen]


def _dialled(rng: np.random.Generator, name: str) -> tuple[str, int, int]:
    return name, int(rng.integers(1, 6)), int(rng.integers(2**31))


def damaged(frames: Tensor, defects: Defects, fps: float, window: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """The `window` of uint8 (T, 3, H, W) with the defects, in order, and (4,) severities / 5 of those it shows.

    A defect that changes the window less than VISIBLE (a freeze of what stands still) is none.
    """
    severities = torch.zeros(len(LABELS))
    for name, severity, seed in defects:
        worse = inject(frames, name, severity, seed=seed, fps=fps)
        label = label_of(name)
        if label and change(frames[window], worse[window]) >= VISIBLE:
            k = LABELS.index(label)
            severities[k] = max(float(severities[k]), severity / 5)
        frames = worse
    return frames[window], severities


def change(frames: Tensor, others: Tensor) -> float:
    """Mean change in code values of the most changed cell, an eighth of the short side, in the most changed frame."""
    apart = (frames.float() - others.float()).abs().mean(1, keepdim=True)
    return F.avg_pool2d(apart, max(1, min(frames.shape[-2:]) // CELLS)).max().item()


@torch.no_grad()
def measured(clips: Sequence[tuple[Tensor, Tensor, str, str]]) -> Arrays:
    """Of (16 frames, severities, source, names) a clip: the arrays of `Examples`."""
    frames, severities, sources, names = zip(*clips, strict=True)
    pictures = torch.stack([to_square(clip.float() / 255, SIZE) for clip in frames])
    statistics = torch.cat([artifact_statistics(part) for part in pictures.split(4)])  # what fits the processor's cache
    return {"statistics": statistics.numpy(), "severities": torch.stack(severities).numpy(),
            "sources": np.array(sources, dtype="U120"), "names": np.array(names, dtype="U80")}


def _examples(found: Arrays) -> Examples:
    return Examples(torch.from_numpy(found["statistics"]), torch.from_numpy(found["severities"]), found["sources"],
                    found["names"])


def named(defects: Defects) -> str:
    return "+".join(name for name, *_ in defects)


def world_to_train(folder: Path, first: int, count: int, seed: int, workers: int,
                   progress: Progress = lambda *_: None) -> Examples:
    """`count` scenes from seed `first` on, in several formats, a random window of each with none to two defects."""
    def measure(seeds: Sequence[int]) -> Arrays:
        return measured([_world_window(scene, np.random.default_rng([seed, 41, scene])) for scene in seeds])

    return _examples(cached_map(folder, "world", _chunks(range(first, first + count)), measure, workers,
                                {"first": first, "count": count, "seed": seed} | _recipe(), progress))


def _world_window(scene: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, str, str]:
    fps, size, _ = FORMATS[int(rng.choice(len(FORMATS), p=[share for *_, share in FORMATS]))]
    frames = render_scene(make_scene(scene), round(SECONDS * fps), fps, size)
    return _window(frames, fps, f"world/{scene}", rng)


def _window(frames: Tensor, fps: float, source: str, rng: np.random.Generator) -> tuple[Tensor, Tensor, str, str]:
    """16 of T >= 16 frames from a random start on, sometimes fewer; the defects are those of the whole clip."""
    length = int(rng.integers(8, FRAMES)) if rng.random() < SHORT else FRAMES
    start = int(rng.integers(len(frames) - length + 1))
    defects = draw_defects(rng)
    window, severities = damaged(frames, defects, fps, slice(start, start + length))
    return windows(window[None])[0, 0], severities, source, named(defects)


def real_to_train(folder: Path, videos: Sequence[VideoItem], draws: int, seed: int, workers: int,
                  progress: Progress = lambda *_: None) -> Examples:
    """`draws` windows of every video, of every first to third frame, with none to two defects each.

    Raises ValueError naming a video that cannot be read.
    """
    def measure(item: VideoItem) -> Arrays:
        frames, fps = read_real(item)
        rng = np.random.default_rng([seed, 42, crc32(item.name.encode())])
        return measured([_real_window(frames, fps, scene_of(item), rng) for _ in range(draws)])

    return _examples(cached_map(folder, "real", videos, measure, workers,
                                {"videos": [item.name for item in videos], "draws": draws, "seed": seed} | _recipe(),
                                progress))


def _real_window(frames: Tensor, fps: float, source: str,
                 rng: np.random.Generator) -> tuple[Tensor, Tensor, str, str]:
    stride = int(rng.integers(1, min(3, len(frames) // FRAMES) + 1))
    frames = frames[int(rng.integers(stride))::stride]
    length = min(len(frames), int(rng.integers(FRAMES, 2 * FRAMES)))
    start = int(rng.integers(len(frames) - length + 1))
    frames = frames[start:start + length]
    if min(frames.shape[-2:]) > SIZE and rng.random() < 0.5:  # footage differs in how sharp it is at 64 pixels
        side = int(rng.integers(SIZE, min(frames.shape[-2:]) + 1))
        top, left = (int(rng.integers(n - side + 1)) for n in frames.shape[-2:])
        frames = frames[..., top:top + side, left:left + side]
    return _window(frames, fps / stride, source, rng)


def read_real(item: VideoItem) -> tuple[Tensor, float]:
    """uint8 (T, 3, H, W) of SPEC, and the frame rate; ValueError naming the video where it cannot be read."""
    try:
        found = read_clips(item.source, [SPEC], fps=item.fps)[SPEC]
        if isinstance(found, VideoError):
            raise found
    except VideoError as error:
        raise ValueError(f"{item.name}: {error}") from error
    return found[0].frames, found[0].fps


def scene_of(item: VideoItem) -> str:
    """What clips share that are not independent: of UCF-101 its group, else the video's name."""
    found = re.fullmatch(r"(v_\w+_g\d+)_c\d+", Path(item.name).stem)
    return found[1] if found else item.name


def world_to_judge(folder: Path, first: int, count: int, what: str, draws: int, workers: int,
                   progress: Progress = lambda *_: None) -> Examples:
    """`count` scenes from seed `first` on in the world's own format, `draws` times each: see `judged`."""
    def measure(seeds: Sequence[int]) -> Arrays:
        return measured([one for scene in seeds for one in judged(render_scene(make_scene(scene)), FPS,
                                                                  f"world/{scene}", f"world/{scene}", what,
                                                                  draws)])

    return _examples(cached_map(folder, f"world-{what}", _chunks(range(first, first + count)), measure, workers,
                                {"first": first, "count": count, "draws": draws} | _recipe(), progress))


def real_to_judge(folder: Path, videos: Sequence[VideoItem], what: str, draws: int, workers: int,
                  progress: Progress = lambda *_: None) -> Examples:
    """The middle 16 frames of every video, `draws` times each: see `judged`. ValueError as `real_to_train`."""
    def measure(item: VideoItem) -> Arrays:
        frames, fps = read_real(item)
        start = (len(frames) - FRAMES) // 2
        return measured(judged(frames[start:start + FRAMES], fps, item.name, scene_of(item), what, draws))

    return _examples(cached_map(folder, f"real-{what}", videos, measure, workers,
                                {"videos": [item.name for item in videos], "draws": draws} | _recipe(), progress))


def judged(frames: Tensor, fps: float, name: str, scene: str, what: str,
           draws: int) -> list[tuple[Tensor, Tensor, str, str]]:
    """A clip `draws` times with what is drawn from its name alone, so that every detector is asked the same.

    what: "one" trained defect in four of five, "two" of them, or the name of a single injector.
    """
    rng = np.random.default_rng([crc32(name.encode()), crc32(what.encode())])
    found = []
    for _ in range(draws):
        defects = draw_defects(rng, what) if what in SHARES else [_dialled(rng, what)]
        found.append((*damaged(frames, defects, fps), scene, named(defects)))
    return found


def _chunks(seeds: range) -> list[range]:
    return [seeds[start:start + CHUNK] for start in range(0, len(seeds), CHUNK)]


def _recipe() -> dict[str, Any]:
    """What the arrays depend on besides their numbers."""
    return {"version": 1, "injectors": {label: list(names) for label, names in INJECTORS.items()},
            "neutral": list(NEUTRAL), "held_out": HELD_OUT, "visible": VISIBLE, "shares": SHARES, "formats": FORMATS,
            "short": SHORT, "neither": NEITHER, "spec": SPEC.protocol()}
