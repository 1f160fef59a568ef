"""Holds a submission against its board and its files: hashes, tables, features, protocols, prompts. Torch-free."""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.results import Score, differing_fields
from evalkit.statistics import cluster_bootstrap
from leaderboards.fields import BoardError
from leaderboards.schema import Board, FileEntry, PromptSet, Submission

if TYPE_CHECKING:
    import pandas as pd

LARGEST_TABLE, LARGEST_FEATURES, LARGEST_CLIP = 64 * 2**20, 512 * 2**20, 24 * 2**20  # bytes
MOST_CELLS = 20_000_000  # of a table: a small Parquet file can unpack into any amount of memory
COLUMNS = ("video", "prompt", "seed", "content", "error")
CLIP_SUFFIXES = (".mp4", ".webm")
_ROUNDING = 1e-9  # relative: the order of a sum
_RESAMPLING = 1e-3  # relative to the width of an interval: versions of numpy may draw otherwise


def check_submission(row: Submission, board: Board) -> None:
    """BoardError at the first thing in which a submission contradicts its board, its files, or itself."""
    check_scores(row, board)
    check_files(row)
    table = open_table(row)
    _check_table(row, table)
    _check_prompts(row, board, table)
    matrices = _open_features(row)
    for name, score in row.scores.items():
        _check_source(row, board, name, score, table, matrices)
    stray = sorted(set(matrices) - set(board.metrics))
    if stray:
        raise BoardError(f"{row.features.path}: holds features of {stray[0]!r}, which the board does not have")
    unknown = sorted(set(row.clips) - set(table["video"]))
    if unknown:
        raise BoardError(f"{row.path.name}: clips: {unknown[0]!r} is no video of the table")


def check_scores(row: Submission, board: Board) -> None:
    """The board's metrics, all of them and no other, in its direction and unit and under its protocols."""
    where = row.path.name
    if row.board != board.name:
        raise BoardError(f"{where}: belongs to board {row.board!r}, not to {board.name!r}")
    missing, extra = set(board.metrics) - set(row.scores), set(row.scores) - set(board.metrics)
    if missing:
        raise BoardError(f"{where}: scores: missing {', '.join(sorted(missing))}; a score that cannot be had is null "
                         "with a reason")
    if extra:
        raise BoardError(f"{where}: scores: {', '.join(sorted(extra))}: not on board {board.name}")
    for name, score in row.scores.items():
        _check_score(f"{where}: scores.{name}", row, board, name, score)


def _check_score(where: str, row: Submission, board: Board, name: str, score: Score) -> None:
    metric = board.metrics[name]
    for key in ("higher_is_better", "unit"):
        if getattr(score, key) != getattr(metric, key):
            raise BoardError(f"{where}: {key}: the board has {getattr(metric, key)!r}, got {getattr(score, key)!r}")
    if score.value is None:
        return
    if metric.protocol is not None and score.protocol != metric.protocol:
        lines = differing_fields(board.protocols[metric.protocol], row.protocols[score.protocol])
        raise BoardError(f"{where}: another protocol than the board's: {'; '.join(lines)}")
    low, high = _ends(metric.range)
    if not low <= score.value <= high:
        raise BoardError(f"{where}: value {score.value:g} lies outside the metric's range [{low:g}, {high:g}]")
    if score.ci95 is not None and not score.ci95[0] <= score.value <= score.ci95[1]:
        raise BoardError(f"{where}: value {score.value:g} lies outside its own interval {list(score.ci95)}")
    if score.n < 1:
        raise BoardError(f"{where}: n: expected at least 1 behind a value, got {score.n}")


def _ends(bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = bounds
    return -math.inf if low is None else low, math.inf if high is None else high


def check_files(row: Submission) -> None:
    """The files that a submission lists are there, no link, of the size and hash that it states, and no others."""
    limits = {row.videos: LARGEST_TABLE} | ({row.features: LARGEST_FEATURES} if row.features else {})
    for entry, limit in limits.items():
        _check_file(row, entry, limit)
    for video, clip in row.clips.items():
        path = _plain_file(row, clip)
        if path.suffix not in CLIP_SUFFIXES or path.stat().st_size > LARGEST_CLIP:
            raise BoardError(f"{row.path.name}: clips.{video}: expected {' or '.join(CLIP_SUFFIXES)} of at most "
                             f"{LARGEST_CLIP} bytes, got {clip} of {path.stat().st_size}")
    listed = {row.locate(entry) for entry in limits} | {row.locate(clip) for clip in row.clips.values()}
    folder = row.path.parent / row.slug
    stray = sorted(path for path in folder.rglob("*") if path not in listed and not path.is_dir())
    if stray:
        raise BoardError(f"{row.path.name}: {stray[0].relative_to(row.path.parent)} lies in its folder, unlisted")


def _check_file(row: Submission, entry: FileEntry, limit: int) -> None:
    path = _plain_file(row, entry.path)
    size = path.stat().st_size
    if size > limit:
        raise BoardError(f"{entry.path}: expected at most {limit} bytes, got {size}")
    if size != entry.bytes:
        raise BoardError(f"{entry.path}: expected {entry.bytes} bytes, got {size}: the file was changed")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise BoardError(f"{entry.path}: expected sha256 {entry.sha256[:12]}…, got {found[:12]}…: the file was changed")


def _plain_file(row: Submission, relative: str) -> Path:
    path = row.locate(relative)
    parents = [path, *(row.path.parent / parent for parent in Path(relative).parents if parent != Path("."))]
    if any(one.is_symlink() for one in parents):
        raise BoardError(f"{relative}: expected a plain file, got a link: what it points to is no part of the row")
    if not path.is_file():
        raise BoardError(f"{relative}: no such file beside {row.path.name}")
    return path


def open_table(row: Submission) -> pd.DataFrame:
    """The per-video table, after a look at its size. BoardError where it is no Parquet file of the contract."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        shape = pq.read_metadata(row.locate(row.videos))
        if shape.num_rows * shape.num_columns > MOST_CELLS:
            raise BoardError(f"{row.videos.path}: expected at most {MOST_CELLS} cells, got "
                             f"{shape.num_rows} × {shape.num_columns}")
        table = row.read_videos()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BoardError):
            raise
        raise BoardError(f"{row.videos.path}: not a Parquet table: {error}") from error
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise BoardError(f"{row.videos.path}: expected the columns {', '.join(COLUMNS)}, missing {', '.join(missing)}")
    return table


def _check_table(row: Submission, table: pd.DataFrame) -> None:
    where, counts = row.videos.path, row.counts
    if len(table) != counts["found"]:
        raise BoardError(f"{where}: expected {counts['found']} rows as counts.found says, got {len(table)}")
    failed = int(table["error"].notna().sum())
    if failed != counts["failed"]:
        raise BoardError(f"{where}: expected {counts['failed']} rows with an error as counts.failed says, got {failed}")
    for column in ("video", "prompt", "content", "error"):
        wrong = [value for value in table[column].dropna() if not isinstance(value, str)]
        if wrong:
            raise BoardError(f"{where}: expected text in column {column!r}, got {wrong[0]!r}")
    if table["video"].isna().any() or table["video"].duplicated().any():
        raise BoardError(f"{where}: expected each video once, got {_first_doubled(table['video'])!r} more than once")
    private = [column for column in table if column == "path"]
    if private:
        raise BoardError(f"{where}: column 'path' tells where the files lay on the machine that scored them: drop it")


def _first_doubled(videos: pd.Series) -> Any:
    return next(iter(videos[videos.isna() | videos.duplicated()]))


def fingerprint_prompts(prompts: Iterable[str | None]) -> PromptSet | None:
    """The set of distinct prompts; None where there are none (class names and prompts are the same to it)."""
    import pandas as pd

    distinct = sorted({str(prompt) for prompt in prompts if not pd.isna(prompt)})
    digest = hashlib.sha256("\n".join(distinct).encode()).hexdigest()
    return PromptSet(len(distinct), digest) if distinct else None


def _check_prompts(row: Submission, board: Board, table: pd.DataFrame) -> None:
    """Models answer all of the board's prompts; a reference row (real videos) may have others."""
    if board.prompts is None or row.kind == "reference":
        return
    found = fingerprint_prompts(table["prompt"])
    if found != board.prompts:
        raise BoardError(f"{row.videos.path}: other prompts than the board's {board.prompts.count}: expected the hash "
                         f"{board.prompts.sha256[:12]}…, got {found.count if found else 'no'} prompts"
                         + (f" of hash {found.sha256[:12]}…" if found else ""))


def _open_features(row: Submission) -> dict[str, Any]:
    from safetensors import SafetensorError

    try:
        return row.read_features()
    except (SafetensorError, OSError, ValueError) as error:
        raise BoardError(f"{row.features.path}: not a safetensors file: {error}") from error


def _check_source(row: Submission, board: Board, name: str, score: Score, table: pd.DataFrame,
                  matrices: dict[str, Any]) -> None:
    """A value stands on a column of the table or on a matrix of features."""
    if name in table:
        _check_column(row, board, name, score, table)
    elif name in matrices:
        _check_matrix(row, name, score, table, matrices[name])
    elif score.value is not None:
        raise BoardError(f"{row.path.name}: scores.{name}: neither a column of {row.videos.path} nor a matrix of "
                         "features stands behind it")


def _check_column(row: Submission, board: Board, name: str, score: Score, table: pd.DataFrame) -> None:
    import numpy as np
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    where = f"{row.videos.path}: {name}"
    if not is_numeric_dtype(table[name]) or is_bool_dtype(table[name]):
        raise BoardError(f"{where}: expected numbers, got {table[name].dtype}")
    values = table[name].dropna().to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise BoardError(f"{where}: expected finite numbers, got {int((~np.isfinite(values)).sum())} that are not")
    if table.loc[table[name].isna(), "error"].isna().any():
        raise BoardError(f"{where}: a video has neither a value nor an error")
    if len(values) != score.n and score.value is not None:
        raise BoardError(f"{where}: expected {score.n} values as the score's n says, got {len(values)}")
    if score.value is None:
        if len(values):
            raise BoardError(f"{where}: the score is null, yet {len(values)} videos have a value")
        return
    if not math.isclose(values.mean(), score.value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise BoardError(f"{where}: the table's mean is {values.mean():.9g}, the score says {score.value:.9g}")
    _check_interval(where, row, board.metrics[name].range, score, table.loc[table[name].notna()], values)


def _check_interval(where: str, row: Submission, bounds: tuple, score: Score, table: pd.DataFrame,
                    values: Any) -> None:
    """The interval is the one that a run computes from the table."""
    import pandas as pd

    clusters = [video if pd.isna(prompt) or not prompt else prompt
                for prompt, video in zip(table["prompt"], table["video"], strict=True)]
    found = cluster_bootstrap(values, clusters, seed=row.seed)
    if (found is None) != (score.ci95 is None):
        raise BoardError(f"{where}: the table gives {'no' if found is None else 'an'} interval, the score says "
                         f"{score.ci95 and list(score.ci95)}")
    if found is None:
        return
    low, high = _ends(bounds)
    found = tuple(min(max(end, low), high) for end in found)
    allowed = _RESAMPLING * (found[1] - found[0]) + _ROUNDING
    if any(abs(one - other) > allowed for one, other in zip(found, score.ci95, strict=True)):
        raise BoardError(f"{where}: the table's interval is [{found[0]:.6g}, {found[1]:.6g}], the score says "
                         f"[{score.ci95[0]:.6g}, {score.ci95[1]:.6g}]")


def _check_matrix(row: Submission, name: str, score: Score, table: pd.DataFrame, matrix: Any) -> None:
    import numpy as np

    where = f"{row.features.path}: {name}"
    if matrix.ndim != 2 or matrix.dtype != np.float32 or not np.isfinite(matrix).all():
        raise BoardError(f"{where}: expected finite float32 features (N, D), got {matrix.dtype} {matrix.shape}")
    if score.value is not None and not score.n <= len(matrix):
        raise BoardError(f"{where}: expected {score.n} rows or more as the score's n says, got {len(matrix)}")
