"""Flags from the fields of a configuration: the name, type, default and comment of each."""
from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

Config = TypeVar("Config")
_FLAGS = {"source": "from"}  # a field cannot have the name
_KINDS = {"str": str, "int": int, "float": float}


def add_flags(parser: argparse.ArgumentParser, config: type, presets: Mapping[str, Mapping[str, Any]] | None = None,
              ) -> None:
    """A flag for each field; those that are not given are absent from the namespace."""
    comments = _comments(config)
    if presets:
        parser.epilog = f"--preset {'|'.join(presets)} sets the size of the model, and defaults that suit it."
    for field in fields(config):
        flag = "--" + _FLAGS.get(field.name, field.name).replace("_", "-")
        told = f"{comments.get(field.name, '')} (default {_shown(field)})".strip().replace("%", "%%")
        if field.type == "bool":
            parser.add_argument(flag, dest=field.name, action=argparse.BooleanOptionalAction,
                                default=argparse.SUPPRESS, help=told)
        else:
            parser.add_argument(flag, dest=field.name, type=_reader(field), default=argparse.SUPPRESS, help=told,
                                metavar=field.type.upper().partition("[")[0])


def read_flags(args: argparse.Namespace, config: type[Config],
               presets: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """What was given, over what its preset says, over the defaults. UsageError for a preset that there is not."""
    from evalkit.errors import UsageError

    given = {field.name: getattr(args, field.name) for field in fields(config) if hasattr(args, field.name)}
    if presets is None:
        return config(**given)
    name = given.get("preset", config.preset)
    if name not in presets:
        raise UsageError(f"--preset: expected one of {', '.join(presets)}, got {name!r}")
    return config(**{**presets[name], **given})


def _reader(field: Field) -> Any:
    if field.type.startswith("tuple"):
        return lambda text: () if text == "none" else tuple(text.split(","))
    return _KINDS[field.type]


def _shown(field: Field) -> str:
    value = field.default
    if value is MISSING or value in ("", ()):
        return "none"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _comments(config: type) -> dict[str, str]:
    """Field -> the comment behind it, of the class and of those that it extends."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        for name, comment in re.findall(r"^    (\w+): [^#\n]*?# (.+)$", inspect.getsource(cls), re.MULTILINE):
            found[name] = comment
    return found
