"""Videos out of tar and zip files into a cache folder: safe names, bounded sizes, whole files or none."""
from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from evalkit.data.items import FRAME_SUFFIXES, VIDEO_SUFFIXES, VideoItem, is_still_webp
from evalkit.data.manifests import PROMPT_COLUMNS

MAX_MEMBER_BYTES = 4 * 2**30  # one video
MAX_TEXT_BYTES = 2**20  # one caption
MAX_ARCHIVE_BYTES = 256 * 2**30  # all that is taken out of one archive


def media_folder() -> Path:
    """Where unpacked videos lie: `$EVALKIT_MEDIA`, or `evalkit/media` in the user's cache folder."""
    if "EVALKIT_MEDIA" in os.environ:
        return Path(os.environ["EVALKIT_MEDIA"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evalkit" / "media"


def expand_braces(pattern: str) -> list[str]:
    """`shard-{000..003}.tar` as four names, zeros kept; a pattern without braces as itself."""
    match = re.search(r"\{([0-9]+)\.\.([0-9]+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) < int(first):
        raise ValueError(f"{pattern}: expected a rising range, got {match.group()}")
    names = (f"{pattern[:match.start()]}{number:0{len(first)}d}{pattern[match.end():]}"
             for number in range(int(first), int(last) + 1))
    return [expanded for name in names for expanded in expand_braces(name)]


def unzip_files(archive: Path, names: Collection[str], cache: Path | None = None) -> dict[str, Path]:
    """Name -> unpacked file for each of `names`; a name that the archive lacks maps to a path without a file.

    Raises ValueError for an archive that cannot be read, a name that leaves the folder, or a file beyond the limits.
    """
    folder = _folder_for(archive, cache)
    budget = _Budget(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            present = {info.filename: info for info in opened.infolist() if not info.is_dir()}
            for name in sorted(names):
                if name not in present:
                    continue
                budget.take(name, present[name].file_size, MAX_MEMBER_BYTES)
                with opened.open(present[name]) as stream:
                    _write_once(stream, folder / _safe_name(name, archive), present[name].file_size)
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted, unknown codec
        raise ValueError(f"{archive}: cannot be read as a zip file: {error}") from error
    return {name: folder / _safe_name(name, archive) for name in names}


def read_webdataset(shards: Collection[Path], cache: Path | None = None) -> list[VideoItem]:
    """The videos of WebDataset shards (`key.mp4` with `key.txt` or `key.json` beside it), unpacked into the cache.

    Of a shard without any video, its images (`key.jpg`): beside videos, arrays among them, they are thumbnails.
    Caption and json fields become the prompt, seed, fps and extra. Raises ValueError as `unzip_files` does.
    """
    return [item for shard in shards for item in _read_shard(Path(shard), cache)]


def _read_shard(shard: Path, cache: Path | None) -> list[VideoItem]:
    if not shard.is_file():
        raise ValueError(f"expected a WebDataset shard, found no file {shard}")
    folder, budget = _folder_for(shard, cache), _Budget(shard)
    videos: dict[str, list[tuple[str, Path]]] = {}
    images: dict[str, list[tuple[str, Path]]] = {}
    fields: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r|*") as opened:  # a stream: shards may be larger than memory
            for member in opened:
                if member.isdir():
                    continue
                name = _safe_name(member.name, shard)
                stream = opened.extractfile(member) if member.isreg() else None
                if stream is None:
                    raise ValueError(f"{shard}: expected plain files, got a link or device {member.name!r}")
                key, suffix = _split_key(name)
                if suffix in VIDEO_SUFFIXES or (suffix in FRAME_SUFFIXES and not videos):
                    budget.take(name, member.size, MAX_MEMBER_BYTES)
                    path = _write_once(stream, folder / name, member.size)
                    kind = images if suffix in FRAME_SUFFIXES or is_still_webp(path) else videos
                    kind.setdefault(key, []).append((name, path))
                elif suffix in (".txt", ".json"):
                    budget.take(name, member.size, MAX_TEXT_BYTES)
                    fields.setdefault(key, {}).update(_read_fields(stream.read(), suffix, f"{shard}: {name}"))
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{shard}: cannot be read as a tar file after {len(videos)} videos: {error}") from error
    found, what = (videos, "video") if videos else (images, "image")
    double = next((key for key, files in found.items() if len(files) > 1), None)
    if double is not None:
        raise ValueError(f"{shard}: expected one {what} per key, got two for {double!r}")
    return [_item(f"{shard.stem}/{name}", path, fields.get(key, {})) for key, ((name, path),) in found.items()]


def _item(name: str, path: Path, fields: Mapping[str, Any]) -> VideoItem:
    column = next((spelling for spelling in PROMPT_COLUMNS if spelling in fields), None)
    seed, fps = fields.get("seed"), fields.get("fps")
    rest = {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in fields.items() if key not in (column, "seed", "fps")}
    return VideoItem(path, name, prompt=None if column is None else str(fields[column]),
                     seed=seed if isinstance(seed, int) else None,
                     fps=float(fps) if isinstance(fps, int | float) and fps > 0 else None, extra=rest)


def _read_fields(content: bytes, suffix: str, where: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig").strip()
        fields = {"prompt": text} if suffix == ".txt" else json.loads(text)
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(fields).__name__}")
    return fields


def _split_key(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the base name. `a/b.fps8.mp4` has the key `a/b`."""
    folder, _, base = name.rpartition("/")
    key = base.split(".", 1)[0]
    return (f"{folder}/{key}" if folder else key), PurePosixPath(base).suffix.lower()


def _safe_name(name: str, archive: Path) -> str:
    """The member's relative path. ValueError where it would leave the folder it is written to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name or not path.name:
        raise ValueError(f"{archive}: expected relative names, got {name!r}; refusing the whole archive")
    return path.as_posix()


class _Budget:
    """Counts what is taken out of one archive, against bombs."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.left = archive, MAX_ARCHIVE_BYTES

    def take(self, name: str, size: int, most: int) -> None:
        self.left -= size
        if size > most or self.left < 0:
            limit = most if size > most else MAX_ARCHIVE_BYTES
            raise ValueError(f"{self.archive}: {name} ({size} bytes) exceeds the limit of {limit} bytes")


def _folder_for(archive: Path, cache: Path | None) -> Path:
    """One folder per archive and state of it: a changed archive never serves old files."""
    stat = archive.stat()
    identity = f"{archive.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return (cache or media_folder()) / f"{archive.stem}-{digest}"


def _write_once(stream: IO[bytes], target: Path, size: int) -> Path:
    """Copy exactly `size` bytes to `target` unless they lie there already; whole or not at all, also when killed."""
    if target.is_file() and target.stat().st_size == size:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as out:
            shutil.copyfileobj(stream, out, 2**20)
        if os.path.getsize(temporary) != size:
            raise EOFError(f"{target.name}: expected {size} bytes, got {os.path.getsize(temporary)}")
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target
