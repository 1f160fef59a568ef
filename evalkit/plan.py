"""What a run will do, settled before anything is decoded: metrics, inputs, protocols, and why a metric cannot run."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.data.datasets import VideoItem, find_videos
from evalkit.errors import UsageError
from evalkit.features.base import MissingWeights
from evalkit.metrics.base import Metric, SetMetric, available_metrics, make_metric
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
              paired: Any = None) -> Plan:
    """Settle what will run. Raises UsageError where a metric named in `metrics` lacks an input, or nothing is found."""
    items = find_items(samples, prompts, fps, suite=None if prompts is not None else suite)
    chosen = choose_metrics(metrics, suite, protocol)
    reference_items, features = _open_reference(reference)
    partners = _pair(items, paired)
    lacks = {name: why for name, metric in chosen.items()
             if (why := _lacking_input(metric, items, reference_items, features, partners))}
    named = [name for name in lacks if name in (metrics or ())]
    if named:
        raise UsageError("; ".join(f"{name}: {lacks[name]}" for name in named))
    for name, metric in chosen.items():
        if name not in lacks:
            try:
                metric.extractors()
            except (MissingWeights, ImportError) as error:
                lacks[name] = str(error)
    ready = {name: metric for name, metric in chosen.items() if name not in lacks}
    return Plan(items, ready, lacks, chosen, reference_items, features, partners)


def find_items(samples: Any, prompts: Any = None, fps: float | None = None,
               suite: str | None = None) -> list[VideoItem]:
    """The videos of a folder, glob, manifest, list of paths, or of tensors and arrays in memory.

    A suite with prompts of its own takes the videos of a folder by the names that it prescribes.
    """
    try:
        loaded = load_suite(suite) if suite is not None else None
        if loaded is not None and loaded.prompts and isinstance(samples, (str, Path)) and Path(samples).is_dir():
            items = match_videos(loaded, samples)
        elif isinstance(samples, (str, Path)):
            items = find_videos(samples, prompts if isinstance(prompts, (str, Path)) else None)
        else:
            items = _in_memory(samples)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if not items:
        raise UsageError(f"no videos in {samples}: expected a folder, glob or manifest with at least one")
    if prompts is not None and not isinstance(prompts, (str, Path)):
        if len(prompts) != len(items):
            raise UsageError(f"prompts: expected one per video ({len(items)}), got {len(prompts)}")
        items = [replace(item, prompt=prompt) for item, prompt in zip(items, prompts, strict=True)]
    return items if fps is None else [replace(item, fps=item.fps or fps) for item in items]


def choose_metrics(names: Sequence[str] | None, suite: str | None, protocol: str | None) -> dict[str, Metric]:
    """Metrics by name, of a suite, or of a paper's protocol; the standard suite where none is asked for."""
    try:
        if protocol is not None and protocol != "default":
            return load_protocol(protocol).make_metrics(names)
        if names is None:
            names = load_suite(suite or "standard").metrics
        unknown = [name for name in names if name not in available_metrics()]
        if unknown:
            raise UsageError(f"unknown metric {', '.join(map(repr, unknown))}; there are: "
                             f"{', '.join(available_metrics())}")
        return {name: make_metric(name) for name in dict.fromkeys(names)}
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _in_memory(samples: Any) -> list[VideoItem]:
    if hasattr(samples, "ndim") and samples.ndim == 4:
        samples = [samples]
    items = []
    for i, one in enumerate(samples):
        if isinstance(one, VideoItem):
            items.append(one)
        elif isinstance(one, (str, Path)):
            items.append(VideoItem(Path(one), str(one)))
        else:
            items.append(VideoItem(one, f"{i:06d}"))
    return items


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
    partners = {_stem(other): other for other in find_items(paired)}
    found = {item.name: partners[_stem(item)] for item in items if _stem(item) in partners}
    if not found:
        raise UsageError(f"--paired: no video of {paired} has the name of a scored one (compared without suffix)")
    return found


def _stem(item: VideoItem) -> str:
    return str(Path(item.name).with_suffix(""))


def _lacking_input(metric: Metric, items: Sequence[VideoItem], reference_items: Sequence[VideoItem],
                   features: ReferenceFeatures | None, partners: Mapping[str, VideoItem]) -> str | None:
    by_prompt = isinstance(metric, SetMetric) and metric.group_by_prompt
    if (metric.needs_prompts or by_prompt) and not any(item.prompt for item in items):
        return "needs prompts, and no video has one: give --prompts FILE (JSONL with path and prompt)"
    if metric.needs_fps and all(item.fps is None and _carries_no_rate(item.source) for item in items):
        return "needs a frame rate, and frames without a container carry none: give --fps (fps=…)"
    if metric.needs_reference == "set" and not reference_items and features is None:
        return "needs a reference set: give --reference FOLDER, or a file of `evalkit reference build`"
    if metric.needs_reference == "paired" and not partners:
        return "compares each video with its own reference: give --paired FOLDER with videos of the same names"
    return None


def _carries_no_rate(source: Any) -> bool:
    return not isinstance(source, Path) or source.is_dir() or source.suffix in (".npy", ".npz", ".pt")
