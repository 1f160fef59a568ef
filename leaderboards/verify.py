"""Is a row what scoring its samples gives? A random part is scored again with `evalkit run`, in its own process."""
from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import UsageError
from evalkit.results import Report, differing_fields, rows_of_features
from leaderboards.checks import check_submission
from leaderboards.fields import BoardError
from leaderboards.schema import Board, Submission, Verification
from leaderboards.submissions import today
from leaderboards.table_checks import open_table


@dataclass(frozen=True)
class Outcome:
    """What was found; `excess` names the metrics that deviate by more than the board tolerates: no badge."""

    verification: Verification
    excess: dict[str, float]  # metric -> its tolerance
    skipped: tuple[str, ...] = ()  # values that evalkit cannot score again: people's votes, other tools' scores


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

    Scores, errors and features are compared video by video, set metrics as a whole; a deviation is relative to the
    number found, or to the metric's mean where that is larger. Tampering with v of N videos escapes a share s with
    about (1 - s)^v. seed: which part; None draws it afresh, so that nobody can know it. Raises BoardError where the
    row contradicts itself, where samples are missing or other files than those scored, or under another protocol.
    """
    scoring = scoring or Scoring()
    if not 0 < share <= 1:
        raise UsageError(f"--share: expected a number above 0, at most 1; got {share:g}")
    check_submission(replace(row, verification=None), board)
    table = open_table(row)
    chosen = _draw(table, share, seed)
    names = row.rescorable
    if not names:
        raise BoardError(f"{row.name} has no value that evalkit could score again")
    _refuse_missing_reference(row, names, scoring)
    part = locate_samples(table.iloc[chosen], samples)
    with tempfile.TemporaryDirectory() as folder:
        again = _run(row, part, names, scoring, Path(folder))
        whole = _recompute(row, [name for name in names if name not in table], scoring, Path(folder))
    _refuse_other_protocols(row, again, names)
    deviations = compare(row, part, again, whole)
    verification = Verification(by, today(), len(chosen) / len(table), len(chosen), deviations, row.scored_sha256)
    tolerances = {name: board.metrics[name].tolerance for name in names}
    skipped = [name for name, score in row.scores.items() if score.value is not None and name not in names]
    excess = {name: tolerances[name] for name in names if not deviations[name] <= tolerances[name]}
    return Outcome(verification, excess, tuple(skipped))


def _draw(table: Any, share: float, seed: int | None) -> list[int]:
    """Rows of the table, in its order; those with an error too, which scoring must run into again."""
    count = min(len(table), max(1, math.ceil(share * len(table))))
    return sorted(np.random.default_rng(seed).choice(len(table), count, replace=False).tolist())


def locate_samples(part: Any, samples: Path) -> Any:
    """Rows of the table with the `path` of each video. BoardError for one that is not there, or outside, or another.

    The content of a folder of frames is only told by scoring it.
    """
    root = samples.resolve()
    paths = [root / video for video in part["video"]]
    outside = [str(path) for path in paths if not path.resolve().is_relative_to(root)]
    if outside:
        raise BoardError(f"{len(outside)} of {len(paths)} drawn samples lie outside {samples}, the first {outside[0]}")
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise BoardError(f"{len(missing)} of {len(paths)} drawn samples are not there, the first {missing[0]}")
    unread = part["content"].isna() | (part["content"] == "")  # allowed of rows with an error
    others = [str(path) for path, content, blank in zip(paths, part["content"], unread & part["error"].notna(),
                                                        strict=True)
              if path.is_file() and not blank and hashlib.sha256(path.read_bytes()).hexdigest() != content]
    if others:
        raise BoardError(f"{len(others)} of {len(paths)} drawn samples are other files than those that were scored, "
                         f"the first {others[0]}")
    return part.assign(path=[str(path) for path in paths])


def compare(row: Submission, part: Any, again: Report, whole: Mapping[str, Any]) -> dict[str, float]:
    """The largest relative deviation of each metric over the rows `part` of the table, which have a `path`.

    again: what scoring those files gave; whole: set metrics from all submitted features, as `evalkit.rescore` writes
    them. Infinite where one side has a number of a video and the other has not. BoardError where the files' contents
    are not those that the row names.
    """
    found = again.videos.set_index("path").reindex(part["path"])
    _refuse_other_contents(part, found)
    return {name: _deviation_of_column(part, found, name) if name in part
            else max(_deviation_of_features(row, part, again, name), _relative(row, whole, name))
            for name in row.rescorable}


def _refuse_missing_reference(row: Submission, names: Sequence[str], scoring: Scoring) -> None:
    needing = [name for name in names if row.protocols[row.scores[name].protocol].get("reference")]
    if needing and scoring.reference is None:
        raise UsageError(f"{', '.join(needing)}: give the --reference that the row was scored with")


def _run(row: Submission, part: Any, names: Sequence[str], scoring: Scoring, folder: Path) -> Report:
    known = zip(part["path"], _or_none(part["prompt"]), _or_none(part["seed"]), strict=True)
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


def _refuse_other_contents(part: Any, found: Any) -> None:
    claimed, there = part["content"].fillna("").tolist(), found["content"].fillna("").tolist()
    others = [video for video, one, other in zip(part["video"], claimed, there, strict=True) if one != other]
    if others:
        raise BoardError(f"{len(others)} of {len(part)} drawn samples hold other frames than those that were scored, "
                         f"the first {others[0]}")


def _refuse_other_protocols(row: Submission, again: Report, names: Sequence[str]) -> None:
    for name in names:
        ours, theirs = again.scores[name].protocol, row.scores[name].protocol
        if ours != theirs:
            lines = differing_fields(row.protocols[theirs], again.protocols[ours])
            raise BoardError(f"{name} would be scored under another protocol than the row's: {'; '.join(lines)}")


def _deviation_of_column(part: Any, found: Any, name: str) -> float:
    """Largest deviation of one video's score; an error is a claim too: that scoring gives no number."""
    claims, scores = (side[name].to_numpy(np.float64, na_value=np.nan) for side in (part, found))
    both = ~np.isnan(claims)
    if (both != ~np.isnan(scores)).any():
        return math.inf
    scale = np.abs(scores[both])
    return _largest(np.abs(claims[both] - scores[both]), np.maximum(scale, scale.mean() if len(scale) else 0.0))


def _deviation_of_features(row: Submission, part: Any, again: Report, name: str) -> float:
    """Largest distance of one clip's features."""
    claimed = _by_video(row.read_features()[name], open_table(row), "video", name)
    found = _by_video(again.features.get(name, np.empty((0, 1))), again.videos, "path", name)
    pairs = [(found.get(path), claimed.get(video)) for path, video in zip(part["path"], part["video"], strict=True)]
    if any((one is None) != (other is None) or (one is not None and one.shape != other.shape) for one, other in pairs):
        return math.inf
    both = [pair for pair in pairs if pair[0] is not None]
    if not both:
        return 0.0
    ours, theirs = (np.concatenate(side).astype(np.float64) for side in zip(*both, strict=True))
    norms = np.linalg.norm(ours, axis=1)
    return _largest(np.linalg.norm(theirs - ours, axis=1), np.maximum(norms, norms.mean()))


def _by_video(matrix: np.ndarray, table: Any, key: str, name: str) -> dict[str, np.ndarray]:
    """The table's `key` -> its clips' features (clips, D)."""
    if not len(matrix):
        return {}
    rows = rows_of_features(table["error"].isna().tolist(), len(matrix), name)
    owners = table[key].iloc[rows].to_numpy()
    return {owner: matrix[owners == owner] for owner in dict.fromkeys(owners)}


def _relative(row: Submission, whole: Mapping[str, Any], name: str) -> float:
    """Deviation of a set metric from what its features give, the interval's ends included in units of the value."""
    claimed, found = row.scores[name], whole[name]
    if found["value"] is None or (claimed.ci95 is None) != (found["ci95"] is None):
        return math.inf
    pairs = [(claimed.value, found["value"]), *zip(claimed.ci95 or (), found["ci95"] or (), strict=True)]
    return _largest(np.array([abs(a - b) for a, b in pairs]), np.full(len(pairs), abs(found["value"])))


def _largest(difference: np.ndarray, scale: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(difference == 0, 0.0, difference / scale).max(initial=0.0))
