"""Which prompt made which video: a join by file name, or the naming conventions of generators and benchmarks."""
from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.data.items import VideoItem
from evalkit.data.manifests import (
    INDEX_COLUMNS,
    PROMPT_COLUMNS,
    VIDEO_COLUMNS,
    Row,
    column_names,
    extra_columns,
    optional_number,
    pick_column,
    read_lines,
    read_rows,
)

CONVENTIONS = {
    "file": "the row names its video (path, file name, or file name without suffix)",
    "prompt": "the file is named by its prompt: `<prompt>.mp4`, `<prompt>-<k>.mp4`, also sanitised or cut off",
    "index": "the file is named by its prompt's number: `0007.mp4`, `7_2.mp4`, `prompt0007_seed2.mp4`",
    "order": "video k has prompt k (only on request, and only for equal counts)",
}
_SAMPLE = re.compile(r"(?P<head>.+?)[-_ ]+(?:(?:seed|sample)[-_ ]?)?(?P<sample>[0-9]+)", re.IGNORECASE)
_NUMBERED = re.compile(
    r"(?:(?:prompt|video|sample|clip|index|idx|id|p)[-_ ]?)?(?P<index>[0-9]+)"
    r"(?:[-_ ]+(?:(?:seed|sample|s)[-_ ]?)?(?P<sample>[0-9]+))?",
    re.IGNORECASE,
)
_SHORTEST_CUT = 16  # characters: a shorter beginning of a prompt says too little


@dataclass(frozen=True)
class PromptMatch:
    """The videos with their prompts, and what found no partner."""

    items: list[VideoItem]
    convention: str  # a key of CONVENTIONS
    without_prompt: tuple[str, ...] = ()  # names of videos
    without_video: tuple[str, ...] = ()  # prompts

    def summary(self) -> str:
        """One line for people."""
        matched = len(self.items) - len(self.without_prompt)
        return (f"{matched} of {len(self.items)} videos have a prompt ({CONVENTIONS[self.convention]}); "
                f"{len(self.without_prompt)} have none; {len(self.without_video)} prompts have no video")


@dataclass(frozen=True)
class _Prompt:
    """A row of the prompts file."""

    text: str
    row: Row
    position: int
    extra: Mapping[str, str] = field(default_factory=dict)


def match_prompts(items: Sequence[VideoItem], prompts: Path | str, in_order: bool = False) -> PromptMatch:
    """Give each video its prompt from a JSONL, CSV, TSV, Parquet, JSON or TXT file (one prompt a line).

    Rows with a video column are joined by it. Otherwise the first convention of "prompt" and "index" that fits any
    video is taken for all: see CONVENTIONS. Numbers in file names count from 0 if a 0 occurs, from 1 if the number
    of prompts occurs, and are matched to a column index (or prompt_index, prompt_id, id) where the file has one; where
    none of these decides, that is an error. A sample's number becomes its seed where no seed is known. A video's own
    prompt stays where no row matches. Raises ValueError for a file that cannot be read, a row that fits several
    videos or a video that fits several rows, and where nothing matches.
    """
    path = Path(prompts)
    rows = _read(path)
    video_column = pick_column(rows, VIDEO_COLUMNS, path)
    prompt_column = pick_column(rows, PROMPT_COLUMNS, path)
    if prompt_column is None:
        raise ValueError(f"{path}: expected a column prompt (or {', '.join(PROMPT_COLUMNS[1:])}), "
                         f"got {column_names(rows)}")
    entries = _entries(rows, path, prompt_column, video_column)
    if in_order:
        convention, found = "order", _by_order(items, entries, path)
    elif video_column:
        convention, found = "file", _by_file(items, entries, video_column, path)
    else:
        convention, found = "prompt", _by_prompt(items, entries)
        if not found:
            convention, found = "index", _by_index(items, entries, path)
    if not found:
        tried = ("file",) if video_column else ("prompt", "index")
        raise ValueError(f"{path}: none of the {len(items)} videos (first {items[0].name!r}) fits any of the "
                         f"{len(entries)} prompts; tried: " + "; ".join(CONVENTIONS[name] for name in tried))
    return _result(items, entries, convention, found, path)


def _result(
    items: Sequence[VideoItem], entries: Sequence[_Prompt], convention: str,
    found: Mapping[int, tuple[_Prompt, int | None]], path: Path,
) -> PromptMatch:
    matched = [_with_prompt(item, *found[i], path) if i in found else item for i, item in enumerate(items)]
    used = {entry.text for entry, _ in found.values()}
    return PromptMatch(
        matched, convention,
        without_prompt=tuple(item.name for item in matched if item.prompt is None),
        without_video=tuple(dict.fromkeys(entry.text for entry in entries if entry.text not in used)),
    )


def _with_prompt(item: VideoItem, entry: _Prompt, sample: int | None, path: Path) -> VideoItem:
    values = entry.row.values
    stated = optional_number(entry.row, "seed", int, path)
    seed = next((number for number in (stated, item.seed, sample) if number is not None), None)
    fps = optional_number(entry.row, "fps", float, path)
    image = path.parent / str(values["image"]) if "image" in values else item.image
    return replace(item, prompt=entry.text, seed=seed, fps=fps or item.fps, image=image,
                   extra={**item.extra, **entry.extra})


def _read(path: Path) -> list[Row]:
    if path.suffix.lower() != ".txt":
        return read_rows(path)
    return [Row(number, {"prompt": line}) for number, line in enumerate(read_lines(path), 1)]


def _entries(rows: Sequence[Row], path: Path, prompt_column: str, video_column: str | None) -> list[_Prompt]:
    used = (prompt_column, video_column, "seed", "fps", "image")
    entries = []
    for position, row in enumerate(rows):
        text = row.values.get(prompt_column)
        if not isinstance(text, str):
            raise ValueError(f"{path}, line {row.line}: expected text in column {prompt_column!r}, got {text!r}")
        entries.append(_Prompt(text, row, position, extra_columns(row, used)))
    return entries


def _by_order(items: Sequence[VideoItem], entries: Sequence[_Prompt], path: Path) -> dict[int, Any]:
    if len(items) != len(entries):
        raise ValueError(f"{path}: expected as many prompts as videos ({len(items)}), got {len(entries)}")
    return {i: (entry, None) for i, entry in enumerate(entries)}


def _by_file(items: Sequence[VideoItem], entries: Sequence[_Prompt], column: str, path: Path) -> dict[int, Any]:
    places: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        for key in _tails(item.name):
            places.setdefault(key, []).append(i)
    found: dict[int, tuple[_Prompt, None]] = {}
    for entry in entries:
        written = str(entry.row.values.get(column, "")).replace("\\", "/")
        fits = next((places[key] for key in _tails(written) if key in places), [])
        if len(fits) > 1:
            raise ValueError(f"{path}, line {entry.row.line}: {written!r} fits {len(fits)} videos, among them "
                             f"{items[fits[0]].name!r} and {items[fits[1]].name!r}; give the path from the folder")
        for i in fits:
            if i in found and found[i][0].text != entry.text:
                raise ValueError(f"{path}, lines {found[i][0].row.line} and {entry.row.line}: two prompts for "
                                 f"{items[i].name!r}")
            found[i] = (entry, None)
    return found


def _tails(name: str) -> list[str]:
    """The path and its ever shorter ends, then the same without suffix: `a/b.mp4`, `b.mp4`, `a/b`, `b`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    return ends + [end.removesuffix(Path(end).suffix) for end in ends if Path(end).suffix]


def _by_prompt(items: Sequence[VideoItem], entries: Sequence[_Prompt]) -> dict[int, Any]:
    first = {entry.text: entry for entry in reversed(entries)}
    loose: dict[str, list[_Prompt]] = {}
    for entry in first.values():
        loose.setdefault(sanitised(entry.text), []).append(entry)
    order = sorted(loose)
    matches = ((i, _prompt_of(item.name, first, loose, order)) for i, item in enumerate(items))
    return {i: match for i, match in matches if match}


def _prompt_of(
    name: str, exact: Mapping[str, _Prompt], loose: Mapping[str, list[_Prompt]], order: Sequence[str]
) -> tuple[_Prompt, int | None] | None:
    base = name.rpartition("/")[2]
    # Prompts end in full stops, and frame folders have no suffix: try the whole name before the stem.
    stems: list[tuple[str, int | None]] = [(base, None), (base.removesuffix(Path(base).suffix), None)]
    numbered = _SAMPLE.fullmatch(stems[1][0])
    stems += [(numbered["head"], int(numbered["sample"]))] if numbered else []
    for stem, sample in stems:
        if stem in exact:
            return exact[stem], sample
    for stem, sample in stems[1:]:
        fits = loose.get(sanitised(stem), [])
        if fits:
            return _only(fits, name), sample
    for stem, sample in stems[1:]:
        cut = sanitised(stem)
        if len(cut) >= _SHORTEST_CUT:
            low = bisect.bisect_left(order, cut)
            beginnings = [entry for key in order[low : low + 2] if key.startswith(cut) for entry in loose[key]]
            if beginnings:
                return _only(beginnings, name), sample
    return None


def _only(fits: Sequence[_Prompt], name: str) -> _Prompt:
    if len(fits) > 1:
        raise ValueError(f"the name {name!r} fits several prompts: lines {fits[0].row.line} and {fits[1].row.line}; "
                         "add a column path to the prompts file")
    return fits[0]


def sanitised(text: str) -> str:
    """What file names keep of a prompt: letters and digits in lower case, everything else one underscore."""
    return re.sub(r"[\W_]+", "_", text.casefold()).strip("_")


def _by_index(items: Sequence[VideoItem], entries: Sequence[_Prompt], path: Path) -> dict[int, Any]:
    numbers = {}
    for i, item in enumerate(items):
        base = item.name.rpartition("/")[2]
        match = _NUMBERED.fullmatch(base.removesuffix(Path(base).suffix))
        if match:
            numbers[i] = int(match["index"]), int(match["sample"]) if match["sample"] else None
    by_number = _numbered_prompts(entries, {index for index, _ in numbers.values()}, path)
    return {i: (by_number[index], sample) for i, (index, sample) in numbers.items() if index in by_number}


def _numbered_prompts(entries: Sequence[_Prompt], indices: set[int], path: Path) -> dict[int, _Prompt]:
    """Number -> prompt, by the index column, or by position from 0 or from 1, whichever the file names show."""
    column = pick_column([entry.row for entry in entries], INDEX_COLUMNS, path)
    numbers = [optional_number(entry.row, column, int, path) for entry in entries] if column else []
    if column and None not in numbers:
        by_number: dict[int, _Prompt] = {}
        for number, entry in zip(numbers, entries, strict=True):
            if number in by_number:
                raise ValueError(f"{path}, lines {by_number[number].row.line} and {entry.row.line}: "
                                 f"expected each {column} once, got {number} twice")
            by_number[number] = entry
        return by_number
    from_zero, from_one = 0 in indices, len(entries) in indices
    if indices and from_zero == from_one and len(entries) > 1:
        span = f"{min(indices)} to {max(indices)}"
        raise ValueError(f"{path}: file names number {span} for {len(entries)} prompts, which does not say whether the "
                         "first prompt is 0 or 1; add a column index (or path) to the prompts file")
    return {entry.position + (0 if from_zero else 1): entry for entry in entries}
