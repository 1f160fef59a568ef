"""VBench's result files (`*_eval_results.json`): scores per video, and its published total (Huang et al., 2024)."""
from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Dimension -> (lowest, highest) of the published min-max normalisation. A score outside is not clipped.
QUALITY = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
    "dynamic_degree": (0.0, 1.0),
}
SEMANTIC = {
    "object_class": (0.0, 1.0),
    "multiple_objects": (0.0, 1.0),
    "human_action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
_HALF_WEIGHT = "dynamic_degree"
_QUALITY_SHARE = 0.8  # of the total; semantic has the rest


@dataclass(frozen=True)
class VBenchResults:
    """What VBench found.

    videos: one row per video path: video (relative to the folder all share), prompt, sample, and a column per
    dimension; NaN where VBench did not score that video in that dimension, which is usual: each dimension has its
    own prompts. aggregates: VBench's own number per dimension, not always the mean of its videos.
    """

    videos: pd.DataFrame
    aggregates: dict[str, float]


@dataclass(frozen=True)
class VBenchTotal:
    """VBench's three leaderboard numbers in 0..1; None, with the reason, where a dimension is missing."""

    quality: float | None
    semantic: float | None
    total: float | None
    reason: str | None = None


def import_vbench_results(path: Path | str) -> VBenchResults:
    """Read one result file, or every `*_eval_results.json` below a folder (one per dimension, as VBench writes them).

    Booleans count as 0 and 1, a list as its mean; imaging_quality is written per video in 0..100 and divided by 100
    here, like VBench's aggregate. Raises ValueError, naming the place, for what is no such file, a number that is
    not finite, a video without a result, or a dimension or video that two entries score differently.
    """
    aggregates: dict[str, float] = {}
    scores: dict[str, dict[str, float]] = {}
    for file in _result_files(Path(path)):
        for key, value in _load(file).items():
            dimension = re.sub(r"\s+", "_", key.strip().lower())
            where = f"{file}: {key}"
            if dimension in aggregates:
                raise ValueError(f"{where}: this dimension was read already; give one file or folder per model")
            aggregates[dimension], scores[dimension] = _read_dimension(value, dimension, where)
    return VBenchResults(_table(scores), aggregates)


def vbench_total(aggregates: Mapping[str, float]) -> VBenchTotal:
    """Quality, Semantic and Total from the 16 dimensions' aggregates, by the published normalisation and weights.

    Quality is the mean of 7 normalised dimensions, dynamic degree with half a weight; Semantic the plain mean of 9;
    Total = 0.8 Quality + 0.2 Semantic. A missing dimension is never counted as 0.
    """
    missing = [name for name in (*QUALITY, *SEMANTIC) if name not in aggregates]
    quality = _weighted(aggregates, QUALITY) if not set(missing) & set(QUALITY) else None
    semantic = _weighted(aggregates, SEMANTIC) if not set(missing) & set(SEMANTIC) else None
    if quality is None or semantic is None:
        return VBenchTotal(quality, semantic, None, f"dimensions missing: {', '.join(missing)}")
    return VBenchTotal(quality, semantic, _QUALITY_SHARE * quality + (1 - _QUALITY_SHARE) * semantic)


def _weighted(aggregates: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> float:
    weights = {name: 0.5 if name == _HALF_WEIGHT else 1.0 for name in ranges}
    normalised = {name: (aggregates[name] - low) / (high - low) for name, (low, high) in ranges.items()}
    return sum(weights[name] * normalised[name] for name in ranges) / sum(weights.values())


def _result_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.rglob("*_eval_results.json"))
    if not found:
        raise ValueError(f"expected a VBench result file, or a folder with *_eval_results.json, got {path}")
    return found


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{file}: expected {{dimension: [number, [videos]]}}, got {type(content).__name__}")
    return content


def _read_dimension(value: Any, dimension: str, where: str) -> tuple[float, dict[str, float]]:
    """`[aggregate, [{"video_path": ..., "video_results": ...}, ...], ...]`; what follows the list is ignored."""
    if not isinstance(value, list) or len(value) < 2 or not isinstance(value[1], list) or not value[1]:
        raise ValueError(f"{where}: expected [number, [one entry per video, ...]]")
    aggregate = _number(value[0], f"{where}: aggregate")
    scores: dict[str, float] = {}
    for i, entry in enumerate(value[1]):
        place = f"{where}: entry {i}"
        if not isinstance(entry, dict) or not isinstance(entry.get("video_path"), str):
            raise ValueError(f"{place}: expected an object with video_path and video_results, got {entry!r:.80}")
        video = entry["video_path"]
        number = _number(entry.get("video_results"), f"{place} ({video})")
        if scores.get(video, number) != number:
            raise ValueError(f"{place}: {video} scores {number:g} here and {scores[video]:g} before")
        scores[video] = number
    if dimension == "imaging_quality":
        scores = _to_unit(scores)
        aggregate = aggregate / 100 if aggregate > 1 else aggregate
    return aggregate, scores


def _to_unit(scores: dict[str, float]) -> dict[str, float]:
    """0..100 to 0..1, decided for all videos together: single videos may score below 1 of 100."""
    percent = max(scores.values()) > 1
    return {video: score / 100 if percent else score for video, score in scores.items()}


def _number(value: Any, where: str) -> float:
    if isinstance(value, list) and value:
        return math.fsum(_number(part, where) for part in value) / len(value)
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, true or false, or a list of them, got {value!r}")
    return float(value)


def _table(scores: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    import pandas as pd

    from evalkit.data.items import natural_key

    names = _relative(list(dict.fromkeys(video for column in scores.values() for video in column)))
    rows = []
    for video in sorted(names, key=lambda video: natural_key(names[video])):
        prompt, sample = _prompt_and_sample(names[video])
        values = {dimension: column.get(video, math.nan) for dimension, column in scores.items()}
        rows.append({"video": names[video], "prompt": prompt, "sample": sample, **values})
    return pd.DataFrame(rows).astype({"sample": "Int64"})


def _relative(videos: Sequence[str]) -> dict[str, str]:
    """Path as VBench wrote it -> path below the folder that all share, with "/" between folders."""
    normal = {video: os.path.normpath(video.replace("\\", "/")) for video in videos}
    parents = {os.path.dirname(path) for path in normal.values()}
    rooted = {os.path.isabs(path) for path in normal.values()}
    common = os.path.commonpath(parents) if len(rooted) == 1 else ""
    return {video: os.path.relpath(path, common) if common else path for video, path in normal.items()}


def _prompt_and_sample(name: str) -> tuple[str, int | None]:
    """VBench names videos `<prompt>-<k>.mp4`; any other stem is the prompt as it stands."""
    base = name.rpartition("/")[2]
    stem = re.sub(r"\.(mp4|gif|jpg|png|avi|mov|webm|mkv)$", "", base, flags=re.IGNORECASE)
    match = re.fullmatch(r"(.+)-([0-9]+)", stem)
    return (match[1], int(match[2])) if match else (stem, None)
