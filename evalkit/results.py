"""A report: scores with intervals and protocols, one row per video; to and from `results.json` and `videos.parquet`.

Imports no torch: leaderboards and `evalkit compare` read results on machines that cannot score.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "evalkit.results/1"


class ResultsError(ValueError):
    """A results file does not keep the contract; the message says where."""


@dataclass(frozen=True)
class Score:
    """One number of a run. `value` is None exactly when `reason` says why."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int  # videos (or clips, for set metrics) behind the number
    unit: str
    higher_is_better: bool
    protocol: str  # 12 hex digits, a key of Report.protocols
    reason: str | None = None
    floor: float | None = None  # set metrics: real against disjoint real
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.value is None) != (self.reason is not None):
            raise ResultsError(f"a score has either a value or a reason, got {self.value!r} and {self.reason!r}")
        for number in (self.value, self.floor, *(self.ci95 or ())):
            if number is not None and not math.isfinite(number):
                raise ResultsError(f"expected a finite score, got {number!r}")

    def to_json(self) -> dict[str, Any]:
        """The contract's fields; the optional ones only where they say something."""
        always = ("value", "ci95", "n", "unit", "higher_is_better", "protocol")
        return {key: value for key, value in asdict(self).items() if key in always or value not in (None, {})}


@dataclass
class Report:
    """Everything one run found. `videos` is a pandas DataFrame with one row per video found, in data-set order."""

    model: str
    scores: dict[str, Score]
    protocols: dict[str, dict[str, Any]]
    counts: dict[str, int]  # found, scored, failed
    failures: list[dict[str, str]]  # path, error
    environment: dict[str, Any]
    videos: Any = None  # columns: video, path, prompt, seed, content, error, one per score, "score.component"
    curves: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)  # score, video, curve -> values
    features: dict[str, Any] = field(default_factory=dict)  # set score -> (N, D) float32 array, in data-set order

    def to_json(self) -> dict[str, Any]:
        """The contract of `results.json`."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "protocols": self.protocols,
            "videos": self.counts,
            "failures": self.failures,
            "environment": self.environment,
        }

    def save(self, folder: str | Path) -> Path:
        """Write `videos.parquet`, `features.safetensors`, then `results.json` (each atomically); return the last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.videos is not None:
            write_atomic(folder / "videos.parquet", self.videos.to_parquet(index=False))
        if self.features:
            from safetensors.numpy import save

            write_atomic(folder / "features.safetensors", save(dict(sorted(self.features.items()))))
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        return write_atomic(folder / "results.json", text.encode() + b"\n")

    def keep_scores_of(self, previous: Report) -> list[str]:
        """Carry over the scores of `previous` that this run did not ask for; none if the videos or prompts differ.

        Returns the names of scores that are left behind because they belong to others.
        """
        extra = [name for name in previous.scores if name not in self.scores]
        if not self._same_videos(previous):
            return extra
        for name in extra:
            self.scores[name] = kept = previous.scores[name]
            self.protocols.setdefault(kept.protocol, previous.protocols[kept.protocol])
            for column in previous.videos.columns:
                if column == name or column.startswith(f"{name}."):
                    self.videos[column] = previous.videos[column].to_numpy()
            if name in previous.features:
                self.features[name] = previous.features[name]
        self._keep_failures_of(previous, extra)
        return []

    def _same_videos(self, other: Report) -> bool:
        if self.videos is None or other.videos is None:
            return False
        columns = [column for column in ("content", "prompt") if column in self.videos or column in other.videos]
        return all(column in table for column in columns for table in (self.videos, other.videos)) and all(
            self.videos[column].fillna("").tolist() == other.videos[column].fillna("").tolist() for column in columns)

    def _keep_failures_of(self, previous: Report, names: list[str]) -> None:
        """A video without a kept score is counted, and says why, as in the run that the score comes from."""
        kept = [failure for failure in previous.failures
                if any(failure["error"].startswith(f"{name}: ") for name in names)]
        self.failures.extend(kept)
        failed = {failure["path"] for failure in self.failures if not failure["error"].startswith("reference: ")}
        self.counts = self.counts | {"scored": self.counts["found"] - len(failed), "failed": len(failed)}

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read a run folder (or its `results.json`); ResultsError where the contract is broken."""
        path = Path(folder)
        path = path / "results.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no results at {path}: expected a folder that `evalkit run --out` wrote")
        try:
            raw = json.loads(path.read_text(), parse_constant=_refuse_constant)
        except ValueError as error:
            raise ResultsError(f"{path}: not valid results JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            got = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
            raise ResultsError(f"{path}: expected schema {SCHEMA!r}, got {got!r}")
        report = cls._from_json(raw, path)
        table = path.with_name("videos.parquet")
        if table.is_file():
            import pandas as pd

            report.videos = pd.read_parquet(table)
        matrices = path.with_name("features.safetensors")
        if matrices.is_file():
            from safetensors.numpy import load_file

            report.features = load_file(matrices)
        return report

    @classmethod
    def _from_json(cls, raw: Mapping[str, Any], path: Path) -> Report:
        try:
            scores = {
                name: Score(**{**fields, "ci95": tuple(fields["ci95"]) if fields["ci95"] else None})
                for name, fields in raw["scores"].items()
            }
            report = cls(raw["model"], scores, raw["protocols"], raw["videos"], raw["failures"], raw["environment"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ResultsError(f"{path}: missing or unexpected field: {error}") from error
        for name, score in scores.items():
            known = report.protocols.get(score.protocol)
            if known is None:
                raise ResultsError(f"{path}: score {name!r} names protocol {score.protocol!r}, which is not listed")
            if protocol_id(known) != score.protocol:
                raise ResultsError(f"{path}: protocol {score.protocol!r} does not hash to its id: it was edited")
        return report


def rows_of_features(whole: Sequence[bool], count: int, name: str) -> list[int]:
    """The table's row behind each of `count` features: a video gives the same number of clips, a failed one none.

    whole: which rows of the table have no error. ResultsError where no such number fits.
    """
    for rows in (list(range(len(whole))), [i for i, good in enumerate(whole) if good]):
        if rows and count and count % len(rows) == 0:
            return [row for row in rows for _ in range(count // len(rows))]
    raise ResultsError(f"{name}: {count} features belong to neither the {len(whole)} videos nor the {sum(whole)} "
                       "without an error")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected a finite number, got {name}")


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """12 hex digits of the sha256 of the protocol's canonical JSON."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differing_fields(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two protocols differ, as "clips.num_frames: 16 != 32" lines."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = sorted({*one, *other})
        return [line for key in keys for line in
                differing_fields(one.get(key), other.get(key), f"{path}.{key}" if path else key)]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for i, (a, b) in enumerate(zip(one, other, strict=True))
                for line in differing_fields(a, b, f"{path}[{i}]")]
    return [] if one == other else [f"{path}: {one!r} != {other!r}"]


def write_atomic(path: str | Path, data: bytes) -> Path:
    """Write `data` so that `path` holds either what it held before or all of `data`, also when killed midway."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o666 & ~_UMASK)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


_UMASK = os.umask(0)  # the only way to read it is to set it
os.umask(_UMASK)
