"""What a preference is trained on: clips of pairs and clips with dialled defects, measured once and kept on disk."""
from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.data.corruptions import available_corruptions
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.truth import Preference, make_preference
from evalkit.data.video import VideoError, read_clips
from evalkit.features.base import extract, make_extractor
from evalkit.memory import keep_freed_memory
from evalkit.mini.stream import Defects, damaged_frames, severities_of
from evalkit.results import write_atomic
from evalkit.workers import map_in_processes
from rewards.data import Pair
from rewards.preference_features import clip_statistics

Task = TypeVar("Task")
Arrays = dict[str, np.ndarray]
Progress = Callable[[str, int, int], None]
CHUNK = 16  # clips, pairs or prompts a task: what a killed run loses at most, for each process
DIMENSIONS = ("visual", "motion", "text", "overall")
LABELS = {"a": 1, "b": -1, "tie": 0}
SYNTHETIC_FIRST = 500_000  # of the training split: worlds of pairs are drawn from its beginning


@dataclass(kw_only=True)
class Labelled:
    """Pairs and what is said of them.

    rows (N, 3): the clips a and b and the prompt of each pair; labels (N, 4): what is said of DIMENSIONS, 1 a, -1 b,
    0 tie, NaN nothing. `pairs` names them, for splits.
    """

    rows: Tensor
    labels: Tensor
    pairs: list[Pair]
    failures: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Examples(Labelled):
    """Pairs as the embedded network reads them: statistics (C, K), clips (C, 256), prompts (P, 256)."""

    statistics: Tensor
    clips: Tensor
    prompts: Tensor


@dataclass(kw_only=True)
class Clips(Labelled):
    """Pairs as frames on disk: a file of "frames", uint8 (T, 3, H, W), for each clip, and the prompts."""

    files: list[Path]
    prompts: list[str]

    def frames(self, clip: int) -> Tensor:
        """(T, 3, H, W) in [0, 1]."""
        with np.load(self.files[clip], allow_pickle=False) as held:
            return torch.from_numpy(held["frames"][0]).float() / 255


def cached_map(folder: Path, name: str, tasks: Sequence[Task], function: Callable[[Task], Arrays], workers: int,
               what: Mapping[str, Any], progress: Progress = lambda *_: None) -> Arrays:
    """The arrays of `function(task)` for all tasks, row under row; kept as `cached_files` does."""
    parts = []
    for place in cached_files(folder, name, tasks, function, workers, what, progress):
        with np.load(place, allow_pickle=False) as part:
            parts.append(dict(part))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def cached_files(folder: Path, name: str, tasks: Sequence[Task], function: Callable[[Task], Arrays], workers: int,
                 what: Mapping[str, Any], progress: Progress = lambda *_: None) -> list[Path]:
    """A file of the arrays of `function(task)` for each task, kept in `folder`, so that a killed run goes on.

    what: JSON-ready, all that the arrays depend on besides the tasks' numbers; where it differs from what lies in
    `folder`, that is measured again. The first error of a task is raised as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description, label = folder / f"{name}.json", json.dumps(dict(what), sort_keys=True)
    if not description.is_file() or description.read_text() != label:
        for stale in folder.glob(f"{name}-*.npz"):
            stale.unlink()
        write_atomic(description, label.encode())
    places = [folder / f"{name}-{k:05}.npz" for k in range(len(tasks))]
    missing = [k for k, place in enumerate(places) if not place.is_file()]

    def crashed(k: int) -> Arrays:
        raise RuntimeError(f"{name}: measuring chunk {k} ended its process")

    def work(k: int) -> Arrays:
        keep_freed_memory()
        return function(tasks[k])

    done = len(tasks) - len(missing)
    for k, arrays in zip(missing, map_in_processes(work, missing, workers, crashed), strict=True):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomic(places[k], buffer.getvalue())
        progress(name, done := done + 1, len(tasks))
    return places


def _chunks(items: Sequence[Task]) -> list[Sequence[Task]]:
    return [items[start:start + CHUNK] for start in range(0, len(items), CHUNK)]


@torch.no_grad()
def _measured(frames: Tensor) -> Arrays:
    """Of uint8 (B, 16, 3, 64, 64)."""
    pictures = frames.float() / 255
    return {"statistics": _statistics(pictures), "clips": extract(make_extractor("mini_clip"), pictures).numpy()}


def _statistics(pictures: Tensor) -> np.ndarray:
    return torch.cat([clip_statistics(part) for part in pictures.split(4)]).numpy()  # what fits the cache


def world_examples(folder: Path, first: int, count: int, noise: float, workers: int,
                   progress: Progress = lambda *_: None) -> Examples:
    """The pairs of `count` seeds from `first` on, labelled by an annotator who errs with probability `noise`.

    The clips do not depend on the noise: one folder serves all. ValueError as `make_preference`.
    """
    def measure(seeds: Sequence[int]) -> Arrays:
        pairs = [make_preference(seed) for seed in seeds]
        frames = torch.stack([version.frames() for pair in pairs for version in (pair.a, pair.b)])
        prompts = make_extractor("mini_clip").encode_text([pair.prompt for pair in pairs])
        found = _measured(frames)
        return {key: rows.reshape(len(pairs), 2, -1) for key, rows in found.items()} | {"prompts": prompts.numpy()}

    pairs = [make_preference(seed, noise=noise) for seed in range(first, first + count)]
    found = cached_map(folder, "pairs", _chunks(range(first, first + count)), measure, workers,
                       {"first": first, "count": count} | _backbone(), progress)
    return Examples(statistics=torch.from_numpy(found["statistics"]).flatten(0, 1),
                    clips=torch.from_numpy(found["clips"]).flatten(0, 1), prompts=torch.from_numpy(found["prompts"]),
                    **_of_world(pairs, first))


def world_clips(folder: Path, first: int, count: int, noise: float, workers: int,
                progress: Progress = lambda *_: None) -> Clips:
    """The same pairs as frames."""
    def render(version: tuple[int, str]) -> Arrays:
        return {"frames": getattr(make_preference(version[0]), version[1]).frames().numpy()[None]}

    pairs = [make_preference(seed, noise=noise) for seed in range(first, first + count)]
    versions = [(seed, side) for seed in range(first, first + count) for side in "ab"]
    files = cached_files(folder, "frames", versions, render, workers, {"first": first, "count": count}, progress)
    return Clips(files=files, prompts=[pair.prompt for pair in pairs], **_of_world(pairs, first))


def _of_world(pairs: Sequence[Preference], first: int) -> dict[str, Any]:
    rows = torch.arange(len(pairs))
    labels = [[LABELS[pair.observed[name]] for name in DIMENSIONS] for pair in pairs]
    return {"rows": torch.stack([2 * rows, 2 * rows + 1, rows], 1),
            "labels": torch.tensor(labels, dtype=torch.float32).reshape(-1, 4),
            "pairs": [Pair(f"world/{first + k}/a", f"world/{first + k}/b", pair.prompt)
                      for k, pair in enumerate(pairs)]}


def file_examples(folder: Path, pairs: Sequence[Pair], spec: ClipSpec, workers: int,
                  progress: Progress = lambda *_: None) -> Examples:
    """Pairs of videos on disk: `spec` says which frames are read. Pairs whose video fails are told in `failures`.

    ValueError where a prompt is outside the language of the embedded backbone.
    """
    videos, prompts = _named(pairs)

    def measure(paths: Sequence[str]) -> Arrays:
        read, errors = zip(*map(lambda path: _frames_of(path, spec), paths), strict=True)
        return _measured(torch.stack(read)) | {"errors": np.array(errors, dtype="U300")}

    def encode(texts: Sequence[str]) -> Arrays:
        return {"prompts": make_extractor("mini_clip").encode_text(texts).numpy()}

    told = cached_map(folder, "prompts", _chunks(prompts), encode, 1, {"prompts": prompts} | _backbone())
    found = cached_map(folder, "videos", _chunks(videos), measure, workers,
                       {"videos": _stamps(videos), "spec": spec.protocol()} | _backbone(), progress)
    errors = dict(zip(videos, found["errors"].tolist(), strict=True))
    statistics, clips, texts = map(torch.from_numpy, (found["statistics"], found["clips"], told["prompts"]))
    return Examples(statistics=statistics, clips=clips, prompts=texts, **_of_files(pairs, errors, prompts))


def file_clips(folder: Path, pairs: Sequence[Pair], spec: ClipSpec, workers: int,
               progress: Progress = lambda *_: None) -> Clips:
    """The same pairs as the frames that `spec` reads, each clip at its own size."""
    videos, prompts = _named(pairs)

    def read(path: str) -> Arrays:
        frames, error = _frames_of(path, spec)
        return {"frames": frames.numpy()[None], "errors": np.array([error], dtype="U300")}

    files = cached_files(folder, "frames", videos, read, workers, {"videos": _stamps(videos), "spec": spec.protocol()},
                         progress)
    errors = {}
    for video, file in zip(videos, files, strict=True):
        with np.load(file, allow_pickle=False) as held:
            errors[video] = str(held["errors"][0])
    return Clips(files=files, prompts=prompts, **_of_files(pairs, errors, prompts))


def _named(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Videos and prompts, each once."""
    return (list(dict.fromkeys(video for pair in pairs for video in (pair.chosen, pair.rejected))),
            list(dict.fromkeys(pair.prompt for pair in pairs)))


def _stamps(videos: Sequence[str]) -> list[tuple[str, int, int]]:
    return [(video, Path(video).stat().st_size, Path(video).stat().st_mtime_ns) for video in videos]


def _of_files(pairs: Sequence[Pair], errors: Mapping[str, str], prompts: Sequence[str]) -> dict[str, Any]:
    """Rows and labels of the pairs whose videos could be read; `errors` holds every video."""
    good = [pair for pair in pairs if not errors[pair.chosen] and not errors[pair.rejected]]
    at, spoken = ({name: k for k, name in enumerate(names)} for names in (errors, prompts))
    labels = torch.full((len(good), 4), torch.nan)
    for row, pair in enumerate(good):
        labels[row, DIMENSIONS.index(pair.dimension)] = 0 if pair.tie else 1
    rows = torch.tensor([[at[pair.chosen], at[pair.rejected], spoken[pair.prompt]] for pair in good], dtype=torch.long)
    return {"rows": rows.reshape(-1, 3), "labels": labels, "pairs": good,
            "failures": [f"{video}: {why}" for video, why in errors.items() if why]}


def _frames_of(path: str, spec: ClipSpec) -> tuple[Tensor, str]:
    """uint8 (16, 3, 64, 64), black where it failed, and why it did."""
    try:
        clip = read_clips(path, [spec], fps=None)[spec]
        if isinstance(clip, VideoError):
            raise clip
    except VideoError as error:
        return torch.zeros(16, 3, 64, 64, dtype=torch.uint8), str(error)[:300] or "cannot be read"
    frames = clip[0].frames
    return frames if frames.dtype == torch.uint8 else (frames * 255).round().to(torch.uint8), ""


def synthetic_defects(folder: Path, count: int, seed: int, workers: int,
                      progress: Progress = lambda *_: None) -> tuple[Tensor, Tensor]:
    """Statistics (N, K) of scenes with none to two dialled defects, and (N, defects) severities / 5.

    No rater is asked: what was done to a clip is known. N is `count` rounded up to whole chunks.
    """
    if not count:
        width = clip_statistics(torch.zeros(1, 16, 3, 64, 64)).shape[1]
        return torch.empty(0, width), torch.empty(0, severities_of([[]]).shape[1])
    rng = np.random.default_rng([seed, 31])
    count = -(-count // CHUNK) * CHUNK
    seeds = SPLITS["train"] + SYNTHETIC_FIRST + rng.choice(400_000, count, replace=False)
    drawn = [_draw_defects(rng) for _ in seeds]

    @torch.no_grad()
    def measure(rows: Sequence[int]) -> Arrays:
        frames = damaged_frames([make_scene(int(seeds[k])) for k in rows], [drawn[k] for k in rows])
        return {"statistics": _statistics(frames.float() / 255)}

    found = cached_map(folder, "synthetic", _chunks(range(count)), measure, workers,
                       {"count": count, "seed": seed} | _backbone(), progress)
    return torch.from_numpy(found["statistics"]), severities_of(drawn)


def _draw_defects(rng: np.random.Generator) -> Defects:
    names = available_corruptions()
    number = int(rng.choice(3, p=(0.15, 0.45, 0.4)))
    return [(names[k], int(rng.integers(1, 6)), int(rng.integers(2**31)))
            for k in rng.choice(len(names), number, replace=False)]


def _backbone() -> dict[str, Any]:
    return {"features": 1, "mini_clip": make_extractor("mini_clip").weights_sha256}


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of one epoch in batches of about `size`, none of which is tiny."""
    yield from torch.randperm(count, generator=generator).tensor_split(max(1, round(count / size)))
