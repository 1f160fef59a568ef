"""Scores and features kept by the hash of everything they depend on; safe to share between processes and to kill."""
from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from evalkit.results import write_atomic

_DIGEST = 32  # every entry ends with the sha256 of what precedes, so that a damaged one reads as absent


def default_cache() -> Path:
    """`$EVALKIT_CACHE`, or `evalkit/scores` in the user's cache folder."""
    if os.environ.get("EVALKIT_CACHE"):
        return Path(os.environ["EVALKIT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evalkit" / "scores"


def cache_key(**parts: Any) -> str:
    """The sha256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """A folder of entries named by their key. `Cache(None)` keeps nothing.

    Two processes may write one entry at once: both write the same bytes, and the rename is atomic.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder is not None else None

    def check(self) -> None:
        """Raise OSError naming the folder where entries cannot be written and read back."""
        key = cache_key(kind="check")
        self.store_json(key, True)
        self._load(key)

    def load_json(self, key: str) -> Any | None:
        """The entry, or None where there is none (or it is damaged)."""
        data = self._load(key)
        return None if data is None else json.loads(data)

    def store_json(self, key: str, value: Any) -> None:
        """Keep a JSON value; OSError naming the folder where the disk is full or read-only."""
        self._store(key, json.dumps(value, allow_nan=False).encode())

    def load_tensors(self, key: str) -> dict[str, Tensor] | None:
        """The named tensors, or None where there are none (or they are damaged)."""
        from safetensors.torch import load

        data = self._load(key)
        return None if data is None else load(data)

    def store_tensors(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep named tensors, on the CPU and contiguous."""
        from safetensors.torch import save

        self._store(key, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _load(self, key: str) -> bytes | None:
        if self.folder is None:
            return None
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        body, digest = data[:-_DIGEST], data[-_DIGEST:]
        return body if hashlib.sha256(body).digest() == digest else None

    def _store(self, key: str, body: bytes) -> None:
        if self.folder is None:
            return
        try:
            write_atomic(self._path(key), body + hashlib.sha256(body).digest())
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise OSError(
                error.errno,
                f"cannot write to the cache {self.folder}: {why}. What is scored so far is kept: free some space "
                "or name another folder (--cache DIR or EVALKIT_CACHE), and run the same command again",
            ) from error
