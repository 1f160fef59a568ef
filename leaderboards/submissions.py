"""A run folder becomes a row: the files first, the JSON last, so that a row is there whole or not at all."""
from __future__ import annotations

import hashlib
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.results import Report, Score, write_atomic
from leaderboards.checks import CLIP_SUFFIXES, LARGEST_CLIP, check_submission
from leaderboards.fields import BoardError
from leaderboards.reading import read_board_rows, read_submission
from leaderboards.schema import Board, FileEntry, Submission, Withdrawal, format_json
from leaderboards.table_checks import fingerprint_prompts


def add_run(board: Board, run: Path | str, name: str, *, clips: int = 0, **fields: Any) -> tuple[Submission, Board]:
    """Write a run of `evalkit run --out` as a row of the board; the first row of a model fixes protocols and prompts.

    clips: copies of so many of the first, of the best and of the worst videos by the ranking metric are kept for the
    site; fields: generation, kind, links, commit, checkpoint of `Submission`. Returns the row and the board as they
    were written. Raises BoardError where the run does not fit the board, or the name stands there already.
    """
    report, slug = _load(run), slug_of(name)
    _refuse_double(board, name, slug)
    board = pin(board, report, fixes_prompts=fields.get("kind", "model") == "model")
    missing = [metric for metric in board.metrics if metric not in report.scores]
    if missing:
        raise BoardError(f"{run}: the run lacks {', '.join(missing)}: score them into the same folder with "
                         f"`evalkit run … --metrics {','.join(missing)} --out {run}`")
    path = board.folder / f"{slug}.json"
    scores = {metric: _tidy(report.scores[metric]) for metric in board.metrics}
    row = Submission(
        slug=slug, board=board.name, name=name, submitted=today(), scores=scores,
        protocols={score.protocol: report.protocols[score.protocol] for score in scores.values()},
        counts=report.counts, versions=report.environment.get("versions", {}),
        seed=report.environment.get("seed") or 0, path=path, videos=FileEntry("", "", 0), **fields)
    before = board.path.read_bytes()
    try:
        row = _write_files(row, report, board, clips)
        write_atomic(path, format_json(row.to_json()))
        row = read_submission(path)  # what is on disk keeps the contract, or is not left there
        check_submission(row, board)
        if (content := format_json(board.to_json())) != before:
            write_atomic(board.path, content)
    except BaseException:
        path.unlink(missing_ok=True)
        shutil.rmtree(path.parent / slug, ignore_errors=True)
        raise
    return row, board


def withdraw(row: Submission, reason: str) -> Submission:
    """Take a row out of the ranking; its scores and files stay."""
    if row.withdrawal:
        raise BoardError(f"{row.name} was withdrawn on {row.withdrawal.date}: {row.withdrawal.reason}")
    return rewrite(replace(row, withdrawal=Withdrawal(today(), reason)))


def rewrite(row: Submission) -> Submission:
    """Write a changed row over the one on disk and read it back; a change that breaks the contract is not left."""
    before = row.path.read_bytes()
    write_atomic(row.path, format_json(row.to_json()))
    try:
        return read_submission(row.path)
    except BoardError:
        write_atomic(row.path, before)
        raise


def slug_of(name: str) -> str:
    """The file name of a row: lower-case ASCII letters, digits and ._-."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:80]
    if not slug:
        raise BoardError(f"expected a name with a Latin letter or a digit, for its file; got {name!r}")
    return slug


def pin(board: Board, report: Report, *, fixes_prompts: bool = True) -> Board:
    """The board with protocols, directions and prompts that it leaves open taken from a run."""
    metrics, protocols = dict(board.metrics), dict(board.protocols)
    for name, metric in metrics.items():
        score = report.scores.get(name)
        if metric.protocol is None and score is not None and score.value is not None:
            metrics[name] = replace(metric, protocol=score.protocol)
            protocols[score.protocol] = report.protocols[score.protocol]
    prompts = board.prompts
    if prompts is None and fixes_prompts:
        prompts = fingerprint_prompts(report.videos["prompt"])
    return replace(board, metrics=metrics, protocols=protocols, prompts=prompts)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def _load(run: Path | str) -> Report:
    try:
        report = Report.load(run)
    except (ValueError, OSError) as error:
        raise BoardError(str(error)) from error
    if report.videos is None:
        raise BoardError(f"{run}: no videos.parquet beside the results: a row needs its scores per video")
    return report


def _refuse_double(board: Board, name: str, slug: str) -> None:
    for row in read_board_rows(board):
        if slug == row.slug or name.casefold() == row.name.casefold():
            raise BoardError(f"{name!r} stands on board {board.name} already, in {row.path}: give another --name, or "
                             "delete that file and its folder")


def _tidy(score: Score) -> Score:
    reason = None if score.reason is None else " ".join(score.reason.split())[:1000]
    return replace(score, reason=reason)


def _write_files(row: Submission, report: Report, board: Board, clips: int) -> Submission:
    shutil.rmtree(row.path.parent / row.slug, ignore_errors=True)  # left by an `add` that was killed
    table = report.videos.drop(columns=[*{"path"} & set(report.videos)])
    keep = [column for column in table if _belongs(column, board, report)]
    videos = _write(row, "videos.parquet", table[keep].to_parquet(index=False))
    features = {name: matrix for name, matrix in report.features.items() if name in board.metrics}
    entry = None
    if features:
        from safetensors.numpy import save

        entry = _write(row, "features.safetensors", save(dict(sorted(features.items()))))
    return replace(row, videos=videos, features=entry, clips=_copy_clips(row, board, report.videos, clips))


def _belongs(column: str, board: Board, report: Report) -> bool:
    """Not a score that the board does not have, nor a component of one."""
    score = column.partition(".")[0]
    return score in board.metrics or score not in report.scores


def _write(row: Submission, name: str, data: bytes) -> FileEntry:
    write_atomic(row.path.parent / row.slug / name, data)
    return FileEntry(f"{row.slug}/{name}", hashlib.sha256(data).hexdigest(), len(data))


def _copy_clips(row: Submission, board: Board, videos: Any, count: int) -> Mapping[str, str]:
    copied = {}
    for video, source in _chosen(board, videos, count):
        path = Path(str(source))
        if not path.is_file() or path.suffix not in CLIP_SUFFIXES or path.stat().st_size > LARGEST_CLIP:
            continue
        name = f"clips/{len(copied):03d}{path.suffix}"
        copied[video] = _write(row, name, path.read_bytes()).path
    return copied


def _chosen(board: Board, videos: Any, count: int) -> Sequence[tuple[str, str]]:
    """The first videos by prompt (the same prompts for every model), the best and the worst."""
    ordered = videos.sort_values(["prompt", "video"], kind="stable")
    ranks = board.rank_by if board.rank_by in videos else next((name for name in board.metrics if name in videos), None)
    picked = [ordered.head(count)]
    if ranks is not None:
        by_score = videos.dropna(subset=[ranks]).sort_values(ranks, kind="stable")
        picked += [by_score.head(count), by_score.tail(count)]
    return list(dict.fromkeys((row["video"], row["path"]) for part in picked for _, row in part.iterrows()))
