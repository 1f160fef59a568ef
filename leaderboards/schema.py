"""A board, and one submission per model: frozen dataclasses to and from the JSON that FORMAT.md describes."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.results import Score

BOARD_SCHEMA, SUBMISSION_SCHEMA = "leaderboards.board/1", "leaderboards.submission/1"
COMPOSITE, WINS = "composite", "wins"  # ways to rank beside a metric's name
SLUG = r"[a-z0-9][a-z0-9._-]{0,79}"


@dataclass(frozen=True)
class Anchor:
    """What 0 and 1 mean for a metric in the composite; fixed in the board, so that no row moves another."""

    mean: float
    std: float


@dataclass(frozen=True)
class BoardMetric:
    """A column. Without `protocol`, the first submission fixes it."""

    higher_is_better: bool
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)
    summary: str = ""
    protocol: str | None = None  # 12 hex digits, a key of Board.protocols
    weight: float = 0.0  # in the composite and among the wins; 0 leaves the metric out
    anchor: Anchor | None = None
    tie: float = 0.0  # largest difference of one prompt's scores that is a tie, in the unit
    tolerance: float = 0.002  # largest relative deviation at which `verify` gives the badge


@dataclass(frozen=True)
class PromptSet:
    """Which prompts every model of a board is scored on: leaving out the hard ones would be no fair mean.

    A video without a prompt has the empty one: without any, `samples` is the number of videos.
    """

    count: int
    sha256: str  # of the sorted distinct prompts, joined by line feeds
    samples: int  # of each prompt: more of the good ones would be no fair mean either


@dataclass(frozen=True)
class Board:
    """What is compared, under which protocols, and what ranks."""

    name: str
    title: str
    rank_by: str  # a metric, COMPOSITE or WINS
    metrics: Mapping[str, BoardMetric]
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""
    suite: str = ""
    prompts: PromptSet | None = None  # without, the first submission of a model fixes them
    path: Path | None = None  # boards/NAME.json, where it was read from

    @property
    def folder(self) -> Path:
        """Where the submissions lie: `submissions/NAME` beside the folder `boards`."""
        return self.path.resolve().parents[1] / "submissions" / self.name

    def to_json(self) -> dict[str, Any]:
        """The content of the board file."""
        metrics = {name: _without_defaults(metric) for name, metric in self.metrics.items()}
        return {"schema": BOARD_SCHEMA, "name": self.name, "title": self.title, "summary": self.summary,
                "suite": self.suite, "rank_by": self.rank_by, "prompts": self.prompts and asdict(self.prompts),
                "metrics": metrics, "protocols": dict(self.protocols)}


@dataclass(frozen=True)
class Generation:
    """How the samples were made."""

    seeds: tuple[int, ...]
    prompts_rewritten: bool
    sampler: str
    guidance: float | None  # None: the model has no guidance
    size: tuple[int, int]  # width, height in pixels
    fps: float
    num_steps: int | None = None
    num_frames: int | None = None


@dataclass(frozen=True)
class FileEntry:
    """A file beside the JSON: `path` is relative to the JSON's folder and lies in the folder of the JSON's name."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Verification:
    """Who scored a share of the samples again, and by how much each metric deviated (relative).

    A file proves none of it: whoever merges it trusts `by`. `scored` ties it to the numbers that were verified.
    """

    by: str
    date: str
    share: float  # of the videos, 0 to 1
    videos: int
    deviations: Mapping[str, float]
    scored: str  # `Submission.scored_sha256` of the row that was verified

    @property
    def largest(self) -> tuple[str, float]:
        """The metric that deviated most, and by how much."""
        return max(self.deviations.items(), key=lambda item: item[1])


@dataclass(frozen=True)
class Withdrawal:
    date: str
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """Which training run, and after how many steps: rows of one run draw its history."""

    run: str
    step: int


@dataclass(frozen=True)
class Submission:
    """One row. `scores` holds every metric of the board; a score without value says why, and is unranked."""

    slug: str  # the file's name without .json
    board: str
    name: str
    submitted: str  # YYYY-MM-DD
    scores: Mapping[str, Score]
    protocols: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, int]  # found, scored, failed
    versions: Mapping[str, str]
    seed: int  # of the scoring run
    videos: FileEntry  # Parquet, one row per video
    features: FileEntry | None = None  # safetensors, (N, D) per set metric
    generation: Generation | None = None  # None for reference rows alone
    kind: str = "model"  # or "reference": frozen, shuffled, noise, real
    links: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    checkpoint: Checkpoint | None = None
    clips: Mapping[str, str] = field(default_factory=dict)  # video -> path of a playable copy beside the JSON
    verification: Verification | None = None
    withdrawal: Withdrawal | None = None
    path: Path | None = None  # the JSON, where it was read from

    @property
    def status(self) -> str:
        """withdrawn, verified or reported."""
        return "withdrawn" if self.withdrawal else "verified" if self.badge else "reported"

    @property
    def badge(self) -> Verification | None:
        """The verification, unless what was scored has been edited since."""
        found = self.verification
        return found if found and found.scored == self.scored_sha256 else None

    @property
    def scored_sha256(self) -> str:
        """Of everything that scoring found: scores, protocols, counts, seed, and the hashes of tables and features."""
        files = [self.videos.sha256, self.features and self.features.sha256]
        scores = {name: score.to_json() for name, score in sorted(self.scores.items())}
        parts = [self.board, scores, dict(self.protocols), dict(self.counts), self.seed, files]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()

    @property
    def rescorable(self) -> list[str]:
        """Metrics with a value that evalkit can score again: votes of people and other tools' scores are not."""
        return [name for name, score in self.scores.items()
                if score.value is not None and "decoder" in self.protocols[score.protocol]]

    def locate(self, entry: FileEntry | str) -> Path:
        """The path of a file of this submission."""
        return self.path.parent / (entry if isinstance(entry, str) else entry.path)

    def read_videos(self, columns: list[str] | None = None) -> Any:
        """One row per video as a DataFrame: video, prompt, seed, content, error and a column per per-video score.

        Raises BoardError where the file is no table, or unpacks into too much.
        """
        import pandas as pd
        import pyarrow as pa

        from leaderboards.tables import read_columns

        table = read_columns(self.locate(self.videos), columns)
        return table.to_pandas(ignore_metadata=True, types_mapper={pa.int64(): pd.Int64Dtype()}.get)

    def read_features(self) -> dict[str, Any]:
        """(N, D) float32 features by set metric; empty where there are none."""
        from safetensors.numpy import load_file

        return load_file(self.locate(self.features)) if self.features else {}

    def to_json(self) -> dict[str, Any]:
        """The content of the submission's file."""
        content = {"schema": SUBMISSION_SCHEMA, **asdict(replace(self, scores={}, path=None))}
        content["scores"] = {name: score.to_json() for name, score in self.scores.items()}
        return {key: value for key, value in content.items() if key not in ("slug", "path")}


def format_json(content: Mapping[str, Any]) -> bytes:
    """The bytes that are written: one key a line, so that a change is readable as a diff."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _without_defaults(metric: BoardMetric) -> dict[str, Any]:
    shown = asdict(metric)
    default = asdict(BoardMetric(metric.higher_is_better))
    return {key: value for key, value in shown.items() if key in ("higher_is_better", "protocol")
            or value != default[key]}
