"""evaluate(): videos in, a report out. The loop of the whole project."""
from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evalkit.aggregate import list_failures, make_report
from evalkit.cache import Cache, default_cache
from evalkit.data.datasets import VideoItem
from evalkit.data.video import usable_decoder
from evalkit.devices import choose_device
from evalkit.errors import UsageError
from evalkit.metrics.base import Metric, PerClipMetric, SetMetric
from evalkit.plan import Plan, choose_metrics, find_items, make_plan, missing_weights
from evalkit.reference import ReferenceFeatures
from evalkit.results import Report
from evalkit.scoring import Scorer, VideoRow
from evalkit.workers import available_cores, gather, join_ranks, map_in_processes, map_in_threads

TRIVIAL = {"frozen": "static", "shuffled": "shuffle", "noise": "noise"}  # printed name -> corruption
TRIVIAL_VIDEOS = 8  # how many of the videos the trivial baselines are made from

Progress = Callable[[str, int, int, VideoRow], None]  # stage, done, of, the row just finished


def evaluate(samples: Any, *, prompts: Any = None, fps: float | None = None, metrics: Sequence[str] | None = None,
             suite: str | None = None, protocol: str | None = None, reference: Any = None, paired: Any = None,
             model: str = "", device: str = "auto", workers: int | None = None,
             cache: Any = "default", seed: int = 0, decoder: str = "pyav", trivial: bool = False,
             progress: Progress | None = None) -> Report:
    """Score videos: a folder, glob, manifest, list of paths, or (N, T, 3, H, W) / (N, T, H, W, 3) frames.

    Frames in memory are uint8, or float in [0, 1]. `metrics` names them one by one; else those of `suite` (default
    "standard") or of a paper's `protocol`. `reference` is a set of real videos, or a file that
    `evalkit reference build` made; `paired` a folder with one reference per video. `cache` is a folder, None for none.
    `trivial` adds frozen, shuffled and noise twins of a few videos for comparison. Under torchrun each rank scores
    every world-size-th video and all ranks return the same report.
    Raises UsageError where the request cannot be met; a video that cannot be scored is listed in `failures`.
    """
    started = time.perf_counter()
    decoder, device, store = settle(decoder, device, cache, seed)
    plan = make_plan(samples, prompts=prompts, fps=fps, metrics=metrics, suite=suite, protocol=protocol,
                     reference=reference, paired=paired, decoder=decoder, seed=seed)
    loop = _Loop(store, decoder, seed, device, available_cores() if workers is None else workers, progress)

    rows = loop.score("videos", plan.metrics, plan.items, plan.paired)
    references, reference_failures = _reference_features(plan, loop)
    twins = _score_trivial(plan, loop, rows) if trivial else {}

    return make_report(plan, rows, references, twins, reference_failures=reference_failures, model=model,
                       decoder=decoder, seed=seed, device=device, wall_seconds=time.perf_counter() - started)


def build_reference(samples: Any, *, protocol: str | None = None, metrics: Sequence[str] | None = None,
                    device: str = "auto", workers: int | None = None, cache: Any = "default", seed: int = 0,
                    decoder: str = "pyav",
                    progress: Progress | None = None) -> tuple[ReferenceFeatures, list[dict[str, str]]]:
    """Features of a reference set for the set metrics named (default: those of `protocol`), and the failures."""
    decoder, device, store = settle(decoder, device, cache, seed)
    items = find_items(samples)
    chosen = {name: metric for name, metric in choose_metrics(metrics, None, protocol).items()
              if isinstance(metric, SetMetric) and metric.needs_reference == "set"}
    if not chosen:
        raise UsageError("reference build: none of the metrics compares with a reference set; name some with --metrics")
    lacking = {name: why for name, metric in chosen.items() if (why := missing_weights(metric))}
    ready = {name: metric for name, metric in chosen.items() if name not in lacking}
    told = "; ".join(f"{name}: {why}" for name, why in lacking.items())
    if not ready:
        raise UsageError(told)
    if lacking:
        warnings.warn(f"the reference will hold no features for {told}", stacklevel=2)
    loop = _Loop(store, decoder, seed, device, available_cores() if workers is None else workers, progress)
    rows = loop.score("reference", ready, items, {})
    return ReferenceFeatures.from_rows(ready, rows, decoder, seed), list_failures(rows)


class _Loop:
    """Scores a list of videos with a set of metrics: processes on the CPU, decoding threads before a GPU."""

    def __init__(self, cache: Cache, decoder: str, seed: int, device: str, workers: int,
                 progress: Progress | None) -> None:
        self.cache, self.decoder, self.seed, self.device = cache, decoder, seed, device
        self.workers, self.progress = workers, progress
        self.rank, self.world = join_ranks()

    def score(self, stage: str, metrics: Mapping[str, Metric], items: Sequence[VideoItem],
              paired: Mapping[str, VideoItem], variant: str | None = None) -> list[VideoRow]:
        """One row per item, in order, on every rank."""
        scorer = Scorer(metrics, self.cache, self.decoder, self.seed, self.device, variant)
        mine = range(self.rank, len(items), self.world)
        rows = []
        for row in self._map(scorer, items, mine, paired):
            rows.append(row)
            if self.progress is not None:
                self.progress(stage, len(rows), len(mine), row)
        return sorted(gather(rows), key=lambda row: row.index)

    def _map(self, scorer: Scorer, items: Sequence[VideoItem], mine: Sequence[int],
             paired: Mapping[str, VideoItem]) -> Iterator[VideoRow]:
        def read(index: int):
            return scorer.read(index, items[index], paired.get(items[index].name))

        def crashed(index: int) -> VideoRow:
            why = "reading it ends the process (a crash of the decoder, or out of memory)"
            return VideoRow(index, items[index].name, errors={"": why})

        if self.device == "cpu":
            return map_in_processes(lambda index: scorer.finish(read(index)), mine, self.workers, crashed)
        return map(scorer.finish, map_in_threads(read, mine, self.workers))


def _reference_features(plan: Plan, loop: _Loop) -> tuple[ReferenceFeatures | None, list[dict[str, str]]]:
    if plan.reference_features is not None or not plan.reference_items:
        return plan.reference_features, []
    wanted = {name: metric for name, metric in plan.metrics.items() if metric.needs_reference == "set"}
    if not wanted:
        return None, []
    rows = loop.score("reference", wanted, plan.reference_items, {})
    return ReferenceFeatures.from_rows(wanted, rows, loop.decoder, loop.seed), list_failures(rows, "reference: ")


def _score_trivial(plan: Plan, loop: _Loop, rows: Sequence[VideoRow]) -> dict[str, list[VideoRow]]:
    per_clip = {name: metric for name, metric in plan.metrics.items()
                if isinstance(metric, PerClipMetric) and metric.needs_reference != "paired"}
    good = [plan.items[row.index] for row in rows if not row.errors]
    some = good[:: max(1, -(-len(good) // TRIVIAL_VIDEOS))]
    return {name: loop.score(f"trivial baseline: {name}", per_clip, some, {}, variant)
            for name, variant in TRIVIAL.items()} if per_clip and some else {}


def settle(decoder: str, device: str, cache: Any, seed: int) -> tuple[str, str, Cache]:
    """The decoder, the device and the cache that are meant; UsageError where one of them cannot be used."""
    if seed < 0:
        raise UsageError(f"--seed: expected 0 or more, got {seed}")
    try:
        decoder = usable_decoder(decoder)
    except ValueError as error:
        raise UsageError(f"--decoder: {error}") from error
    store = Cache(default_cache() if cache == "default" else cache)
    try:
        store.check()
    except OSError as error:
        raise UsageError(f"cannot use the cache {store.folder}: {os.strerror(error.errno or 0)}. Name another folder "
                         "(--cache DIR or EVALKIT_CACHE), or --cache none") from error
    return decoder, choose_device(device), store
