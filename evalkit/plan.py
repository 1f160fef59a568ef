"""What a run will do, settled before anything is decoded: metrics, inputs, protocols, and why a metric cannot run."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.data.arrays import SUFFIXES as ARRAY_SUFFIXES
from evalkit.data.datasets import VideoItem, find_videos
from evalkit.data.items import is_video_name, printable
from evalkit.errors import UsageError
from evalkit.features.base import MissingWeights
from evalkit.metrics.base import Metric, SetMetric, available_metrics
from evalkit.protocols import load_protocol
from evalkit.reference import ReferenceFeatures
from evalkit.suites import load_suite, match_videos


@dataclass(frozen=True)
class Plan:
    """Metrics that will run, and for every other one that was asked for, the reason why it cannot."""

    items: list[VideoItem]
    metrics: dict[str, Metric]
    unavailable: dict[str, str]  # metric -> reason
    declared: dict[str, Metric]  # all of both, in the order asked for
    reference_items: list[VideoItem] = field(default_factory=list)
    reference_features: ReferenceFeatures | None = None
    paired: dict[str, VideoItem] = field(default_factory=dict)  # video name -> its reference


def make_plan(samples: Any, *, prompts: Any = None, fps: float | None = None, metrics: Sequence[str] | None = None,
              suite: str | None = None, protocol: str | None = None, reference: Any = None,
              paired: Any = None, decoder: str = "pyav", seed: int = 0) -> Plan:
    """Settle what will run. Raises UsageError where a metric named in `metrics` lacks an input, or nothing is found."""
    items = find_items(samples, prompts, fps, suite=None if prompts is not None else suite)
    chosen = choose_metrics(metrics, suite, protocol)
    reference_items, features = _open_reference(reference)
    partners = _pair(items, paired)
    unavailable, lacks = {}, {}
    for name, metric in chosen.items():
        why = _lacking_input(metric, items, reference_items, features, partners)
        weights = None if why else missing_weights(metric)
        if not why and not weights and features and metric.needs_reference == "set":
            why = features.why_not(metric, decoder, seed)
        if why and name in (metrics or ()):
            lacks[name] = why
        if why or weights:
            unavailable[name] = why or weights
    if lacks:
        raise UsageError("; ".join(f"{name}: {why}" for name, why in lacks.items()))
    ready = {name: metric for name, metric in chosen.items() if name not in unavailable}
    return Plan(items, ready, unavailable, chosen, reference_items, features, partners)


def missing_weights(metric: Metric) -> str | None:
    """Why the metric's extractors cannot be built here, and what to do about it; None where they can."""
    try:
        metric.extractors()
    except (MissingWeights, ImportError) as error:
        return str(error)
    return None


def find_items(samples: Any, prompts: Any = None, fps: float | None = None,
               suite: str | None = None) -> list[VideoItem]:
    """The videos of a folder, glob, manifest, list of paths, or of tensors and arrays in memory.

    A suite with prompts of its own takes the videos of a folder by the names that it prescribes.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise UsageError(f"--fps: expected a positive number, got {fps:g}")
    try:
        loaded = load_suite(suite) if suite is not None else None
        if loaded is not None and loaded.prompts and isinstance(samples, (str, Path)) and Path(samples).is_dir():
            items = match_videos(loaded, samples)
        else:
            where = [samples] if getattr(samples, "ndim", None) == 4 else samples
            items = find_videos(where, prompts if isinstance(prompts, (str, Path)) else None)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if prompts is not None and not isinstance(prompts, (str, Path)):
        if len(prompts) != len(items):
            raise UsageError(f"prompts: expected one per video ({len(items)}), got {len(prompts)}")
        items = [replace(item, prompt=prompt) for item, prompt in zip(items, prompts, strict=True)]
    return [replace(item, name=printable(item.name), prompt=printable(item.prompt), fps=_rate(item, fps))
            for item in items]


def _rate(item: VideoItem, fps: float | None) -> float | None:
    """As a float: 8 and 8.0 are one rate, and must be one protocol."""
    rate = fps if item.fps is None else item.fps
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"{item.name}: expected a positive fps, got {rate:g}")
    return None if rate is None else float(rate)


def choose_metrics(names: Sequence[str] | None, suite: str | None, protocol: str | None) -> dict[str, Metric]:
    """Metrics by name, of a suite, or of a paper's protocol; the standard suite where none is asked for."""
    try:
        if protocol is not None and protocol != "default":
            if suite is not None:
                raise UsageError(f"expected a suite or a protocol, got both ({suite!r} and {protocol!r})")
            return load_protocol(protocol).make_metrics(names)
        if names is not None:
            return _make_metrics(names)
        chosen = load_suite(suite or "standard")
        return _make_metrics(chosen.metrics, load_protocol(chosen.protocol).metrics)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _make_metrics(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Metric]:
    """By name, with the constructor arguments that `settings` holds for some of them."""
    known = available_metrics()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(f"{'unknown metric ' + ', '.join(map(repr, unknown)) if unknown else 'no metric named'}; "
                         f"there are: {', '.join(known)}")
    return {name: known[name](**(settings or {}).get(name, {})) for name in dict.fromkeys(names)}


def _open_reference(reference: Any) -> tuple[list[VideoItem], ReferenceFeatures | None]:
    if reference is None:
        return [], None
    if isinstance(reference, ReferenceFeatures):
        return [], reference
    if isinstance(reference, (str, Path)) and str(reference).endswith(".safetensors"):
        try:
            return [], ReferenceFeatures.load(reference)
        except (OSError, ValueError) as error:
            raise UsageError(f"--reference: {error}") from error
    return find_items(reference), None


def _pair(items: Sequence[VideoItem], paired: Any) -> dict[str, VideoItem]:
    if paired is None:
        return {}
    partners: dict[str, VideoItem] = {}
    for other in find_items(paired):
        if partners.setdefault(_stem(other), other) is not other:
            raise UsageError(f"--paired: {partners[_stem(other)].name} and {other.name} differ in their suffix alone, "
                             "so that either could be meant: expected one reference per video")
    found = {item.name: partners[_stem(item)] for item in items if _stem(item) in partners}
    if not found:
        raise UsageError(f"--paired: no video of {paired} has the name of a scored one (compared without suffix)")
    return found


def _stem(item: VideoItem) -> str:
    path = Path(item.name)  # folders of frames have no suffix to lose, though their names may hold full stops
    return str(path.with_suffix("")) if is_video_name(path) else item.name


def _lacking_input(metric: Metric, items: Sequence[VideoItem], reference_items: Sequence[VideoItem],
                   features: ReferenceFeatures | None, partners: Mapping[str, VideoItem]) -> str | None:
    by_prompt = isinstance(metric, SetMetric) and metric.group_by_prompt
    if (metric.needs_prompts or by_prompt) and not any(item.prompt for item in items):
        return "needs prompts, and no video has one: give --prompts FILE (JSONL with path and prompt)"
    needs_rate = metric.needs_fps or metric.spec.fps is not None
    if needs_rate and all(item.fps is None and _carries_no_rate(item.source) for item in items):
        return "needs a frame rate, and frames without a container carry none: give --fps (fps=…)"
    if metric.needs_reference == "set" and not reference_items and features is None:
        return "needs a reference set: give --reference FOLDER, or a file of `evalkit reference build`"
    if metric.needs_reference == "paired" and not partners:
        return "compares each video with its own reference: give --paired FOLDER with videos of the same names"
    return None


def _carries_no_rate(source: Any) -> bool:
    return not isinstance(source, Path) or source.is_dir() or source.suffix.lower() in ARRAY_SUFFIXES
