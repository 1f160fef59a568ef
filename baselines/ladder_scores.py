"""What samples in memory are worth: evalkit's own metrics in whole batches, and the oracle's verdicts.

`evaluate` reads files one by one through PyAV; samples are on the device already, and a ladder has tens of thousands.
The metric objects are the same, and a test holds their numbers to those of `evaluate`.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.data.frame_sampling import pick_frames
from evalkit.data.video_types import Timeline, VideoError
from evalkit.devices import at_once
from evalkit.features.base import extract
from evalkit.features.weights import MissingWeights
from evalkit.metrics.base import Metric, SetMetric, make_metric
from evalkit.metrics.diversity import PromptSetMetric, mean_pairwise_distance
from evalkit.results import write_atomic

METRICS = ("fvd_mini", "clip_alignment_mini", "frame_consistency_mini", "temporal_flicker", "dynamic_degree", "farm",
           "guarded", "preference", "cinematic_composition", "artifacts", "artifact_detector", "diversity", "vendi",
           "lpips")
PARTS = {"farm": ("aesthetic", "coherence"), "preference": ("visual", "motion", "text"),
         "cinematic_composition": ("motion_smoothness",)}  # what is shown of what some are made of; higher is better
TRUTH = ("overall", "visual", "motion", "text", "follows")  # as truth.overall and so on
BATCH = {"cpu": 64, "cuda": 256}
AT_ONCE = 64  # clips or frames that a network sees on a GPU: launches would take most of the time, clip by clip
GRIDS, SHOWN = "grids", 8  # a folder; clips of every rung that are kept to be looked at


@dataclass
class Scores:
    """A set's numbers: per clip (N,) by name, features (N, D) of set metrics, and why a metric has none.

    prompts: one per clip; samples of one prompt stand side by side, in the same order in every set. What compares the
    samples of a prompt has the same number for each of them.
    """

    prompts: list[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        """One .npz."""
        buffer = BytesIO()
        np.savez_compressed(buffer, prompts=np.array(self.prompts), without=np.array(list(self.without.items())),
                            **{f"value {name}": value for name, value in self.values.items()},
                            **{f"features {name}": value for name, value in self.features.items()})
        return write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Executes nothing from the file."""
        with np.load(path, allow_pickle=False) as found:
            kinds: dict[str, dict[str, np.ndarray]] = {"value": {}, "features": {}}
            for key in found.files:
                kind, _, name = key.partition(" ")
                if name:
                    kinds[kind][name] = found[key]
            return cls(found["prompts"].tolist(), kinds["value"], kinds["features"],
                       {name: why for name, why in found["without"].reshape(-1, 2).tolist()})


def keep_grid(out: Path, name: str, frames: Tensor, prompts: Sequence[str], fps: float) -> Path:
    """One clip of each of the first prompts, of uint8 (N, T, 3, H, W), in `out`/grids/NAME.npz."""
    rows = [k for k, prompt in enumerate(prompts) if prompt not in prompts[:k]][:SHOWN]
    buffer = BytesIO()
    np.savez_compressed(buffer, frames=frames[rows].cpu().numpy(), prompts=[prompts[k] for k in rows], fps=fps)
    return write_atomic(out / GRIDS / f"{name}.npz", buffer.getvalue())


@lru_cache(maxsize=32)
def metric_of(name: str) -> Metric:
    """The metric, made once: some load weights."""
    return make_metric(name)


@torch.no_grad()
def score_frames(frames: Tensor, prompts: Sequence[str], fps: float, device: torch.device | str,
                 metrics: Sequence[str] = METRICS) -> Scores:
    """Scores of uint8 (N, T, 3, H, W); a metric that cannot be had here is left out with its reason.

    The truth, read by the oracle, where there are 16 frames.
    """
    found, usable = Scores(list(prompts)), {}
    for name in metrics:
        why = lacking(metric := metric_of(name), frames, fps)
        if why:
            found.without[name] = why
        else:
            usable[name] = metric
    parts: dict[str, list[np.ndarray]] = {}
    size = at_once(BATCH, torch.device(device))
    for start in range(0, len(frames), size):
        here = slice(start, start + size)
        for name, value in _measured(usable, frames[here].to(device), found.prompts[here], fps):
            parts.setdefault(name, []).append(value)
    per_prompt = found.prompts.count(found.prompts[0])
    for name, rows in parts.items():
        kind = found.features if isinstance(usable.get(name), SetMetric) else found.values
        kind[name] = np.concatenate(rows)
    for name in [name for name in found.features if isinstance(usable[name], PromptSetMetric)]:
        groups = torch.from_numpy(found.features.pop(name)).unflatten(0, (-1, per_prompt))  # too large to keep
        if per_prompt < usable[name].minimum:
            found.without[name] = f"compares samples of one prompt, of which there is {per_prompt}"
        else:
            found.values[name] = _of_each([usable[name].of_prompt(rows) for rows in groups], per_prompt)
    found.values |= diversities(frames, found)
    return found


def diversities(frames: Tensor, found: Scores) -> dict[str, np.ndarray]:
    """How different the samples of a prompt are, the same number for each: in pixels, and to a small network's eye."""
    per_prompt = found.prompts.count(found.prompts[0])
    if per_prompt < 2:
        return {}
    small = torch.cat([F.adaptive_avg_pool3d(part.float().transpose(1, 2) / 255, (part.shape[1], 16, 16)).flatten(1)
                       for part in frames.split(BATCH["cpu"])]).unflatten(0, (-1, per_prompt))
    apart = [(small[:, i] - small[:, j]).abs().mean(1) for i, j in combinations(range(per_prompt), 2)]
    values = {"diversity_pixels": torch.stack(apart).mean(0).cpu().tolist()}
    if "fvd_mini" in found.features:
        groups = torch.from_numpy(found.features["fvd_mini"]).unflatten(0, (-1, per_prompt))
        values["diversity_mini"] = [mean_pairwise_distance(rows) for rows in groups]
    return {name: _of_each(value, per_prompt) for name, value in values.items()}


def _of_each(of_prompts: Sequence[float], per_prompt: int) -> np.ndarray:
    """(N,) the number of its prompt for each sample."""
    return np.repeat(np.asarray(of_prompts, dtype=np.float64), per_prompt)


def lacking(metric: Metric, frames: Tensor, fps: float) -> str | None:
    """Why the metric has no number of frames like these; None where it has."""
    if metric.needs_reference == "paired":
        return "compares each video with its own reference, and samples have none"
    try:
        metric.extractors()
        clips(metric.spec, frames[:1], fps)
    except (MissingWeights, ImportError, VideoError) as error:
        return " ".join(str(error).split())
    return None


def clips(spec: ClipSpec, frames: Tensor, fps: float) -> Tensor:
    """The frames (B, t, 3, h, w) float in [0, 1] that `spec` reads of uint8 (B, T, 3, H, W): what a decoder would give.

    VideoError where there are too few, or where sides would have to shrink by no whole number.
    """
    return _cut(frames, *_reading(spec, frames, fps))


def _reading(spec: ClipSpec, frames: Tensor, fps: float) -> tuple[tuple[int, ...], int]:
    """Which frames `spec` reads, and by how much they shrink."""
    picked = pick_frames(Timeline(frames.shape[1], fps), spec, Random(0))[0]
    return tuple(picked.indices), _shrink(spec, *frames.shape[-2:])


def _cut(frames: Tensor, indices: tuple[int, ...], shrink: int) -> Tensor:
    chosen = frames[:, torch.as_tensor(indices, device=frames.device)].float()
    if shrink > 1:
        # 8 bits, as a decoder shrinks to; it dithers halves, so about one number in thirty differs from its by 1/255
        chosen = F.avg_pool2d(chosen.flatten(0, 1), shrink).round().unflatten(0, chosen.shape[:2])
    return chosen / 255


def _shrink(spec: ClipSpec, height: int, width: int) -> int:
    short = min(height, width)
    if isinstance(spec.size, tuple):
        by = height / spec.size[0] if height * spec.size[1] == width * spec.size[0] else 0.0
    else:
        by = max(1.0, short / spec.size) if spec.size else 1.0
    cropped = spec.crop is not None and not (height == width and height / max(by, 1) <= spec.crop)
    if by < 1 or by != int(by) or cropped:
        raise VideoError(f"expected frames that whole pixels can be shrunk to {spec.size}, got {width}x{height}; "
                         "score the samples with evalkit run")
    return int(by)


def _measured(metrics: dict[str, Metric], frames: Tensor, prompts: list[str],
              fps: float) -> Iterator[tuple[str, np.ndarray]]:
    """(name, rows) of one batch on the device: of each metric, its parts, and the truth."""
    kept: dict[Any, Tensor] = {}  # by what is read: of short clips, many specs read the same
    features: dict[Any, Any] = {}
    for name, metric in metrics.items():
        read = _reading(metric.spec, frames, fps)
        if read not in kept:
            kept[read] = _cut(frames, *read)
        x = kept[read]
        for extractor in metric.extractors():
            if (read, extractor.key) not in features:
                size = AT_ONCE if x.is_cuda else 0
                features[read, extractor.key] = extract(extractor.to(x.device), x, at_once=size)
        mine = {extractor.key: features[read, extractor.key] for extractor in metric.extractors()}
        if isinstance(metric, SetMetric):
            yield name, metric.pool(mine).float().cpu().numpy()
            continue
        rate = torch.full((len(x),), float(metric.spec.fps or fps), device=x.device)
        found = metric.measure(ClipBatch(x, prompts, rate, features=mine, checked=True), None)
        yield name, found.value.double().cpu().numpy()
        for part in PARTS.get(name, ()):
            yield f"{name}.{part}", found.components[part].double().cpu().numpy()
    if frames.shape[1] == 16:
        yield from truth_of(frames, prompts)


def truth_of(frames: Tensor, prompts: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values) of (B, 16, 3, H, W) frames as the oracle reads them. ValueError as `judge`."""
    from baselines.world import judge

    verdicts = judge(frames, prompts)
    for name in TRUTH[:-1]:
        yield f"truth.{name}", np.array([one.quality[name] for one in verdicts])
    yield "truth.follows", np.array([float(one.follows) for one in verdicts])
