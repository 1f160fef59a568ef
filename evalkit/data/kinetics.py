"""Kinetics (Kay et al., 2017): the official table of segments with the usual file names, or folders of labels."""
from __future__ import annotations

import warnings
from pathlib import Path

from evalkit.data.items import MissingVideos, VideoItem, in_natural_order, is_video_name, walk_files
from evalkit.data.manifests import Row, iter_rows, optional_number, read_rows

_COLUMNS = ("youtube_id", "time_start", "time_end")
_FOLDERS = {"validate": "val"}  # of a split, where its name in the tables of 2017 and 2020 is another


def read_kinetics(
    root: Path | str, csv: str | None = None, part: str | None = None, keep_missing: bool = False
) -> list[VideoItem]:
    """The segments of the table whose video lies under `root`, in natural order; the label is the prompt.

    Columns label (absent in test tables), youtube_id, time_start, time_end, split. A segment lies at
    `<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4` in `root`, in its label's folder (spaces or underscores),
    in its split's folder, or in a label's folder of that. `part` keeps one split, `csv` (relative to `root`) says
    which table where there are several. Rows without a file are counted in a `MissingVideos` warning, or kept.
    Without any table, all videos at `label/` or `split/label/` are taken, with the folder's name as prompt.
    """
    root = Path(root)
    if csv is None and not any(root.glob("*.csv")):
        return _from_folders(root, part)
    table = root / csv if csv else _only_table(root)
    rows = [row for row in read_rows(table) if part in (None, row.values.get("split"))]
    if not rows:
        raise ValueError(f"Kinetics: {table} has no row of split {part!r}")
    present = {path.relative_to(root).as_posix() for path in walk_files(root) if is_video_name(path)}
    listed = [_item(root, row, present, table) for row in rows]
    missing = [item for item in listed if item.name not in present]
    items = listed if keep_missing else [item for item in listed if item.name in present]
    if not items:
        raise ValueError(f"Kinetics: none of the {len(rows)} rows of {table} has a video under {root}, "
                         f"for example {missing[0].name}")
    if missing and not keep_missing:
        warnings.warn(MissingVideos(f"Kinetics: {len(missing)} of the {len(rows)} rows of {table.name} have no video "
                                    f"under {root}, first {missing[0].name}"), stacklevel=2)
    return in_natural_order(items)


def _from_folders(root: Path, part: str | None) -> list[VideoItem]:
    items = []
    for path in filter(is_video_name, walk_files(root)):
        *folders, _ = path.relative_to(root).parts
        if folders and (part is None or (folders[0] == part and len(folders) > 1)):
            split = folders[0] if len(folders) > 1 else ""
            items.append(VideoItem(path, path.relative_to(root).as_posix(), folders[-1].replace("_", " "),
                                   extra={"label": folders[-1], "split": split}))
    if not items:
        raise ValueError(f"Kinetics: expected one .csv with columns {', '.join(_COLUMNS)} in {root}, or videos in "
                         f"folders {part or '[split]'}/label; found neither")
    return in_natural_order(items)


def _item(root: Path, row: Row, present: set[str], table: Path) -> VideoItem:
    for column in _COLUMNS:
        if column not in row.values:
            raise ValueError(f"{table}, line {row.line}: expected columns {', '.join(_COLUMNS)}, "
                             f"got {', '.join(row.values)}")
    start, end = (optional_number(row, column, int, table) for column in _COLUMNS[1:])
    label, split = str(row.values.get("label", "")), str(row.values.get("split", ""))
    file = f"{row.values['youtube_id']}_{start:06d}_{end:06d}.mp4"
    places = ["/".join(filter(None, (folder, name, file))) for folder in (split, _FOLDERS.get(split), None)
              for name in (label, label.replace(" ", "_"), None)]
    name = next((place for place in places if place in present), file)
    extra = {key: str(value) for key, value in row.values.items()}
    return VideoItem(root / name, name, label or None, extra=extra)


def _only_table(root: Path) -> Path:
    tables = sorted(path for path in root.glob("*.csv") if _is_table(path))
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise ValueError(f"Kinetics: expected one .csv with columns {', '.join(_COLUMNS)} in {root}, found {found}; "
                         "name it: kinetics:FOLDER?csv=FILE")
    return tables[0]


def _is_table(path: Path) -> bool:
    first = next(iter_rows(path), None)
    return first is not None and set(_COLUMNS) <= set(first.values)
