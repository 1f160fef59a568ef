"""Which videos are meant: a folder, a glob, a file, a table, WebDataset shards, or a known data set by its name."""
from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from evalkit.data.archives import expand_braces, read_webdataset
from evalkit.data.items import (
    VIDEO_SUFFIXES,
    MissingVideos,
    VideoItem,
    check_unique,
    in_natural_order,
    is_frame_folder,
    is_video_name,
    walk_files,
)
from evalkit.data.kinetics import read_kinetics
from evalkit.data.manifests import MANIFEST_SUFFIXES, read_manifest
from evalkit.data.prompts import PromptMatch, match_prompts
from evalkit.data.ucf101 import read_ucf101
from evalkit.data.webvid import read_webvid

__all__ = ["DATASETS", "MissingVideos", "PromptMatch", "VideoItem", "find_videos", "match_prompts"]


class UnmatchedPrompts(UserWarning):
    """Some videos have no prompt, or some prompts no video; the message counts them."""


@dataclass(frozen=True)
class Dataset:
    """A kind of input that `find_videos` understands, for `evalkit list datasets`."""

    name: str
    summary: str
    layout: str
    example: str  # how the command line spells it
    read: Callable[..., list[VideoItem]] | None = None  # of those spelt `name:folder?option=value`
    options: Mapping[str, type] = field(default_factory=dict)


_NAMED = (
    Dataset("ucf101", "UCF-101, 13 320 clips of 101 actions; prompts are the class names in words",
            "Class/*.avi and ucfTrainTestlist/*.txt, or zips of clips with an index.csv",
            "ucf101:FOLDER?split=1&part=test", read_ucf101, {"split": int, "part": str, "keep_missing": bool}),
    Dataset("webvid", "WebVid: stock footage with captions",
            "one .csv (videoid, name, page_dir, ...) and videoid.mp4 or page_dir/videoid.mp4",
            "webvid:FOLDER?csv=results_2M_val.csv", read_webvid, {"csv": str, "keep_missing": bool}),
    Dataset("kinetics", "Kinetics-400/600/700: segments of actions; prompts are the labels",
            "one .csv (label, youtube_id, time_start, time_end, split) and [split/][label/]<id>_<start>_<end>.mp4; or "
            "no table, and label/*.mp4 or split/label/*.mp4",
            "kinetics:FOLDER?part=val", read_kinetics, {"csv": str, "part": str, "keep_missing": bool}),
)
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (
    Dataset("folder", "every video below a folder, a glob, or one file",
            f"{' '.join(sorted(VIDEO_SUFFIXES))}; a sub-folder of numbered images only is one video", "samples/"),
    Dataset("manifest", "the videos that a table lists",
            "JSONL, CSV, TSV, Parquet: path (or video, file, mp4, name), prompt, seed, fps, image", "videos.jsonl"),
    Dataset("webdataset", "tar shards, unpacked into $EVALKIT_MEDIA (by default below the user's cache folder)",
            "key.mp4 with key.txt or key.json beside it, or, in a shard without any video, key.jpg",
            "'shard-{000..003}.tar'"),
    *_NAMED,
)}


def find_videos(where: Path | str | Sequence[Any], prompts: Path | str | None = None) -> list[VideoItem]:
    """The videos that `where` means, in natural order of their names (a sequence keeps its own order).

    where: a folder (every visible video below it; see DATASETS), a glob, one file, a table that lists videos, a
    WebDataset tar or several (`shard-{000..003}.tar`), `ucf101:folder?split=1&part=test` and its like, or a sequence
    of paths, VideoItems and arrays of frames. A listed file that does not exist is an item: it fails when it is read.
    prompts: see `match_prompts`; an `UnmatchedPrompts` warning counts what has no partner.
    Raises ValueError where there is no video, saying what was looked for and where.
    """
    items = _find(where)
    if not items:
        raise ValueError(f"found no video in {where}; looked for {DATASETS['folder'].layout}. Data sets with a layout "
                         f"of their own are spelt {', '.join(dataset.example for dataset in _NAMED)}")
    if prompts is None:
        return items
    match = match_prompts(items, prompts)
    if match.without_prompt or match.without_video:
        warnings.warn(UnmatchedPrompts(match.summary()), stacklevel=2)
    return match.items


def _find(where: Path | str | Sequence[Any]) -> list[VideoItem]:
    if not isinstance(where, str | os.PathLike):
        return _from_sequence(list(where))
    text = os.fspath(where)
    name, colon, rest = text.partition(":")
    if colon and name in DATASETS and not os.path.exists(text):
        return _read_named(DATASETS[name], rest)
    if Path(text).is_dir():
        return in_natural_order(_from_folder(Path(text)))
    if not os.path.exists(text):
        if text.lower().endswith((".tar", ".tar.gz", ".tgz")) and (re.search(r"[{*?]", text)):
            return _from_shards(text)
        if glob.has_magic(text):
            return in_natural_order(_from_glob(text))
        raise ValueError(f"found nothing at {text}; expected a folder, a glob, a video, a table "
                         f"({' '.join(sorted(MANIFEST_SUFFIXES))}), a .tar, or one of "
                         + ", ".join(dataset.example for dataset in _NAMED))
    return _from_file(Path(text))


def _from_file(path: Path) -> list[VideoItem]:
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path)
    if path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
        return _from_shards(str(path))
    return [VideoItem(path, path.name)]


def _from_folder(root: Path) -> list[VideoItem]:
    """Folders of numbered images become one item; what has no suffix of a video is not one."""
    by_folder: dict[Path, list[Path]] = {}
    for path in walk_files(root):
        by_folder.setdefault(path.parent, []).append(path)
    parents = {parent for folder in by_folder for parent in folder.parents}
    items = []
    for folder, files in by_folder.items():
        if folder not in parents and is_frame_folder(files):
            name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
            items.append(VideoItem(folder, name))
        else:
            items += [VideoItem(path, path.relative_to(root).as_posix()) for path in files if is_video_name(path)]
    return items


def _from_glob(pattern: str) -> list[VideoItem]:
    """Names start below the last folder that has no magic; a folder that matches is searched like any folder."""
    fixed = Path(*[part for part in _before_magic(Path(pattern).parts)])
    items = []
    for found in glob.iglob(pattern, recursive=True):
        path = Path(found)
        if path.is_dir() and "**" not in pattern:
            prefix = path.relative_to(fixed).as_posix()
            frames = is_frame_folder([child for child in path.iterdir() if not child.name.startswith(".")])
            items += [VideoItem(path, prefix)] if frames else [
                VideoItem(item.source, f"{prefix}/{item.name}") for item in _from_folder(path)]
        elif path.is_file() and is_video_name(path):
            items.append(VideoItem(path, path.relative_to(fixed).as_posix()))
    return items


def _before_magic(parts: Sequence[str]) -> list[str]:
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return list(parts[:first])


def _from_shards(pattern: str) -> list[VideoItem]:
    paths = [path for name in expand_braces(pattern)
             for path in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    items = read_webdataset([Path(path) for path in paths])
    return in_natural_order(check_unique(items, pattern))


def _from_sequence(entries: Sequence[Any]) -> list[VideoItem]:
    """Paths keep their place; their names start below the folder that all share. Arrays are named by position."""
    paths = [Path(entry) for entry in entries if isinstance(entry, str | os.PathLike)]
    parents = {str(Path(os.path.abspath(path)).parent) for path in paths}
    common = Path(os.path.commonpath(parents)) if parents else Path()
    items = []
    for position, entry in enumerate(entries):
        if isinstance(entry, VideoItem):
            items.append(entry)
        elif isinstance(entry, str | os.PathLike):
            name = Path(os.path.abspath(entry)).relative_to(common).as_posix()
            items.append(VideoItem(Path(entry), name))
        elif hasattr(entry, "shape"):
            items.append(VideoItem(entry, f"array-{position:05d}"))
        else:
            raise ValueError(f"entry {position}: expected a path, a VideoItem or an array of frames, "
                             f"got {type(entry).__name__}")
    return list(check_unique(items, "the list of videos"))


def _read_named(dataset: Dataset, rest: str) -> list[VideoItem]:
    """`folder?option=value&option=value`."""
    if dataset.read is None:
        raise ValueError(f"{dataset.name} is recognised without its name; write {dataset.example}")
    folder, _, query = rest.partition("?")
    options = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in dataset.options:
            raise ValueError(f"{dataset.name}: expected options {', '.join(dataset.options)}, got {key!r}")
        options[key] = _option(dataset, key, value)
    if not Path(folder).is_dir():
        raise ValueError(f"{dataset.name}: found no folder {folder!r}; expected {dataset.layout}")
    return dataset.read(folder, **options)


def _option(dataset: Dataset, key: str, value: str) -> Any:
    kind = dataset.options[key]
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if kind is str or (kind is int and value.isdecimal()):
        return kind(value)
    wanted = "true or false" if kind is bool else "a number"
    raise ValueError(f"{dataset.name}: expected {key} as {wanted}, got {value!r}")
