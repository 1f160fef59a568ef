"""Holds a submission against its board and its files: hashes, tables, features, protocols, prompts. Torch-free."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.results import Score, differing_fields
from leaderboards.fields import BoardError
from leaderboards.schema import Board, FileEntry, Submission, Verification
from leaderboards.table_checks import check_column, check_prompts, check_table, ends_of, open_table

if TYPE_CHECKING:
    import pandas as pd

LARGEST_TABLE, LARGEST_FEATURES, LARGEST_CLIP = 64 * 2**20, 512 * 2**20, 24 * 2**20  # bytes
CLIP_SUFFIXES = (".mp4", ".webm")


def check_submission(row: Submission, board: Board) -> None:
    """BoardError at the first thing in which a submission contradicts its board, its files, or itself."""
    check_scores(row, board)
    check_files(row)
    table = open_table(row)
    check_table(row, table)
    check_prompts(row, board, table)
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
    if row.verification:
        _check_verification(f"{where}: verification", row, board, row.verification)


def _check_verification(where: str, row: Submission, board: Board, found: Verification) -> None:
    """A badge that contradicts the row or the board was not given by `verify`; one of an edited row is no badge."""
    if row.badge is None:
        return
    strange = set(found.deviations) ^ set(row.rescorable)
    if strange:
        raise BoardError(f"{where}: deviations: expected those of {', '.join(row.rescorable) or 'nothing'}, got "
                         f"{', '.join(found.deviations)}")
    name, largest = max(found.deviations.items(), key=lambda item: item[1] - board.metrics[item[0]].tolerance)
    if largest > board.metrics[name].tolerance:
        raise BoardError(f"{where}: deviations.{name}: {largest:g} is more than the board's tolerance of "
                         f"{board.metrics[name].tolerance:g}")
    if not 1 <= found.videos <= row.counts["found"] or abs(found.share * row.counts["found"] - found.videos) > 0.01:
        raise BoardError(f"{where}: {found.videos} videos are no share of {found.share:g} of the row's "
                         f"{row.counts['found']}")


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
    low, high = ends_of(metric.range)
    if not low <= score.value <= high:
        raise BoardError(f"{where}: value {score.value:g} lies outside the metric's range [{low:g}, {high:g}]")
    if score.ci95 is not None and not score.ci95[0] <= score.value <= score.ci95[1]:
        raise BoardError(f"{where}: value {score.value:g} lies outside its own interval {list(score.ci95)}")
    if score.n < 1:
        raise BoardError(f"{where}: n: expected at least 1 behind a value, got {score.n}")


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
    stray = sorted(path for path in folder.rglob("*") if path not in listed
                   and (path.is_symlink() or not path.is_dir()))
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
        check_column(row, board, name, score, table)
    elif name in matrices:
        _check_matrix(row, name, score, table, matrices[name])
    elif score.value is not None:
        raise BoardError(f"{row.path.name}: scores.{name}: neither a column of {row.videos.path} nor a matrix of "
                         "features stands behind it")


def _check_matrix(row: Submission, name: str, score: Score, table: pd.DataFrame, matrix: Any) -> None:
    import numpy as np

    where = f"{row.features.path}: {name}"
    if matrix.ndim != 2 or matrix.dtype != np.float32 or not np.isfinite(matrix).all():
        raise BoardError(f"{where}: expected finite float32 features (N, D), got {matrix.dtype} {matrix.shape}")
    if score.value is not None and not score.n <= len(matrix):
        raise BoardError(f"{where}: expected {score.n} rows or more as the score's n says, got {len(matrix)}")
