"""Preference pairs in a JSONL file: chosen, rejected, prompt, tie, dimension, rater; read, checked, written, split."""
from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import UsageError
from evalkit.results import write_atomic

DIMENSIONS = ("visual", "motion", "text", "overall")
COLUMNS = ("chosen", "rejected", "prompt", "tie", "dimension", "rater")


@dataclass(frozen=True)
class Pair:
    """One answer of one rater: of two videos of one prompt, `chosen` is better in `dimension`, or they tie."""

    chosen: str  # path of a video; in memory any name that the caller can turn into a clip
    rejected: str
    prompt: str
    tie: bool = False
    dimension: str = "overall"
    rater: str = ""

    def row(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in COLUMNS}


@dataclass(frozen=True)
class BadRow:
    """A row that was left out, with its line as an editor counts."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass
class Pairs:
    """What a file held: pairs in its order, the line of each, and the rows that were left out."""

    pairs: list[Pair]
    lines: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_pairs(path: str | Path, max_failures: int = 0,
               exists: Callable[[Path], bool] = Path.exists) -> Pairs:
    """The pairs of a JSONL file; videos that are relative paths are looked for beside it.

    Rows that cannot be used are listed in `bad`: no JSON object, a column missing or unknown, one video only, a
    missing video, an unknown dimension, a video against itself, and both rows where one rater contradicts himself
    (the same two videos, prompt and dimension, another answer). UsageError where the file is missing or empty, where
    more than `max_failures` rows are bad, or none is left.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"expected a file of pairs, found no file {path}")
    found = Pairs([])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8 text: {error}") from error
    if not any(line.strip() for line in lines):
        raise UsageError(f"{path}: expected at least one pair, got an empty file")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.pairs.append(_located(parse_pair(line), path.parent, exists))
            found.lines.append(number)
        except ValueError as error:
            found.bad.append(BadRow(number, str(error)))
    _leave_out_contradictions(found)
    found.bad.sort(key=lambda row: row.line)
    shown = "".join(f"\n  {row}" for row in found.bad[:10])
    shown += f"\n  and {len(found.bad) - 10} more" if len(found.bad) > 10 else ""
    if len(found.bad) > max_failures:
        raise UsageError(f"{path}: {len(found.bad)} bad row{'s' * (len(found.bad) != 1)}, more than --max-failures "
                         f"{max_failures} allows:{shown}")
    if not found.pairs:
        raise UsageError(f"{path}: expected at least one good pair, all {len(found.bad)} rows are bad:{shown}")
    return found


def parse_pair(line: str) -> Pair:
    """The pair of one line of JSON; ValueError saying what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    if unknown := sorted(set(row) - set(COLUMNS)):
        raise ValueError(f"unknown columns {', '.join(unknown)}; there are: {', '.join(COLUMNS)}")
    for name in ("chosen", "rejected"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise ValueError(f"one-sided: expected a video as {name!r}, got {row.get(name)!r}")
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise ValueError(f"expected a prompt, got {row.get('prompt')!r}")
    values = {"tie": False, "dimension": "overall", "rater": ""} | row
    values["rater"] = "" if values["rater"] is None else str(values["rater"])
    if not isinstance(values["tie"], bool):
        raise ValueError(f"tie: expected true or false, got {values['tie']!r}")
    if values["dimension"] not in DIMENSIONS:
        raise ValueError(f"dimension: expected one of {', '.join(DIMENSIONS)}, got {values['dimension']!r}")
    if values["chosen"] == values["rejected"]:
        raise ValueError(f"a video against itself: {values['chosen']}")
    return Pair(**values)


def _located(pair: Pair, folder: Path, exists: Callable[[Path], bool]) -> Pair:
    places = {name: folder / getattr(pair, name) for name in ("chosen", "rejected")}
    for name, place in places.items():
        if not exists(place):
            raise ValueError(f"missing video: found no {name} {place}")
    return Pair(**pair.row() | {name: str(place) for name, place in places.items()})


def _leave_out_contradictions(found: Pairs) -> None:
    answers: dict[tuple, dict[str, int]] = defaultdict(dict)
    keys = []
    for pair, line in zip(found.pairs, found.lines, strict=True):
        key = (*sorted((pair.chosen, pair.rejected)), pair.prompt, pair.dimension, pair.rater)
        answers[key].setdefault("tie" if pair.tie else pair.chosen, line)
        keys.append(key)
    kept = []
    for key, pair, line in zip(keys, found.pairs, found.lines, strict=True):
        if len(answers[key]) > 1:
            others = sorted(set(answers[key].values()) - {answers[key]["tie" if pair.tie else pair.chosen]})
            who = f"rater {pair.rater!r}" if pair.rater else "the same pair"
            found.bad.append(BadRow(line, f"contradictory: {who} answers otherwise in line "
                                          f"{', '.join(map(str, others))}"))
        else:
            kept.append((pair, line))
    found.pairs, found.lines = [pair for pair, _ in kept], [line for _, line in kept]


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> Path:
    """Write them as `read_pairs` reads them, in one step."""
    return write_atomic(path, "".join(json.dumps(pair.row()) + "\n" for pair in pairs).encode())


def split_pairs(pairs: Sequence[Pair], shares: Sequence[float], seed: int = 0) -> list[list[int]]:
    """Indices of the pairs of each part, so that no video and no prompt is in two parts.

    Pairs that share a video or a prompt, directly or through others, stay together (union-find); the groups, in an
    order drawn with `seed`, fill the parts up to about `shares` of all pairs. ValueError where shares do not add up
    to 1, or where there are fewer groups than parts.
    """
    if min(shares, default=0) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares: expected positive numbers that add up to 1, got {list(shares)}")
    groups = group_pairs(pairs)
    if len(groups) < len(shares):
        raise ValueError(f"expected at least {len(shares)} groups of pairs that share no video and no prompt, got "
                         f"{len(groups)} among {len(pairs)} pairs: too few to hold some out")
    rng = np.random.Generator(np.random.PCG64([seed, 11]))
    order = sorted((groups[k] for k in rng.permutation(len(groups))), key=len, reverse=True)
    parts: list[list[int]] = [[] for _ in shares]
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        empty = [k for k, part in enumerate(parts) if not part]
        # the part that lacks most; at the end each part still without a group gets one
        choice = empty if empty and left <= len(empty) else range(len(parts))
        lack = {k: shares[k] * len(pairs) - len(parts[k]) for k in choice}
        parts[max(lack, key=lack.get)].extend(group)
    return [sorted(part) for part in parts]


def group_pairs(pairs: Sequence[Pair]) -> list[list[int]]:
    """Indices of pairs that hang together through videos and prompts, in the order of their first."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for pair in pairs:
        for node in (("video", pair.chosen), ("video", pair.rejected)):
            parent[root(node)] = root(("prompt", pair.prompt))
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        groups[root(("prompt", pair.prompt))].append(index)
    return list(groups.values())
