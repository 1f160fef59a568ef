"""Tables that list videos or prompts: JSONL, CSV, TSV, Parquet, a JSON list; every error names its line."""
from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data.items import VideoItem, check_unique, in_natural_order

# The first spelling wins where several columns fit; without it, two that fit are an error.
VIDEO_COLUMNS = ("path", "video", "file", "mp4", "name", "video_path", "videopath", "filename", "file_name")
PROMPT_COLUMNS = ("prompt", "caption", "text", "prompt_en")
INDEX_COLUMNS = ("index", "prompt_index", "prompt_id", "id")
_KNOWN = frozenset((*VIDEO_COLUMNS, *PROMPT_COLUMNS, *INDEX_COLUMNS, "seed", "fps", "image"))


@dataclass(frozen=True)
class Row:
    """One row of a table: columns that we know in lower case, empty cells left out."""

    line: int  # as an editor counts; for Parquet and a JSON list, the row counted from 1
    values: Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a table that has any; ValueError as `iter_rows`."""
    rows = list(iter_rows(path))
    if not any(row.values for row in rows):
        raise ValueError(f"{path}: expected at least one row, got an empty table")
    return rows


def iter_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file; ValueError naming the line that cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a table of videos or prompts, found no file {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected a table ending in one of {', '.join(sorted(_READERS))}")
    try:
        yield from (Row(line, _clean(values)) for line, values in reader(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, one prompt each; ValueError for an empty one: it would shift all numbers below."""
    if not path.is_file():
        raise ValueError(f"expected a file of prompts, found no file {path}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            raise ValueError(f"{path}, line {number}: expected a prompt, got an empty line")
    return lines


def pick_column(rows: Sequence[Row], spellings: Sequence[str], where: Path) -> str | None:
    """The column that goes by one of `spellings`, or None; ValueError where several do, not the first."""
    present = [name for name in spellings if any(name in row.values for row in rows)]
    if len(present) > 1 and present[0] != spellings[0]:
        raise ValueError(f"{where}: columns {', '.join(present)} could all be the {spellings[0]!r} column; "
                         f"rename the right one to {spellings[0]!r}")
    return present[0] if present else None


def column_names(rows: Sequence[Row]) -> str:
    """The columns that exist, for messages."""
    return ", ".join(dict.fromkeys(name for row in rows for name in row.values))


def read_manifest(path: Path) -> list[VideoItem]:
    """The videos that a table lists, in natural order of their paths; missing files are listed too.

    Columns: path (or video, file, mp4, name), and where present prompt (or caption, text), seed, fps, image;
    all others go to `extra` as text. Relative paths start at the table's own folder.
    """
    path = Path(path)
    rows = read_rows(path)
    column = pick_column(rows, VIDEO_COLUMNS, path)
    if {"videoid", "contentUrl"} <= set(rows[0].values):
        raise ValueError(f"{path}: this is a WebVid table; spell it webvid:{path.parent}?csv={path.name}")
    if column is None:
        raise ValueError(f"{path}: expected a column path (or {', '.join(VIDEO_COLUMNS[1:])}), "
                         f"got {column_names(rows)}")
    prompt_column = pick_column(rows, PROMPT_COLUMNS, path)
    items = [_item(path, row, column, prompt_column) for row in rows if row.values]
    return in_natural_order(check_unique(items, str(path)))


def optional_number(row: Row, column: str, kind: type, where: Path) -> Any:
    """The cell as `kind` (int or float), None where empty; ValueError naming the line if it is none."""
    if column not in row.values:
        return None
    value = row.values[column]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise ValueError(f"{where}, line {row.line}: expected {column} as {kind.__name__}, got {value!r}")
    if kind is int and isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)  # seeds of 64 bits do not survive the way through float
    return value if kind is int and isinstance(value, int) else kind(number)


def extra_columns(row: Row, used: Sequence[str | None]) -> dict[str, str]:
    """What the row says beyond `used`, as text."""
    return {key: value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
            for key, value in row.values.items() if key not in used}


def _item(path: Path, row: Row, column: str, prompt_column: str | None) -> VideoItem:
    where = row.values.get(column)
    if not isinstance(where, str):
        raise ValueError(f"{path}, line {row.line}: expected a file in column {column!r}, got {where!r}")
    image = row.values.get("image")
    fps = optional_number(row, "fps", float, path)
    if fps is not None and fps <= 0:
        raise ValueError(f"{path}, line {row.line}: expected fps above 0, got {fps:g}")
    prompt = row.values.get(prompt_column) if prompt_column else None
    return VideoItem(
        source=path.parent / where,
        name=_name(where, path.parent),
        prompt=None if prompt is None else str(prompt),
        seed=optional_number(row, "seed", int, path),
        fps=fps,
        image=path.parent / str(image) if image is not None else None,
        extra=extra_columns(row, (column, prompt_column, "seed", "fps", "image")),
    )


def _name(where: str, folder: Path) -> str:
    """A relative name: from the manifest's folder if the file lies there, else the path without root."""
    path = Path(os.path.normpath(where))
    if path.is_absolute():
        inside = path.is_relative_to(folder.resolve())
        path = path.relative_to(folder.resolve() if inside else path.anchor)
    return path.as_posix()


def _clean(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Without empty cells, null and NaN: how CSV, JSON and Parquet write "nothing"."""
    cells = {str(key).strip(): value.strip() if isinstance(value, str) else value for key, value in values.items()}
    return {key.lower() if key.lower() in _KNOWN else key: value for key, value in cells.items()
            if value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))}


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _json_object(line, f"{path}, line {number}")


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a JSON object: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def _read_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: expected a JSON list of objects, got {error.msg}; "
                         "if it has one object per line, name it .jsonl") from error
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a JSON list of objects, got {type(values).__name__}")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise ValueError(f"{path}, entry {number}: expected an object, got {type(value).__name__}")
        yield number, value


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**24)  # captions may be long; the default stops at 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():  # what DictReader makes of cells too many or too few
                    names = reader.fieldnames or ()
                    raise ValueError(f"{path}, line {reader.line_num}: expected {len(names)} cells "
                                     f"({', '.join(names)}), got another number")
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file: {error}") from error
    yield from enumerate(table.to_pylist(), 1)


_READERS = {
    ".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet,
}
MANIFEST_SUFFIXES = frozenset(_READERS)
