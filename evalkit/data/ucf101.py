"""UCF-101 (Soomro et al., 2012): the official folders and split lists, or zips of clips with an index."""
from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from pathlib import Path

from evalkit.data.archives import unzip_files
from evalkit.data.items import MissingVideos, VideoItem, in_natural_order

PARTS = ("train", "test", "all")
_CLIP = re.compile(r"v_(?P<class>\w+?)_(?P<group>g[0-9]+)_(?P<clip>c[0-9]+)")


def class_prompt(class_name: str) -> str:
    """The words of a class name in lower case: `PlayingViolin` -> `playing violin`, `YoYo` -> `yo yo`.

    The rule: a word starts at every capital that a small letter precedes or follows; `UnevenBars`, `TaiChi` and
    `CleanAndJerk` come out as people write them. No article is added.
    """
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", class_name)).lower()


def read_ucf101(
    root: Path | str, split: int = 1, part: str = "all", keep_missing: bool = False
) -> list[VideoItem]:
    """The videos of one part of an official split, in natural order; prompts are the class names in words.

    `root` holds `Class/*.avi` (or `UCF-101/Class/*.avi`); the lists trainlist01.txt, testlist01.txt lie in it, in
    `ucfTrainTestlist`, or beside it. part "all" is every video of the class folders and needs no list.
    Listed videos without a file are counted in a `MissingVideos` warning, or kept as items with `keep_missing`.
    `root` may also be a folder of zips: see `read_ucf101_zips`. extra: class, group (clips of one group share actor
    and scene), clip, split, part.
    """
    root, split = Path(root), int(split)
    _check_part(part)
    videos = _folder_of_classes(root)
    if videos is None:
        return read_ucf101_zips(root, split, part)
    if part == "all":
        return in_natural_order(_item(path, videos) for path in videos.glob("*/*.avi"))
    listed = [videos / name for name in _read_list(root, split, part)]
    missing = [path for path in listed if not path.is_file()]
    if missing and not keep_missing:
        warnings.warn(MissingVideos(f"UCF-101 {part} split {split}: {len(missing)} of {len(listed)} listed videos "
                                    f"have no file under {videos}, first {missing[0].name}"), stacklevel=2)
    kept = listed if keep_missing else [path for path in listed if path.is_file()]
    if not kept:
        raise ValueError(f"UCF-101: none of the {len(listed)} videos of {part} split {split} lies under {videos}")
    return in_natural_order(_item(path, videos, {"split": str(split), "part": part}) for path in kept)


def read_ucf101_zips(
    root: Path | str, split: int = 1, part: str = "all", cache: Path | None = None
) -> list[VideoItem]:
    """The clips of `root/*.zip`, each with an `index.csv` (file, class, group, clip, split1, ...), unpacked.

    Only the clips of the asked part are unpacked, into `cache` (the user's media cache by default). A clip that an
    index lists and the zip lacks is an item all the same: it fails when read. Frames and rate are the zip's own.
    """
    root, column = Path(root), f"split{int(split)}"
    _check_part(part)
    archives = sorted(path for path in root.glob("*.zip") if _has_index(path))
    if not archives:
        raise ValueError(f"UCF-101: expected class folders with .avi files, or zips with an index.csv, in {root}")
    items = []
    for archive in archives:
        rows = [row for row in _read_index(archive, column) if part in ("all", row[column])]
        files = unzip_files(archive, [row["file"] for row in rows], cache)
        for row in rows:
            extra = {"class": row["class"], "group": row["group"], "clip": row["clip"], "split": str(split),
                     "part": row[column]}
            name = f"{row['class']}/{row['file']}"
            items.append(VideoItem(files[row["file"]], name, class_prompt(row["class"]), extra=extra))
    return in_natural_order(items)


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"UCF-101: expected part to be one of {', '.join(PARTS)}, got {part!r}")


def _folder_of_classes(root: Path) -> Path | None:
    folders = (folder for folder in (root, root / "UCF-101") if any(folder.glob("*/*.avi")))
    return next(folders, None)


def _read_list(root: Path, split: int, part: str) -> list[str]:
    """`Class/v_Class_g01_c01.avi` per line, in the train lists followed by the number of the class."""
    name = f"{part}list{split:02d}.txt"
    places = [folder / name for folder in (root, root / "ucfTrainTestlist", root.parent / "ucfTrainTestlist")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"UCF-101: found no {name}; looked for {', '.join(map(str, places))}")
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            match = re.fullmatch(r"([^\s/]+/[^\s/]+\.avi)(\s+[0-9]+)?", line.strip())
            if match is None:
                raise ValueError(f"{path}, line {number}: expected Class/video.avi [class number], got {line!r}")
            names.append(match[1])
    return names


def _item(path: Path, videos: Path, extra: dict[str, str] | None = None) -> VideoItem:
    named = _CLIP.fullmatch(path.stem)
    known = {"class": path.parent.name} | ({"group": named["group"], "clip": named["clip"]} if named else {})
    name = path.relative_to(videos).as_posix()
    return VideoItem(path, name, class_prompt(path.parent.name), extra=known | (extra or {}))


def _has_index(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as opened:
            return "index.csv" in opened.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: expected a zip file: {error}") from error


def _read_index(archive: Path, column: str) -> list[dict[str, str]]:
    with zipfile.ZipFile(archive) as opened, opened.open("index.csv") as stream:
        rows = list(csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")))
    needed = ("file", "class", "group", "clip", column)
    if not rows or any(row.get(name) is None for row in rows for name in needed):
        raise ValueError(f"{archive}: expected index.csv with columns {', '.join(needed)} in every row, "
                         f"got {', '.join(rows[0]) if rows else 'no rows'}")
    return rows
