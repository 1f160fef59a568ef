"""Corruption ladders on real clips: does the metric that answers for a defect move with it, clip by clip?

    python benchmarks/ladders.py [--assets DIR] [--clips N] [--corruptions blur,noise] [--all] [--record ladders.md]

Clips are decoded at their own size, corrupted there, and read by each metric as if the result were the video. A
ladder passes where the mean moves strictly monotonically from severity 0 to 5 in the metric's worse direction, the
median per-clip Spearman correlation with the severity is at least 0.9, and the undamaged clip beats its copy of
severity 3 in at least 90 % of pairs. --all scores every metric on every corruption and prints the matrix of AUCs.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import rankdata

from evalkit.clips import ClipBatch, ClipSpec
from evalkit.data.corruptions import SEVERITIES, available_corruptions, corrupt
from evalkit.data.video import VideoError, read_clips, read_video
from evalkit.features.base import MissingWeights, extract
from evalkit.metrics.base import PerClipMetric, available_metrics, make_metric
from evalkit.statistics import auc_paired
from evalkit.workers import map_in_processes

# corruption -> the score that answers for it: a metric, or metric.component where the defect has one of its own
ANSWERS = {
    "blur": "artifacts",
    "noise": "artifacts",
    "blocks": "artifacts",
    "banding": "artifacts",
    "luma_flicker": "temporal_flicker",
    "colour_flicker": "temporal_flicker",
    "dropped_frames": "artifacts",
    "shuffle": "guarded",
    "freeze": "dynamic_degree",
    "camera_jitter": "cinematic_composition",
    "desaturation": "cinematic_composition",
    "over_exposure": "farm",
}
MIN_SPEARMAN = MIN_AUC = 0.9
CHECKED = 3  # the severity of the AUC


@dataclass(frozen=True)
class Config:
    """Which clips, which defects."""

    assets: Path = Path(__file__).resolve().parents[2] / "shared" / "assets"
    clips: int | None = None  # this many, evenly spread over the list; None: all
    corruptions: str = ""  # names, comma-separated; empty: those that a metric answers for
    metrics: str = ""  # with --all: only these, comma-separated
    all: bool = False  # every metric on every corruption
    frames: int = 64  # read from the start of each clip
    workers: int = 2
    record: Path | None = None  # also write the table there, as Markdown


@dataclass(frozen=True)
class Task:
    """One clip, and the metrics to score for each corruption."""

    index: int
    path: Path
    wanted: dict[str, tuple[str, ...]]
    frames: int


Scores = dict[tuple[str, int, str], float]  # (corruption, severity, metric or metric.component) -> score


@dataclass(frozen=True)
class Ladder:
    """What became of one score under one corruption; `scores` (clips, 6), higher is better."""

    corruption: str
    metric: str
    sign: int
    scores: np.ndarray

    @property
    def means(self) -> list[float]:
        """Mean at severities 0..5 as printed, lower-is-better scores unturned."""
        return (self.sign * self.scores).mean(0).tolist()

    @property
    def monotone(self) -> bool:
        """Whether the mean falls with every severity."""
        return bool((np.diff(self.scores.mean(0)) < 0).all())

    @property
    def spearman(self) -> float:
        """Median over clips of the correlation between severity and how bad the score is; 0 for a flat clip."""
        return float(np.median([-spearman(range(6), row) for row in self.scores]))

    @property
    def auc(self) -> tuple[float, tuple[float, float] | None]:
        """Share of clips whose copy of severity 3 scores worse, ties half, with its 95 % interval."""
        return auc_paired(self.scores[:, 0], self.scores[:, CHECKED])

    @property
    def passed(self) -> bool:
        """All three demands."""
        return self.monotone and self.spearman >= MIN_SPEARMAN and self.auc[0] >= MIN_AUC


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, 0 where one side is constant."""
    x, y = rankdata(x), rankdata(y)
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else 0.0


def find_clips(assets: Path, count: int | None) -> list[Path]:
    """The UCF-101 and WebVid clips, or `count` of them evenly spread. ValueError where there are none."""
    found = sorted((assets / "data/ucf101").glob("*/*.avi")) + sorted((assets / "data/webvid").glob("*.mp4"))
    if not found:
        raise ValueError(f"expected UCF-101 and WebVid clips under {assets / 'data'}, got none")
    picks = np.linspace(0, len(found) - 1, min(count or len(found), len(found))).round().astype(int)
    return [found[i] for i in picks]


def usable_metrics() -> Iterator[str]:
    """Per-clip metrics that need neither prompts nor a reference and whose weights are here."""
    for name, cls in available_metrics().items():
        if issubclass(cls, PerClipMetric) and not cls.needs_prompts and not cls.needs_reference:
            try:
                make_metric(name).extractors()
                yield name
            except MissingWeights:
                continue


def measure(frames: torch.Tensor, fps: float, metrics: Sequence[str]) -> dict[str, float]:
    """Scores of uint8 (T, 3, H, W) by every metric's own clip specification, components as metric.component."""
    by_spec: dict[ClipSpec, list[PerClipMetric]] = {}
    for name in metrics:
        by_spec.setdefault(_metric(name).spec, []).append(_metric(name))
    scores = {}
    for spec, clips in read_clips(frames, list(by_spec), fps=fps).items():
        if isinstance(clips, VideoError):
            raise clips
        pixels, rate = clips[0].frames[None].float().div_(255), torch.tensor([clips[0].fps])
        extractors = {one.key: one for metric in by_spec[spec] for one in metric.extractors()}
        with torch.no_grad():
            features = {key: extract(one, pixels) for key, one in extractors.items()}
            for metric in by_spec[spec]:
                found = metric.measure(ClipBatch(pixels, fps=rate, features=features), None)
                scores[metric.name] = found.value.item()
                scores |= {f"{metric.name}.{part}": value.item() for part, value in found.components.items()}
    return scores


_METRICS: dict[str, PerClipMetric] = {}


def _metric(name: str) -> PerClipMetric:
    """One instance per process: building may load weights."""
    if name not in _METRICS:
        _METRICS[name] = make_metric(name)
    return _METRICS[name]


def climb(task: Task) -> Scores | str:
    """All ladders of one clip, or why it has none."""
    try:
        clip = read_video(task.path, ClipSpec(size=None, max_frames=task.frames))
        names = sorted({name for metrics in task.wanted.values() for name in metrics})
        clean = measure(clip.frames, clip.fps, names)
        found: Scores = {}
        for corruption, metrics in task.wanted.items():
            found |= {(corruption, 0, name): value for name, value in clean.items()}
            for severity in SEVERITIES:
                frames = corrupt(clip.frames, corruption, severity, seed=task.index, fps=clip.fps)
                scores = measure(frames, clip.fps, metrics)
                found |= {(corruption, severity, name): value for name, value in scores.items()}
        return found
    except VideoError as error:
        return f"{task.path.name}: {error}"


def ladder(rows: Sequence[Scores], corruption: str, score: str) -> Ladder:
    """One ladder over all clips."""
    sign = 1 if available_metrics()[score.split(".")[0]].higher_is_better else -1
    scores = [[sign * row[corruption, severity, score] for severity in (0, *SEVERITIES)] for row in rows]
    return Ladder(corruption, score, sign, np.array(scores))


def table_of_ladders(ladders: Sequence[Ladder]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per ladder."""
    header = ["corruption", "score", *(f"mean {s}" for s in (0, *SEVERITIES)), "monotone", "Spearman",
              f"AUC at {CHECKED} [95 %]", "verdict"]
    rows = []
    for one in ladders:
        share, (low, high) = one.auc
        rows.append([one.corruption, one.metric, *(f"{mean:.4f}" for mean in one.means),
                     "yes" if one.monotone else "no", f"{one.spearman:.2f}",
                     f"{share:.2f} [{low:.2f}, {high:.2f}]", "pass" if one.passed else "FAIL"])
    return header, rows


def table_of_aucs(rows: Sequence[Scores], corruptions: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Every score against every corruption: AUC at severity 3, starred where the whole ladder passes."""
    scores = sorted({score for _, _, score in rows[0]})
    cells = [[ladder(rows, corruption, score) for corruption in corruptions] for score in scores]
    return ["score", *corruptions], [
        [score, *(f"{one.auc[0]:.2f}{'*' if one.passed else ''}" for one in row)]
        for score, row in zip(scores, cells, strict=True)]


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, whole lines whatever the width of the terminal."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown section."""
    lines = [header, ["---"] * len(header), *rows]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def wanted_scores(config: Config) -> dict[str, tuple[str, ...]]:
    """Corruption -> metrics to score."""
    names = config.corruptions.split(",") if config.corruptions else list(ANSWERS)
    unknown = [name for name in names if name not in (available_corruptions() if config.all else ANSWERS)]
    if unknown:
        raise ValueError(f"no ladder for {', '.join(unknown)}; there are: {', '.join(ANSWERS)}")
    if config.all:
        metrics = tuple(config.metrics.split(",")) if config.metrics else tuple(usable_metrics())
        return dict.fromkeys(names, metrics)
    return {name: (ANSWERS[name].split(".")[0],) for name in names}


def main(config: Config) -> int:
    """Print the tables; 1 where a ladder fails."""
    wanted = wanted_scores(config)
    for name in {metric for metrics in wanted.values() for metric in metrics}:
        _metric(name)  # unknown names and missing weights fail before any clip is read; forked workers inherit it
    tasks = [Task(i, path, wanted, config.frames) for i, path in enumerate(find_clips(config.assets, config.clips))]
    found = map_in_processes(climb, tasks, config.workers, crashed=lambda task: f"{task.path.name}: crashed")
    results = list(track(found, "clips", total=len(tasks)))
    rows = [result for result in results if not isinstance(result, str)]
    failures = [result for result in results if isinstance(result, str)]
    print(*failures, sep="\n")
    if not rows:
        raise ValueError("expected at least one clip that every metric can read, got none")
    ladders = [ladder(rows, name, ANSWERS[name]) for name in wanted
               if name in ANSWERS and (name, 1, ANSWERS[name]) in rows[0]]
    sections = [(f"Corruption ladders, {len(rows)} clips", *table_of_ladders(ladders))]
    if config.all:
        sections.append((f"AUC at severity {CHECKED}, * where the ladder passes", *table_of_aucs(rows, list(wanted))))
    for section in sections:
        show(*section)
    if config.record:
        command = " ".join(["python", "benchmarks/ladders.py", *sys.argv[1:]])
        text = "\n".join(markdown(*section) for section in sections)
        config.record.write_text(f"# Corruption ladders\n\n`{command}`\n\n{text}")
    return int(bool(failures) or not all(one.passed for one in ladders))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
