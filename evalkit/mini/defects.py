"""Training of the defect reader, on a processor in minutes: statistics of damaged clips once, then a small network."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.data.defect_reader import DefectReader
from evalkit.data.defect_statistics import defect_statistics
from evalkit.data.oracle import ORACLE_CLIP
from evalkit.data.scene import FPS, SPLITS, make_scene
from evalkit.data.synthetic import WORLD_FILE
from evalkit.data.video import VideoError, read_clips
from evalkit.data.video_writer import write_video
from evalkit.memory import keep_freed_memory
from evalkit.mini.stream import DEFECTS, Defects, damaged_frames, severities_of
from evalkit.mini.weights import save_weights
from evalkit.workers import map_in_processes

CLEAN = 0.35  # share of clips without a defect; of the others a third has two
SEVERITY = (0.3, 0.28, 0.2, 0.13, 0.09)  # shares of 1 to 5: what is hard to see is what has to be learnt
# Shares of clips read back from video files, of the usual quality and of that of `evalkit world render`: a codec is no
# defect, and hides the finest traces.
RECORDED = {"usual": 0.25, "world": 0.25}
SETTINGS: dict[str, dict[str, Any]] = {"usual": {}, "world": WORLD_FILE}
CHUNK = 32  # clips a task
CLIPS = 46_000  # for the shipped weights: 6 minutes on two cores
EPOCHS, BATCH, RATE, DECAY = 24, 256, 1e-3, 0.02

Task = tuple[list[int], list[Defects], str]  # seeds of scenes, the defects of each, how recorded: of SETTINGS, or ""


def train_defects(out: Path, clips: int, workers: int, seed: int) -> Iterator[dict[str, Any]]:
    """Train a reader on `clips` scenes of the training split and write it to `out`, a safetensors file.

    Yields {"clips"} while statistics are gathered, then {"epoch", "loss"} after every epoch.
    """
    tasks, parts = draw_tasks(clips, seed), []
    for part in map_in_processes(statistics_of, tasks, workers, _crashed):
        parts.append(part)
        yield {"clips": len(parts) * CHUNK}
    statistics = torch.from_numpy(np.concatenate(parts))
    severities = torch.cat([severities_of(defects) for _, defects, _ in tasks])
    reader = DefectReader(len(DEFECTS))
    yield from fit(reader, statistics, severities, seed)
    save_weights(reader, out)


def draw_tasks(clips: int, seed: int) -> list[Task]:
    """Scenes of the training split and each one's defects, in chunks; a whole number of chunks, at least one."""
    rng = np.random.default_rng([seed, 27])
    scenes = SPLITS["train"] + rng.choice(10**6, max(1, clips // CHUNK) * CHUNK, replace=False)
    ways = [*RECORDED, ""]
    shares = [*RECORDED.values(), 1 - sum(RECORDED.values())]
    return [(chunk.tolist(), [_draw_defects(rng) for _ in chunk], ways[int(rng.choice(len(ways), p=shares))])
            for chunk in scenes.reshape(-1, CHUNK)]


def _draw_defects(rng: np.random.Generator) -> Defects:
    if rng.random() < CLEAN:
        return []
    names = rng.choice(len(DEFECTS), 2 if rng.random() < 1 / 3 else 1, replace=False)
    return [(DEFECTS[name], 1 + int(rng.choice(5, p=SEVERITY)), int(rng.integers(2**31))) for name in names]


def statistics_of(task: Task) -> np.ndarray:
    """(clips, K) float32."""
    keep_freed_memory()
    seeds, defects, way = task
    frames = damaged_frames([make_scene(seed) for seed in seeds], defects)
    frames = recorded(frames, **SETTINGS[way]) if way else frames.float() / 255
    return torch.cat([defect_statistics(part) for part in frames.split(16)]).numpy()


def recorded(frames: Tensor, **settings: Any) -> Tensor:
    """Float in [0, 1] of uint8 (B, 16, 3, 64, 64) as read back from H.264 files; settings: of `write_video`."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in frames:
            path = write_video(Path(folder) / "clip.mp4", clip, FPS, **settings)
            clips = read_clips(str(path), [ORACLE_CLIP], fps=None)[ORACLE_CLIP]
            if isinstance(clips, VideoError):
                raise clips
            found.append(clips[0].frames)
    stacked = torch.stack(found)
    return stacked if stacked.is_floating_point() else stacked.float() / 255


def _crashed(task: Task) -> np.ndarray:
    raise RuntimeError(f"measuring the scenes from seed {task[0][0]} on ended its process")


def fit(reader: DefectReader, statistics: Tensor, severities: Tensor, seed: int) -> Iterator[dict[str, Any]]:
    """Train on (N, K) statistics and (N, defects) severities / 5, 0 where absent; leaves the reader in eval mode."""
    torch.manual_seed(seed)
    reader.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    reader.standardise(statistics)
    steps = len(statistics) // BATCH + 1
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * RATE, EPOCHS * steps)
    reader.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(statistics)).tensor_split(steps):
            loss = reader_loss(reader.read(statistics[rows]), severities[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / steps
        yield {"epoch": epoch + 1, "loss": total}
    reader.eval()


def reader_loss(answers: dict[str, Tensor], severities: Tensor) -> Tensor:
    """Cross-entropy of presence, and the squared error of the severity of what is present."""
    present = (severities > 0).float()
    there = F.binary_cross_entropy_with_logits(answers["defects"], present)
    error = (answers["severity"] - severities).square() * present
    return 10 * there + error.sum() / present.sum().clamp_min(1)
