"""Finds the checkpoints that a running training writes, and tells a whole one from one that is half written."""
from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNFINISHED = (".tmp", ".temp", ".partial", ".incomplete", ".part", ".lock")
ZIPPED = (".pt", ".pth", ".ckpt", ".bin")  # what torch.save writes since 1.6
LONGEST_HEADER = 100 * 2**20  # bytes, of a safetensors file


@dataclass(frozen=True)
class FoundCheckpoint:
    """A file or a folder whose name holds a number, the last of which is the step."""

    path: Path
    step: int

    @property
    def name(self) -> str:
        """With the suffix: model-100.pt and model-100.safetensors are two."""
        return self.path.name


def find_checkpoints(folder: Path) -> list[FoundCheckpoint]:
    """What lies in the folder and has a step in its name, by step; hidden and unfinished names are left out."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        numbers = re.findall(r"\d+", path.name if path.is_dir() else path.stem)
        if numbers and not _looks_unfinished(path.name) and (path.is_dir() or path.suffix in (*ZIPPED, ".safetensors")):
            found.append(FoundCheckpoint(path, int(numbers[-1])))
    return sorted(found, key=lambda one: (one.step, one.path.name))


def snapshot(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of all files of a checkpoint: unequal where something was written in between."""
    return tuple(sorted((str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in _files(path)))


def is_whole(path: Path, settle: float) -> bool:
    """Nothing was written for `settle` seconds, no file is unfinished by its name or cut short by its own account."""
    try:
        files = list(_files(path))
        newest = max((file.stat().st_mtime for file in files), default=time.time())
        return (bool(files) and time.time() - newest >= settle
                and not any(_looks_unfinished(part) for file in files for part in file.relative_to(path.parent).parts)
                and all(map(_is_complete, files)))
    except FileNotFoundError:  # a training that keeps its last few removes the others at any moment
        return False


def _files(path: Path) -> Iterator[Path]:
    return (file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _looks_unfinished(name: str) -> bool:
    return name.startswith((".", "tmp")) or name.endswith(UNFINISHED)


def _is_complete(file: Path) -> bool:
    if file.suffix == ".safetensors":
        return _holds_its_tensors(file)
    if file.name.endswith(".index.json"):
        return all((file.parent / shard).is_file() for shard in _shards(file))
    if file.suffix in ZIPPED:
        with file.open("rb") as opened:
            zipped = opened.read(2) == b"PK"
        return not zipped or zipfile.is_zipfile(file)  # the directory of a zip is written last
    return True


def _holds_its_tensors(file: Path) -> bool:
    """The header of a safetensors file says where its last tensor ends."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            return False
        try:
            header = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return False
    return 8 + length + max(ends, default=0) <= size


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return {""}  # not readable yet: a folder is no file, hence not whole
