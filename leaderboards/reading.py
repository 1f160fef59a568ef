"""Reads boards and submissions, each field checked for its type, its limits and its place; see FORMAT.md."""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.results import ResultsError, Score, protocol_id
from leaderboards.fields import BoardError, Fields, read_json
from leaderboards.schema import (
    BOARD_SCHEMA,
    COMPOSITE,
    SLUG,
    SUBMISSION_SCHEMA,
    WINS,
    Anchor,
    Board,
    BoardMetric,
    Checkpoint,
    FileEntry,
    Generation,
    PromptSet,
    Submission,
    Verification,
    Withdrawal,
)

_ID, _SHA256 = r"[0-9a-f]{12}", r"[0-9a-f]{64}"
_LINK = r"https?://[^\s<>\"'`\\]{1,500}"


def read_board(path: str | Path) -> Board:
    """The board in a file `boards/NAME.json`. Raises BoardError."""
    path = Path(path)
    raw = Fields(read_json(path), path.name)
    _check_schema(raw, BOARD_SCHEMA)
    if path.parent.resolve().name != "boards" or path.suffix != ".json":
        raise BoardError(f"{path}: expected a board as boards/NAME.json")
    protocols = _read_protocols(raw)
    metrics = {name: _read_metric(entry, f"{path.name}: metrics.{name}", protocols)
               for name, entry in raw.objects("metrics").items()}
    board = Board(
        name=raw.matching("name", SLUG, "lower-case letters, digits and ._-"),
        title=raw.text("title", shortest=1), rank_by=raw.text("rank_by"), metrics=metrics, protocols=protocols,
        summary=raw.text("summary", "", longest=2000), suite=raw.text("suite", ""), path=path,
        prompts=_maybe(_read_prompts, raw.value("prompts", None), f"{path.name}: prompts"))
    raw.done()
    check_board(board)
    return board


def check_board(board: Board) -> None:
    """BoardError where a board contradicts itself."""
    where = f"{board.name}.json"
    if board.path is not None and board.path.stem != board.name:
        raise BoardError(f"{board.path}: expected the name {board.path.stem!r}, got {board.name!r}")
    if not board.metrics:
        raise BoardError(f"{where}: expected at least one metric")
    if board.rank_by not in (*board.metrics, COMPOSITE, WINS):
        raise BoardError(f"{where}: rank_by: expected {COMPOSITE}, {WINS} or a metric of the board "
                         f"({', '.join(board.metrics)}), got {board.rank_by!r}")
    unanchored = [name for name, metric in board.metrics.items() if metric.weight and metric.anchor is None]
    if board.rank_by == COMPOSITE and unanchored:
        raise BoardError(f"{where}: {', '.join(unanchored)}: a composite needs an anchor for each weighted metric")
    if board.rank_by in (COMPOSITE, WINS) and not any(metric.weight for metric in board.metrics.values()):
        raise BoardError(f"{where}: rank_by {board.rank_by}: expected a metric with a weight, got none")


def read_submission(path: str | Path) -> Submission:
    """The submission in one JSON file, its form checked and its files unopened. Raises BoardError."""
    path = Path(path)
    raw = Fields(read_json(path), path.name)
    _check_schema(raw, SUBMISSION_SCHEMA)
    slug = path.name.removesuffix(".json")
    if path.suffix != ".json" or not re.fullmatch(SLUG, slug):
        raise BoardError(f"{path.name}: expected a file name of lower-case letters, digits and ._- ending in .json")
    kind = raw.matching("kind", "model|reference", "'model' or 'reference'")
    protocols = _read_protocols(raw)
    submission = Submission(
        slug=slug, kind=kind, protocols=protocols, path=path,
        board=raw.matching("board", SLUG, "the name of a board"),
        name=raw.text("name", shortest=1, longest=100), submitted=raw.day("submitted"),
        scores={name: _read_score(entry, f"{path.name}: scores.{name}", protocols)
                for name, entry in raw.objects("scores").items()},
        counts=_read_counts(raw), versions=_read_texts(raw, "versions"), seed=raw.integer("seed"),
        videos=_read_file(raw.value("videos"), f"{path.name}: videos", slug),
        features=_maybe(_read_file, raw.value("features"), f"{path.name}: features", slug),
        generation=_maybe(_read_generation, raw.value("generation"), f"{path.name}: generation"),
        links=_read_links(raw), commit=raw.matching("commit", "[0-9A-Za-z._-]{0,80}", "a commit's hash or tag"),
        checkpoint=_maybe(_read_checkpoint, raw.value("checkpoint"), f"{path.name}: checkpoint"),
        clips={video: _inside(clip, f"{path.name}: clips.{video}", slug)
               for video, clip in raw.objects("clips").items()},
        verification=_maybe(_read_verification, raw.value("verification"), f"{path.name}: verification"),
        withdrawal=_maybe(_read_withdrawal, raw.value("withdrawal"), f"{path.name}: withdrawal"))
    raw.done()
    if kind == "model" and submission.generation is None:
        raise BoardError(f"{path.name}: generation: expected how the samples were made, got null")
    return submission


def read_board_rows(board: Board) -> list[Submission]:
    """All submissions of a board by slug, withdrawn ones too. BoardError at the first that is malformed or doubled."""
    rows = [read_submission(path) for path in sorted(board.folder.glob("*.json"))]
    names: dict[str, str] = {}
    for row in rows:
        if row.board != board.name:
            raise BoardError(f"{row.path.name}: belongs to board {row.board!r}, not to {board.name!r}")
        other = names.setdefault(row.name.casefold(), row.path.name)
        if other != row.path.name:
            raise BoardError(f"{row.path.name}: the name {row.name!r} stands on the board already, in {other}")
    return rows


def _check_schema(raw: Fields, expected: str) -> None:
    got = raw.value("schema", None)
    if got != expected:
        raise BoardError(f"{raw.where}: expected schema {expected!r}, got {got!r}")


def _maybe(read: Any, raw: Any, *args: Any) -> Any:
    return None if raw is None else read(raw, *args)


def _read_protocols(raw: Fields) -> dict[str, Mapping[str, Any]]:
    protocols = dict(raw.objects("protocols"))
    for key, protocol in protocols.items():
        if not isinstance(protocol, Mapping) or protocol_id(protocol) != key:
            raise BoardError(f"{raw.where}: protocols.{key}: does not hash to its id: it was edited")
    return protocols


def _read_prompts(raw: Any, where: str) -> PromptSet:
    read = Fields(raw, where)
    prompts = PromptSet(read.integer("count", least=1), read.matching("sha256", _SHA256, "64 hex digits"),
                        read.integer("samples", least=1))
    read.done()
    return prompts


def _read_metric(raw: Any, where: str, protocols: Mapping[str, Any]) -> BoardMetric:
    read = Fields(raw, where)
    low, high = read.list("range", _is_bound, "two numbers or nulls", (None, None), shortest=2, longest=2)
    metric = BoardMetric(
        higher_is_better=read.flag("higher_is_better"), unit=read.text("unit", "", longest=40), range=(low, high),
        summary=read.text("summary", "", longest=1000),
        protocol=read.matching("protocol", _ID, "12 hex digits or null", None),
        weight=read.number("weight", 0.0, least=0.0), anchor=_maybe(_read_anchor, read.value("anchor", None), where),
        tie=read.number("tie", 0.0, least=0.0), tolerance=read.number("tolerance", 0.002, least=0.0, most=0.1))
    read.done()
    if metric.protocol is not None and metric.protocol not in protocols:
        raise BoardError(f"{where}: protocol {metric.protocol!r} is not listed under protocols")
    return metric


def _is_bound(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _read_anchor(raw: Any, where: str) -> Anchor:
    read = Fields(raw, f"{where}.anchor")
    anchor = Anchor(read.number("mean"), read.number("std", least=1e-12))
    read.done()
    return anchor


def _read_score(raw: Any, where: str, protocols: Mapping[str, Any]) -> Score:
    read = Fields(raw, where)
    ci95 = read.list("ci95", _is_number, "two finite numbers or null", shortest=2, longest=2) if (
        read.value("ci95") is not None) else None
    if ci95 is not None and ci95[0] > ci95[1]:
        raise BoardError(f"{where}: ci95: expected the lower end first, got {list(ci95)}")
    reason = read.text("reason", longest=1000, shortest=1) if read.value("reason", None) is not None else None
    try:
        score = Score(
            value=read.number("value", null=True), ci95=ci95, n=read.integer("n"), unit=read.text("unit", longest=40),
            higher_is_better=read.flag("higher_is_better"), protocol=read.matching("protocol", _ID, "12 hex digits"),
            reason=reason, floor=read.number("floor", None, null=True), details=read.objects("details", {}))
    except ResultsError as error:
        raise BoardError(f"{where}: {error}") from error
    read.done()
    if score.protocol not in protocols:
        raise BoardError(f"{where}: protocol {score.protocol!r} is not listed under protocols")
    return score


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _read_counts(raw: Fields) -> dict[str, int]:
    read = Fields(raw.value("counts"), f"{raw.where}: counts")
    counts = {key: read.integer(key) for key in ("found", "scored", "failed")}
    read.done()
    if counts["found"] != counts["scored"] + counts["failed"] or not counts["scored"]:
        raise BoardError(f"{raw.where}: counts: expected found = scored + failed and one scored at least, got {counts}")
    return counts


def _read_texts(raw: Fields, key: str) -> dict[str, str]:
    read = Fields(raw.objects(key), f"{raw.where}: {key}")
    return {name: read.text(name, longest=100) for name in read.raw}


def _read_links(raw: Fields) -> dict[str, str]:
    read = Fields(raw.objects("links"), f"{raw.where}: links")
    return {name: read.matching(name, _LINK, "an http or https link") for name in read.raw}


def _read_file(raw: Any, where: str, slug: str) -> FileEntry:
    read = Fields(raw, where)
    entry = FileEntry(_inside(read.value("path"), where, slug),
                      read.matching("sha256", _SHA256, "64 hex digits"), read.integer("bytes", least=1))
    read.done()
    return entry


def _inside(path: Any, where: str, slug: str) -> str:
    """A path of plain names below the submission's own folder: neither absolute, nor with a step up."""
    parts = path.split("/") if isinstance(path, str) else []
    if len(parts) < 2 or parts[0] != slug or not all(re.fullmatch(r"[\w][\w .,+=@()-]{0,200}", part) for part in parts):
        raise BoardError(f"{where}: expected a path of plain names that begins with {slug + '/'!r}, got {path!r}")
    return path


def _read_generation(raw: Any, where: str) -> Generation:
    read = Fields(raw, where)
    width, height = read.list("size", _is_count, "[width, height] in pixels", shortest=2, longest=2)
    generation = Generation(
        seeds=read.list("seeds", _is_whole, "a list of one seed or more", shortest=1),
        prompts_rewritten=read.flag("prompts_rewritten"), sampler=read.text("sampler", shortest=1, longest=100),
        guidance=read.number("guidance", least=0.0, null=True), size=(width, height),
        fps=read.number("fps", least=0.1, most=1000.0), num_steps=read.integer("num_steps", None, least=1, null=True),
        num_frames=read.integer("num_frames", None, least=1, null=True))
    read.done()
    return generation


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 65536


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _read_checkpoint(raw: Any, where: str) -> Checkpoint:
    read = Fields(raw, where)
    checkpoint = Checkpoint(read.text("run", shortest=1, longest=100), read.integer("step"))
    read.done()
    return checkpoint


def _read_verification(raw: Any, where: str) -> Verification:
    read = Fields(raw, where)
    deviations = Fields(read.objects("deviations"), f"{where}: deviations")
    verification = Verification(
        by=read.text("by", shortest=1, longest=100), date=read.day("date"), share=read.number("share", least=0, most=1),
        videos=read.integer("videos", least=1),
        deviations={name: deviations.number(name, least=0.0) for name in deviations.raw},
        scored=read.matching("scored", _SHA256, "64 hex digits"))
    read.done()
    if not deviations.raw:
        raise BoardError(f"{where}: deviations: expected one metric or more, got none")
    return verification


def _read_withdrawal(raw: Any, where: str) -> Withdrawal:
    read = Fields(raw, where)
    withdrawal = Withdrawal(read.day("date"), read.text("reason", shortest=1))
    read.done()
    return withdrawal
