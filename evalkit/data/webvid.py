"""WebVid (Bain et al., 2021): the official table of captions with a tree of mp4 files beside it."""
from __future__ import annotations

import warnings
from pathlib import Path

from evalkit.data.items import MissingVideos, VideoItem, in_natural_order, is_video_name, walk_files
from evalkit.data.manifests import extra_columns, iter_rows

_COLUMNS = ("videoid", "name")


def read_webvid(root: Path | str, csv: str | None = None, keep_missing: bool = False) -> list[VideoItem]:
    """The rows of the table whose video lies under `root`, in natural order; the caption is the prompt.

    Columns videoid, name (the caption), page_dir and others, which go to extra. A video lies at `videoid.mp4` or
    `page_dir/videoid.mp4`, in `root` or in `root/videos`. `csv` (relative to `root`) says which table where there
    are several. Rows without a file are counted in a `MissingVideos` warning, or kept with `keep_missing`.
    """
    root = Path(root)
    table = root / csv if csv else _only_table(root)
    present = {path.relative_to(root).as_posix() for path in walk_files(root) if is_video_name(path)}
    items, rows, lost = [], 0, ""
    for row in iter_rows(table):
        if "videoid" not in row.values:
            raise ValueError(f"{table}, line {row.line}: expected columns {', '.join(_COLUMNS)}, "
                             f"got {', '.join(row.values)}")
        rows += 1
        candidates = _candidates(str(row.values["videoid"]), str(row.values.get("page_dir", "")))
        found = next((name for name in candidates if name in present), None)
        if found is None:
            lost = lost or candidates[0]
        if found is not None or keep_missing:
            name = found or candidates[0]
            items.append(VideoItem(root / name, name, row.values.get("name"), extra=extra_columns(row, ("name",))))
    missing = rows - len(items)
    if not items:
        raise ValueError(f"WebVid: none of the {rows} rows of {table} has a video under {root}")
    if missing:
        warnings.warn(MissingVideos(f"WebVid: {missing} of the {rows} rows of {table.name} have no video under {root}, "
                                    f"first {lost}"), stacklevel=2)
    return in_natural_order(items)


def _candidates(videoid: str, page_dir: str) -> list[str]:
    names = [f"{videoid}.mp4"] + ([f"{page_dir}/{videoid}.mp4"] if page_dir else [])
    return [prefix + name for prefix in ("", "videos/") for name in names]


def _only_table(root: Path) -> Path:
    tables = sorted(path for path in root.glob("*.csv") if _is_table(path))
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise ValueError(f"WebVid: expected one .csv with columns {', '.join(_COLUMNS)} in {root}, found {found}; "
                         "name it: webvid:FOLDER?csv=FILE")
    return tables[0]


def _is_table(path: Path) -> bool:
    first = next(iter_rows(path), None)
    return first is not None and set(_COLUMNS) <= set(first.values)
