"""One video of a set, where it lies and what is known about it; and what counts as a video."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv",
    ".gif", ".webp", ".npy", ".npz", ".pt",
})
FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})


class MissingVideos(UserWarning):
    """A data set lists videos that do not lie where they should; the message counts them."""


@dataclass(frozen=True)
class VideoItem:
    """A video that may or may not be readable; reading it later says why not."""

    source: Any  # a path, or an array of frames
    name: str  # stable, relative, unique within the set; "/" between folders
    prompt: str | None = None
    seed: int | None = None  # tells samples of one prompt apart: the generator's seed, or the sample's number
    fps: float | None = None  # frames per second where the file does not say, or says it wrong
    image: Path | None = None  # first frame given to an image-to-video model
    extra: Mapping[str, str] = field(default_factory=dict)


def natural_key(name: str) -> tuple[list[Any], str]:
    """Sorts `clip2` before `clip10`, upper and lower case together; a total order, whatever the disk says."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def in_natural_order(items: Iterable[VideoItem]) -> list[VideoItem]:
    """The items by natural order of their names."""
    return sorted(items, key=lambda item: natural_key(item.name))


def check_unique(items: Sequence[VideoItem], where: str) -> Sequence[VideoItem]:
    """The items; ValueError where two have one name, because a video would count twice."""
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise ValueError(f"{where}: expected each video once, got {item.name!r} twice")
        seen.add(item.name)
    return items


def printable(text: str | None) -> str | None:
    """The text with what UTF-8 cannot hold spelt out: file names may be any bytes, and JSON half of a character."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def walk_files(root: Path) -> Iterator[Path]:
    """Every visible file below `root`; links to folders are followed once; OSError if unreadable."""
    visited: set[str] = set()

    def complain(error: OSError) -> None:
        raise error

    for folder, children, files in os.walk(root, followlinks=True, onerror=complain):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up: its files are listed already
            children.clear()
            continue
        visited.add(real)
        children[:] = sorted(child for child in children if not _hidden(child))
        yield from (Path(folder, name) for name in sorted(files) if not _hidden(name))


def is_video_name(path: Path) -> bool:
    """Whether the suffix is one that videos have; the content is judged when it is read."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_frame_folder(files: Sequence[Path]) -> bool:
    """Whether a folder of exactly these files is one video: images that differ in a final number alone."""
    images = all(path.suffix.lower() in FRAME_SUFFIXES or is_still_webp(path) for path in files)
    numbered = all(re.search(r"[0-9]$", path.stem) for path in files)
    return images and numbered and len({re.sub(r"[0-9]+$", "", path.stem) for path in files}) == 1


def is_still_webp(path: Path) -> bool:
    """A .webp that moves is a video of its own."""
    return path.suffix.lower() == ".webp" and path.is_file() and _webp_kind(path) == "still"


def is_animated_webp(path: Path) -> bool:
    """Whether a file, whatever its name, is WebP that moves."""
    return _webp_kind(path) == "animated"


def _webp_kind(path: Path) -> str:
    """"animated", as bit 1 of byte 20 says in the extended format, "still", or "" for what is no WebP."""
    with path.open("rb") as file:
        head = file.read(21)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return ""
    return "animated" if head[12:16] == b"VP8X" and len(head) == 21 and head[20] & 2 else "still"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
