"""The clips of benchmarks/ucf101.py: packed into one file, unpacked where there is no PyAV, and damaged to compare."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.data import captioned
from baselines.presets import find_preset
from baselines.reading import of_one_video, read_views
from baselines.views import COMBINATIONS, viewed
from evalkit.data.corruptions import corrupt
from evalkit.results import write_atomic
from evalkit.workers import available_cores, map_in_threads

FRAMES, SIDE, FPS, QUALITY = 17, 64, 8.0, 86  # of clips; QUALITY: of WebP, about 39 dB
VIEWS = {"mirrored": True, "changes": True}  # of each clip that is trained on


def pack(root: Path, limit: int) -> Iterator[dict[str, Any]]:
    """Each video of both parts at 8 frames a second, as one tall WebP picture; `limit` videos a class, 0: all."""
    from PIL import Image

    from evalkit.clips import ClipSpec
    from evalkit.data.datasets import find_videos
    from evalkit.data.video import read_video

    for part in ("train", "test"):
        counts: Counter[str] = Counter()
        for item in find_videos(f"ucf101:{root}?split=1&part={part}"):
            counts[item.prompt] += 1
            if limit and counts[item.prompt] > limit:
                continue
            video = read_video(item.source, ClipSpec(size=None))
            every = np.round(np.arange(0, len(video.frames), video.fps / FPS)).astype(int)
            every = every[every < len(video.frames)]
            if len(every) < FRAMES:
                every = np.linspace(0, len(video.frames) - 1, FRAMES).round().astype(int)
            stream = BytesIO()
            tall = video.frames[torch.from_numpy(every)].permute(0, 2, 3, 1).flatten(0, 1).numpy()
            Image.fromarray(tall).save(stream, "webp", quality=QUALITY, method=6)
            yield {"part": part, "name": Path(item.name).stem, "prompt": item.prompt, "data": stream.getvalue()}


def write_packed(root: Path, limit: int, path: Path) -> str:
    """Write what `unpack` reads; says what was written."""
    rows = list(pack(root, limit))
    stream = BytesIO()
    np.savez(stream, data=np.frombuffer(b"".join(row["data"] for row in rows), np.uint8),
             sizes=[len(row["data"]) for row in rows],
             **{key: [row[key] for row in rows] for key in ("part", "name", "prompt")})
    write_atomic(path, stream.getvalue())
    return f"{path}: {len(rows)} videos, {stream.tell() / 2**20:.1f} MiB"


def unpack(packed: Path, out: Path, places: int) -> None:
    """Clips as .npy below `out`, and tables of them: train.jsonl, once.jsonl (one of a training video), test.jsonl.

    Of a training video as many as there are places, evenly from its start to its end; of a test video the middle one.
    """
    from PIL import Image

    tables: dict[str, list[dict[str, Any]]] = {"train": [], "once": [], "test": []}
    middle = places // 2
    with np.load(packed, allow_pickle=False) as found:
        parts = np.split(found["data"], np.cumsum(found["sizes"])[:-1])
        rows = list(zip(parts, *(found[key].tolist() for key in ("part", "name", "prompt")), strict=True))

    def clips_of(row: tuple[np.ndarray, str, str, str]) -> list[tuple[int, str]]:
        data, part, name, _ = row
        frames = np.array(Image.open(BytesIO(data.tobytes())).convert("RGB"))
        frames = frames.reshape(-1, frames.shape[1], frames.shape[1], 3)
        listed = []
        for place in range(places) if part == "train" else [middle]:
            start = round(place * (len(frames) - FRAMES) / max(1, places - 1))
            path = out / part / f"{name}-{place}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, frames[start: start + FRAMES])
            listed.append((place, f"{part}/{path.name}"))
        return listed

    for (_, part, _, prompt), listed in zip(rows, map_in_threads(clips_of, rows, available_cores()), strict=True):
        for place, path in listed:
            row = {"path": path, "prompt": prompt, "fps": FPS}
            tables[part].append(row)
            if part == "train" and place == middle:
                tables["once"].append(row)
    for table, listed in tables.items():
        write_atomic(out / f"{table}.jsonl", "".join(json.dumps(row) + "\n" for row in listed).encode())


def trained_on(data: Path) -> Tensor:
    """uint8 (N, T, 3, H, W): every view of every training clip."""
    items = list(viewed(captioned(str(data / "train.jsonl")), 1, VIEWS["mirrored"],
                        COMBINATIONS if VIEWS["changes"] else ()))
    frames = torch.empty(len(items), FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)

    def read(rows: range) -> None:
        torch.set_num_threads(1)  # of each of these threads
        frames[rows.start: rows.stop] = torch.stack(read_views([items[k] for k in rows], find_preset("ucf101")))

    list(map_in_threads(read, of_one_video(items), available_cores()))
    return frames


def read_clips(data: Path, table: str) -> tuple[Tensor, list[str]]:
    """uint8 (N, T, 3, H, W) and prompts, class by class."""
    rows = sorted(map(json.loads, (data / f"{table}.jsonl").read_text().splitlines()), key=lambda row: row["prompt"])
    frames = np.stack([np.load(data / row["path"]) for row in rows]).transpose(0, 1, 4, 2, 3)
    return torch.from_numpy(frames.copy()), [row["prompt"] for row in rows]


def comparisons(data: Path, test: Sequence[str]) -> Iterator[tuple[str, Tensor, list[str]]]:
    """(name, frames, prompts) of training clips, as many of a class as `test` has, as they are and damaged; noise."""
    frames, prompts = read_clips(data, "once")
    generator = torch.Generator().manual_seed(1)
    rows = draw_like(prompts, test, generator)
    real, named = frames[rows], [prompts[k] for k in rows]
    yield "real", real, named
    yield "noise", torch.randint(256, real.shape, generator=generator, dtype=torch.uint8), named
    yield "blurred", blur(real, 2), named
    yield "frozen", real[:, :1].expand_as(real).contiguous(), named
    yield "shuffled", torch.stack([corrupt(clip, "shuffle", 5, seed=k, fps=FPS) for k, clip in enumerate(real)]), named


def blur(frames: Tensor, by: int) -> Tensor:
    """uint8 (N, T, 3, H, W), shrunk by a whole number and enlarged again."""
    small = F.avg_pool2d(frames.flatten(0, 1).float(), by)
    return F.interpolate(small, scale_factor=by, mode="bilinear").round().to(torch.uint8).unflatten(
        0, frames.shape[:2])


def draw_like(prompts: Sequence[str], test: Sequence[str], generator: torch.Generator) -> list[int]:
    """Rows at random, as many of a class as `test` has, in their order."""
    rows: list[int] = []
    for prompt, count in sorted(Counter(test).items()):
        mine = [k for k, one in enumerate(prompts) if one == prompt]
        rows += sorted(mine[k] for k in torch.randperm(len(mine), generator=generator)[:count].tolist())
    return rows
