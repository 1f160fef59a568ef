"""One video: read once, each extractor once, every metric; what is cached is not computed again."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.cache import Cache, cache_key
from evalkit.clips import ClipBatch, ClipSpec
from evalkit.data.datasets import VideoItem
from evalkit.data.items import printable
from evalkit.data.video import Clip, VideoError, content_hash, decoder_version, read_clips
from evalkit.features.base import Extractor, extract
from evalkit.metrics.base import Metric, PerClipMetric, SetMetric


@dataclass
class VideoRow:
    """What one video gave: small, picklable, and independent of every other video."""

    index: int
    name: str
    content: str = ""  # sha256 of the video
    values: dict[str, float] = field(default_factory=dict)  # metric -> score
    components: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)  # set metric -> (clips, D) float32
    errors: dict[str, str] = field(default_factory=dict)  # metric, or "" for the whole video -> why


@dataclass(frozen=True)
class Scorer:
    """How to score one video: the same for all videos of a run, whichever process they fall to."""

    metrics: Mapping[str, Metric]
    cache: Cache
    decoder: str = "pyav"
    seed: int = 0
    device: str = "cpu"
    variant: str | None = None  # a defect of evalkit.data.corruptions put on the clips first: trivial baselines

    def read(self, index: int, item: VideoItem, paired: VideoItem | None = None) -> _Loaded:
        """The row with what the cache holds, and the clips that the rest needs. Touches no network and no GPU."""
        loaded = _Loaded(VideoRow(index, item.name), item)
        try:
            loaded.row.content = content_hash(item.source)
            partner = self._hash_of_partner(paired)
            for name, metric in self.metrics.items():
                key = self._score_key(metric, loaded.row.content, item, partner)
                if not (isinstance(metric, PerClipMetric) and _fill(loaded.row, name, self.cache.load_json(key))):
                    loaded.missing[name] = key
            self._recall_features(loaded)
            specs = self._specs_to_decode(loaded)
            if specs:
                loaded.clips = read_clips(item.source, specs, fps=item.fps, seed=self.seed, decoder=self.decoder)
            self._read_partner(loaded, paired)
        except (VideoError, MemoryError) as error:
            loaded.row.errors[""] = _one_line(error)
            loaded.missing.clear()
        return loaded

    def finish(self, loaded: _Loaded) -> VideoRow:
        """The complete row: extractors, then metrics, then the cache."""
        for name, key in loaded.missing.items():
            metric = self.metrics[name]
            try:
                if isinstance(metric, SetMetric):
                    loaded.row.features[name] = self._pooled(metric, loaded)
                else:
                    found = self._measure(metric, loaded)
                    _fill(loaded.row, name, found)
                    self.cache.store_json(key, found)
            except (VideoError, ValueError, RuntimeError, MemoryError) as error:  # what a metric or network refuses too
                loaded.row.errors[name] = _one_line(error)
        return loaded.row

    def _hash_of_partner(self, paired: VideoItem | None) -> str:
        if paired is None or not any(metric.needs_reference == "paired" for metric in self.metrics.values()):
            return ""
        try:
            return content_hash(paired.source)
        except VideoError:
            return ""  # reading it fails again, and then the paired metrics alone say why

    def _read_partner(self, loaded: _Loaded, paired: VideoItem | None) -> None:
        specs = list(dict.fromkeys(self.metrics[name].spec for name in loaded.missing
                                   if self.metrics[name].needs_reference == "paired"))
        if not specs:
            return
        try:
            if paired is None:
                raise VideoError("there is none of this name in --paired")
            loaded.paired = read_clips(paired.source, specs, fps=loaded.item.fps, seed=self.seed, decoder=self.decoder)
        except VideoError as error:
            loaded.paired = dict.fromkeys(specs, VideoError(f"its reference: {error}"))

    def _score_key(self, metric: Metric, content: str, item: VideoItem, partner: str) -> str:
        return cache_key(
            kind="score", content=content, protocol=metric.protocol(), decoder=decoder_version(self.decoder),
            seed=self._seed_of(metric.spec), fps=item.fps, variant=self.variant, device=_kind(self.device),
            prompt=item.prompt if metric.needs_prompts else None,
            partner=partner if metric.needs_reference == "paired" else None,
        )

    def _feature_key(self, extractor: Extractor, spec: ClipSpec, loaded: _Loaded) -> str:
        return cache_key(
            kind="features", content=loaded.row.content, extractor=extractor.protocol(), clips=spec.protocol(),
            decoder=decoder_version(self.decoder), seed=self._seed_of(spec), fps=loaded.item.fps, variant=self.variant,
            device=_kind(self.device),
        )

    def _seed_of(self, spec: ClipSpec) -> int | None:
        return self.seed if spec.placement == "random" or self.variant else None

    def _recall_features(self, loaded: _Loaded) -> None:
        for name in loaded.missing:
            metric = self.metrics[name]
            for extractor in metric.extractors():
                if (metric.spec, extractor.key) not in loaded.features and extractor.weights_sha256:
                    kept = self.cache.load_tensors(self._feature_key(extractor, metric.spec, loaded))
                    if kept is not None:
                        loaded.features[metric.spec, extractor.key] = kept.get("", kept)

    def _specs_to_decode(self, loaded: _Loaded) -> list[ClipSpec]:
        wanted = {}
        for name in loaded.missing:
            metric = self.metrics[name]
            known = all((metric.spec, extractor.key) in loaded.features for extractor in metric.extractors())
            if not (isinstance(metric, SetMetric) and known):
                wanted[metric.spec] = True
        return list(wanted)

    def _features(self, metric: Metric, loaded: _Loaded) -> dict[str, Any]:
        """Extractor key -> features of this metric's clips, each computed once per video."""
        found = {}
        for extractor in metric.extractors():
            place = (metric.spec, extractor.key)
            extractor.to(self.device)  # also where its features come from the cache: metrics call its text tower
            if place not in loaded.features:
                with torch.no_grad():
                    features = extract(extractor, self._frames(metric.spec, loaded))
                loaded.features[place] = features
                if extractor.weights_sha256:  # weight-free features cost less to compute than to keep
                    tensors = features if isinstance(features, dict) else {"": features}
                    self.cache.store_tensors(self._feature_key(extractor, metric.spec, loaded), tensors)
            found[extractor.key] = _to(loaded.features[place], self.device)
        return found

    def _frames(self, spec: ClipSpec, loaded: _Loaded) -> Tensor:
        if spec not in loaded.frames:
            loaded.frames[spec] = self._stack(_clips(loaded.clips, spec))
        return loaded.frames[spec]

    def _stack(self, clips: Sequence[Clip]) -> Tensor:
        frames = [clip.frames for clip in clips]
        if self.variant:
            from evalkit.data.corruptions import corrupt

            frames = [corrupt(clip, self.variant, 5, seed=self.seed) for clip in frames]
        if torch.device(self.device).type != "cpu":
            return torch.stack(frames).to(self.device).float().div_(255)
        # NumPy's memory comes in huge pages, torch's does not: faulting small ones in costs more than the arithmetic
        stacked = torch.from_numpy(np.empty((len(frames), *frames[0].shape), np.float32))
        for row, clip in zip(stacked, frames, strict=True):
            row.copy_(clip).div_(255)
        return stacked

    def _pooled(self, metric: SetMetric, loaded: _Loaded) -> np.ndarray:
        if metric.group_by_prompt and not loaded.item.prompt:
            raise VideoError("no prompt for this video")
        return metric.pool(self._features(metric, loaded)).float().cpu().numpy()

    def _measure(self, metric: PerClipMetric, loaded: _Loaded) -> dict[str, Any]:
        """The metric's score averaged over the video's clips, as the JSON that the cache keeps."""
        item, clips = loaded.item, _clips(loaded.clips, metric.spec)
        if metric.needs_prompts and not item.prompt:
            raise VideoError("no prompt for this video")
        if metric.needs_fps and not all(clip.fps > 0 for clip in clips):
            raise VideoError("no frame rate: give one with --fps, or fps in the manifest")
        frames, count = self._frames(metric.spec, loaded), len(clips)
        batch = ClipBatch(
            frames,
            prompts=[item.prompt] * count if metric.needs_prompts else None,
            fps=torch.tensor([clip.fps for clip in clips], device=self.device) if metric.needs_fps else None,
            features=self._features(metric, loaded),
            checked=True,
        )
        reference = None
        if metric.needs_reference == "paired":
            reference = ClipBatch(self._stack(_clips(loaded.paired, metric.spec)), checked=True)
            if reference.frames.shape != frames.shape:
                shapes = tuple(frames.shape[1:]), tuple(reference.frames.shape[1:])
                raise VideoError(f"expected its reference to have shape {shapes[0]}, got {shapes[1]}")
        with torch.no_grad():
            measured = metric.measure(batch, reference)
        if measured.value.shape != (count,):
            raise ValueError(f"metric {metric.name}: expected ({count},) scores, got {tuple(measured.value.shape)}")
        found = {
            "value": _mean(measured.value),
            "components": {name: _mean(part) for name, part in measured.components.items()},
            "curves": {name: _numbers(curve[0]) for name, curve in measured.curves.items()},
        }
        if not all(map(math.isfinite, [found["value"], *found["components"].values()])):
            raise VideoError("the score is not a finite number; please report this video")
        return found


@dataclass
class _Loaded:
    row: VideoRow
    item: VideoItem
    missing: dict[str, str] = field(default_factory=dict)  # metric -> cache key of its score
    clips: Mapping[ClipSpec, list[Clip] | VideoError] = field(default_factory=dict)
    paired: Mapping[ClipSpec, list[Clip] | VideoError] = field(default_factory=dict)
    frames: dict[ClipSpec, Tensor] = field(default_factory=dict)
    features: dict[tuple[ClipSpec, str], Any] = field(default_factory=dict)


def _clips(clips: Mapping[ClipSpec, list[Clip] | VideoError], spec: ClipSpec) -> list[Clip]:
    found = clips[spec]
    if isinstance(found, VideoError):
        raise found
    return found


def _fill(row: VideoRow, name: str, found: Mapping[str, Any] | None) -> bool:
    if found is None:
        return False
    row.values[name] = found["value"]
    row.components[name] = found["components"]
    row.curves[name] = {key: np.asarray(curve, dtype=np.float32) for key, curve in found["curves"].items()}
    return True


def _mean(values: Tensor) -> float:
    return values.detach().double().mean().item()


def _numbers(values: Iterable[Tensor]) -> list[float | None]:
    return [round(x, 6) if math.isfinite(x) else None for x in torch.as_tensor(values).flatten().tolist()]


def _to(features: Any, device: str) -> Any:
    if isinstance(features, Mapping):
        return {name: tensor.to(device) for name, tensor in features.items()}
    return features.to(device)


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _one_line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return printable(text if isinstance(error, VideoError) else f"{type(error).__name__}: {text}")
