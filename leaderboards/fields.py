"""Strict reading of JSON that others wrote: every field has a type, a limit and an error that says where."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError

LONGEST_JSON = 2**20  # bytes
REQUIRED = object()


class BoardError(UsageError):
    """A board or a submission does not keep the contract; the message says where."""


def read_json(path: Path, limit: int = LONGEST_JSON) -> dict[str, Any]:
    """The object in a file; BoardError where it is too large, not JSON, not an object, or names a key twice."""
    if not path.is_file():
        raise BoardError(f"{path}: no such file")
    if (size := path.stat().st_size) > limit:
        raise BoardError(f"{path}: expected at most {limit} bytes, got {size}")
    try:
        raw = json.loads(path.read_bytes(), parse_constant=_refuse_constant, object_pairs_hook=_once)
    except RecursionError as error:
        raise BoardError(f"{path}: expected JSON of a few levels, got it nested without end") from error
    except ValueError as error:
        raise BoardError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BoardError(f"{path}: expected an object, got {type(raw).__name__}")
    return raw


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected a finite number, got {name}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands there twice")
        found[key] = value
    return found


class Fields:
    """Reads the keys of one object; `done` refuses those that nobody asked for.

    Every reader raises BoardError for a missing key without default and for a value of another type.
    """

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise BoardError(f"{where}: expected an object, got {_shown(raw)}")
        self.raw, self.where, self.read = raw, where, set()

    def value(self, key: str, default: Any = REQUIRED) -> Any:
        """Whatever stands there."""
        self.read.add(key)
        if key in self.raw:
            return self.raw[key]
        if default is REQUIRED:
            raise BoardError(f"{self.where}: {key!r} is missing")
        return default

    def refuse(self, key: str, expected: str) -> BoardError:
        return BoardError(f"{self.where}: {key}: expected {expected}, got {_shown(self.raw.get(key))}")

    def text(self, key: str, default: Any = REQUIRED, *, longest: int = 300, shortest: int = 0) -> str:
        """Printable text: no control characters, none that turn the direction of writing."""
        value = self.value(key, default)
        if not isinstance(value, str) or not shortest <= len(value) <= longest or not _is_printable(value):
            raise self.refuse(key, f"printable text of {shortest} to {longest} characters")
        return value

    def matching(self, key: str, pattern: str, expected: str, default: Any = REQUIRED) -> Any:
        """Text that matches `pattern` as a whole (or the default, as it is)."""
        value = self.value(key, default)
        if value is default:
            return default
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.refuse(key, expected)
        return value

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def number(self, key: str, default: Any = REQUIRED, *, least: float = -math.inf, most: float = math.inf,
               null: bool = False) -> float | None:
        """A finite number; None where `null` is allowed."""
        value = self.value(key, default)
        if value is None and null:
            return None
        if type(value) not in (int, float) or not _is_finite(value) or not least <= value <= most:
            raise self.refuse(key, "a number" + _bounds(least, most) + (" or null" if null else ""))
        return float(value)

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 0, most: int = 2**63,
                null: bool = False) -> int | None:
        value = self.value(key, default)
        if value is None and null:
            return None
        if type(value) is not int or not least <= value <= most:
            raise self.refuse(key, "a whole number" + _bounds(least, most) + (" or null" if null else ""))
        return value

    def day(self, key: str) -> str:
        """YYYY-MM-DD, today in UTC at the latest."""
        value = self.matching(key, r"\d{4}-\d\d-\d\d", "a date as YYYY-MM-DD")
        try:
            then = date.fromisoformat(value)
        except ValueError as error:
            raise self.refuse(key, "a date as YYYY-MM-DD") from error
        if then > datetime.now(UTC).date():
            raise BoardError(f"{self.where}: {key}: {value} lies in the future")
        return value

    def list(self, key: str, read: Callable[[Any], bool], expected: str, default: Any = REQUIRED, *,
             shortest: int = 0, longest: int = 10_000) -> tuple:
        """A list whose every element passes `read`."""
        value = self.value(key, default)
        if not isinstance(value, list | tuple) or not shortest <= len(value) <= longest or not all(map(read, value)):
            raise self.refuse(key, expected)
        return tuple(value)

    def objects(self, key: str, default: Any = REQUIRED) -> Mapping[str, Any]:
        """An object; its keys are printable names."""
        value = self.value(key, default)
        if not isinstance(value, Mapping):
            raise self.refuse(key, "an object")
        wrong = [name for name in value if not 0 < len(name) <= 300 or not _is_printable(name)]
        if wrong:
            raise BoardError(f"{self.where}: {key}: expected printable keys, got {wrong[0]!r}")
        return value

    def done(self, known: Iterable[str] = ()) -> None:
        """BoardError for keys that nobody read."""
        unknown = sorted(set(self.raw) - self.read - set(known))
        if unknown:
            raise BoardError(f"{self.where}: unknown key{'s' * (len(unknown) > 1)} "
                             f"{', '.join(map(repr, unknown))}; there are: {', '.join(sorted(self.read))}")


def _is_printable(text: str) -> bool:
    return text.isprintable() and text == text.strip()


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _bounds(least: float, most: float) -> str:
    if least == -math.inf and most == math.inf:
        return ""
    if most in (math.inf, 2**63):
        return f" of at least {least:g}"
    return f" from {least:g} to {most:g}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
