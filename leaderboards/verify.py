"""Is a row what scoring its samples gives? A random part is scored again with `evalkit run`, in its own process."""
from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import UsageError
from evalkit.results import Report, differing_fields, rows_of_features
from leaderboards.checks import check_submission, open_table
from leaderboards.fields import BoardError
from leaderboards.schema import Board, Submission, Verification
from leaderboards.submissions import today


@dataclass(frozen=True)
class Outcome:
    """What was found; `excess` names the metrics that deviate by more than the board tolerates: no badge."""

    verification: Verification
    excess: dict[str, float]  # metric -> its tolerance


@dataclass(frozen=True)
class Scoring:
    """How to score again what the protocols leave to the command: inputs and machine."""

    reference: str | None = None  # of set metrics, as `evalkit run --reference`
    paired: str | None = None
    protocol: str | None = None
    device: str = "auto"
    workers: int | None = None

    def options(self, *, paired: bool = True) -> list[str]:
        """As arguments of `evalkit run`, and without `paired` of `evalkit.rescore`."""
        pairs = {"--reference": self.reference, "--paired": self.paired if paired else None,
                 "--protocol": self.protocol, "--device": self.device, "--workers": self.workers}
        return [part for flag, value in pairs.items() if value is not None for part in (flag, str(value))]


def verify_submission(board: Board, row: Submission, samples: Path, *, by: str, share: float = 0.1,
                      seed: int | None = None, scoring: Scoring | None = None) -> Outcome:
    """Score a random `share` of the samples again (1: all of them) and recompute set metrics from their features.

    Per-video scores and features are compared video by video, set metrics as a whole; a deviation is relative to the
    number found, or to the metric's mean where that is larger. Tampering with v of N videos escapes a share s with
    about (1 - s)^v. seed: which part; None draws it afresh, so that nobody can know it. Raises BoardError where the
    row contradicts itself, where samples are missing or other files than those scored, or under another protocol.
    """
    scoring = scoring or Scoring()
    if not 0 < share <= 1:
        raise UsageError(f"--share: expected a number above 0, at most 1; got {share:g}")
    check_submission(row, board)
    table = open_table(row)
    chosen = _draw(table, share, seed)
    names = [name for name, score in row.scores.items() if score.value is not None]
    if not names:
        raise BoardError(f"{row.name} has no value that could be verified")
    _refuse_missing_reference(row, names, scoring)
    _refuse_other_files(table, chosen, samples)
    with tempfile.TemporaryDirectory() as folder:
        again = _run(row, table, chosen, samples, names, scoring, Path(folder))
        whole = _recompute(row, [name for name in names if name not in table], scoring, Path(folder))
    _refuse_other_frames(again, table, chosen)
    _refuse_other_protocols(row, again, names)
    deviations = {name: _deviation_of_column(table, chosen, again, name) if name in table
                  else max(_deviation_of_features(row, table, chosen, again, name), _relative(row, whole, name))
                  for name in names}
    verification = Verification(by, today(), len(chosen) / len(table), len(chosen), deviations)
    tolerances = {name: board.metrics[name].tolerance for name in names}
    return Outcome(verification, {name: tolerances[name] for name in names if not deviations[name] <= tolerances[name]})


def _draw(table: Any, share: float, seed: int | None) -> list[int]:
    """Rows of the table, in its order."""
    good = np.flatnonzero(table["error"].isna())
    count = min(len(good), max(1, math.ceil(share * len(table))))
    return sorted(np.random.default_rng(seed).choice(good, count, replace=False).tolist())


def _refuse_missing_reference(row: Submission, names: Sequence[str], scoring: Scoring) -> None:
    needing = [name for name in names if row.protocols[row.scores[name].protocol].get("reference")]
    if needing and scoring.reference is None:
        raise UsageError(f"{', '.join(needing)}: give the --reference that the row was scored with")


def _refuse_other_files(table: Any, chosen: Sequence[int], samples: Path) -> None:
    part = table.iloc[list(chosen)]
    paths = [samples.resolve() / video for video in part["video"]]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise BoardError(f"{len(missing)} of {len(paths)} drawn samples are not there, the first {missing[0]}")
    others = [str(path) for path, content in zip(paths, part["content"], strict=True)
              if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != content]
    if others:
        raise BoardError(f"{len(others)} of {len(paths)} drawn samples are other files than those that were scored, "
                         f"the first {others[0]}")


def _run(row: Submission, table: Any, chosen: Sequence[int], samples: Path, names: Sequence[str], scoring: Scoring,
         folder: Path) -> Report:
    part = table.iloc[list(chosen)]
    paths = [str(samples.resolve() / video) for video in part["video"]]
    known = zip(paths, _or_none(part["prompt"]), _or_none(part["seed"]), strict=True)
    lines = [{key: value for key, value in zip(("path", "prompt", "seed"), line, strict=True) if value is not None}
             for line in known]
    manifest = folder / "part.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rates = {row.protocols[row.scores[name].protocol].get("fps_given") for name in names} - {None}
    rate = ["--fps", str(rates.pop())] if len(rates) == 1 and "per video" not in rates else []
    _call(["evalkit", "run", str(manifest), "--metrics", ",".join(names), "--out", str(folder / "run"), "--no-report",
           "--cache", "none", "--seed", str(row.seed), "--max-failures", "100%", *rate, *scoring.options()])
    return Report.load(folder / "run")


def _or_none(column: Any) -> list[Any]:
    return column.astype(object).where(column.notna(), None).tolist()


def _recompute(row: Submission, names: Sequence[str], scoring: Scoring, folder: Path) -> dict[str, Any]:
    """Set metrics from all submitted features."""
    if not names:
        return {}
    _call(["evalkit.rescore", str(row.locate(row.features)), str(row.locate(row.videos)), "--metrics", ",".join(names),
           "--out", str(folder / "sets.json"), "--seed", str(row.seed), *scoring.options(paired=False)])
    return json.loads((folder / "sets.json").read_text())


def _call(arguments: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"scoring again failed: {done.stderr.strip() or done.stdout.strip()}")


def _refuse_other_frames(again: Report, table: Any, chosen: Sequence[int]) -> None:
    """Folders of frames, whose hash only scoring them tells."""
    scored = set(table["content"].iloc[list(chosen)])
    others = again.videos[~again.videos["content"].isin(scored)]
    if len(others):
        raise BoardError(f"{len(others)} of {len(chosen)} drawn samples hold other frames than those that were scored, "
                         f"the first {others['video'].iloc[0]}")


def _refuse_other_protocols(row: Submission, again: Report, names: Sequence[str]) -> None:
    for name in names:
        ours, theirs = again.scores[name].protocol, row.scores[name].protocol
        if ours != theirs:
            lines = differing_fields(row.protocols[theirs], again.protocols[ours])
            raise BoardError(f"{name} would be scored under another protocol than the row's: {'; '.join(lines)}")


def _deviation_of_column(table: Any, chosen: Sequence[int], again: Report, name: str) -> float:
    """Largest deviation of one video's score."""
    claimed = table.iloc[list(chosen)].drop_duplicates("content").set_index("content")[name]
    found = again.videos.drop_duplicates("content").set_index("content")[name].reindex(claimed.index)
    both = claimed.notna() & found.notna()
    if (claimed.notna() & found.isna()).any() or not both.any():
        return math.inf  # a score is claimed of a video that has none
    scale = np.maximum(found[both].abs(), found[both].abs().mean())
    return _largest((claimed[both] - found[both]).abs().to_numpy(), scale.to_numpy())


def _deviation_of_features(row: Submission, table: Any, chosen: Sequence[int], again: Report, name: str) -> float:
    """Largest distance of one clip's features."""
    claimed = _by_content(row.read_features()[name], table, name)
    found = _by_content(again.features.get(name, np.empty((0, 1))), again.videos, name)
    wanted = [content for content in table["content"].iloc[list(chosen)] if content in claimed]
    if not wanted or any(content not in found or found[content].shape != claimed[content].shape for content in wanted):
        return math.inf
    ours, theirs = (np.concatenate([side[content] for content in wanted]).astype(np.float64)
                    for side in (found, claimed))
    norms = np.linalg.norm(ours, axis=1)
    return _largest(np.linalg.norm(theirs - ours, axis=1), np.maximum(norms, norms.mean()))


def _by_content(matrix: np.ndarray, table: Any, name: str) -> dict[str, np.ndarray]:
    """Content hash -> its clips' features (clips, D)."""
    if not len(matrix):
        return {}
    rows = rows_of_features(table["error"].isna().tolist(), len(matrix), name)
    contents = table["content"].iloc[rows].to_numpy()
    return {content: matrix[contents == content] for content in dict.fromkeys(contents)}


def _relative(row: Submission, whole: dict[str, Any], name: str) -> float:
    """Deviation of a set metric from what its features give, the interval's ends included in units of the value."""
    claimed, found = row.scores[name], whole[name]
    if found["value"] is None or (claimed.ci95 is None) != (found["ci95"] is None):
        return math.inf
    pairs = [(claimed.value, found["value"]), *zip(claimed.ci95 or (), found["ci95"] or (), strict=True)]
    return _largest(np.array([abs(a - b) for a, b in pairs]), np.full(len(pairs), abs(found["value"])))


def _largest(difference: np.ndarray, scale: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(difference == 0, 0.0, difference / scale).max())
