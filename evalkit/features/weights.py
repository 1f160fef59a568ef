"""Weight files: where each comes from, its hash and licence, where it lies here. Scoring never downloads by itself."""
from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.features.weight_files import KNOWN, WeightFile, needed_by

if TYPE_CHECKING:
    from torch import Tensor


class MissingWeights(FileNotFoundError):
    """The weights of an extractor are not on this machine; the message ends with the command that fetches them."""


def weights_directory() -> Path:
    """Where `fetch_weights` puts files: `$XDG_CACHE_HOME/evalkit/weights`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalkit" / "weights"


def search_directories() -> list[Path]:
    """The folders of the environment variable EVALKIT_WEIGHTS in order, then `weights_directory()`."""
    named = [Path(part).expanduser() for part in os.environ.get("EVALKIT_WEIGHTS", "").split(os.pathsep) if part]
    return [*named, weights_directory()]


def weight_file(name: str) -> WeightFile:
    """The registered file called `name`, or any model and tag that open_clip knows ("open_clip/ViT-H-14/TAG").

    Raises ValueError naming what exists.
    """
    if name in KNOWN:
        return KNOWN[name]
    kind, *rest = name.split("/")
    if kind == "open_clip" and len(rest) == 2:
        return _open_clip_file(name, *rest)
    raise ValueError(f"unknown weights {name!r}; there are: {', '.join(KNOWN)}, open_clip/MODEL/TAG")


def find_weights(name: str) -> Path | None:
    """The path of a registered file, or None: `search_directories()` recursively, then the Hugging Face cache."""
    entry = weight_file(name)
    folders = {entry.repo.split("/")[-1], entry.repo.replace("/", "--")} if entry.repo else None
    for path in _files_under(search_directories()):
        if path.name in entry.files and (folders is None or path.parent.name in folders):
            return path
    return _find_in_hub_cache(entry) if entry.repo else None


def require_weights(*names: str) -> Path:
    """The path of the first of `names` that is here; MissingWeights, ending with the command, where none is."""
    return _require(names)[1]


def checked_weights(*names: str) -> tuple[Path, str]:
    """Path and sha256 of the first of `names` that is here.

    Raises MissingWeights where none is, ValueError where the file is not the one that the registry describes.
    """
    name, path = _require(names)
    digest = sha256_of(path)
    _check(weight_file(name), path, digest)
    return path, digest


def verify_weights(name: str) -> str:
    """The sha256 of a file that is here, checked against the registry and what was recorded at its first fetch.

    Raises MissingWeights where it is absent and ValueError where it differs.
    """
    path, digest = checked_weights(name)
    recorded = _sidecar(path)
    if recorded.is_file() and (expected := recorded.read_text().strip()) != digest:
        raise ValueError(f"{path}: expected sha256 {expected} as recorded at the first fetch, got {digest}")
    return digest


def list_weights() -> list[WeightFile]:
    """Every registered file, with its path where it lies on this machine."""
    return [replace(entry, path=find_weights(name)) for name, entry in KNOWN.items()]


def missing_for(key: str) -> list[str]:
    """Names of the weights that the extractor `key` lacks on this machine; [] where it is ready to run."""
    return [names[0] for names in needed_by(key) if not any(find_weights(name) for name in names)]


def fetch_weights(name: str, from_path: str | Path | None = None) -> Path:
    """Download a file to `weights_directory()` (hub models: to the hub's cache), or import a local file or folder.

    Writes are atomic and the hash is checked first; where the registry knows none, it is recorded beside the file.
    Raises ValueError on a wrong hash, OSError naming the addresses tried when none answers.
    """
    entry = weight_file(name)
    if from_path is not None:
        return _import(entry, Path(from_path).expanduser())
    if entry.repo:
        return _download_from_hub(entry)
    if not entry.urls:
        raise ValueError(f"{name} has no public address ({entry.note}); evalkit weights fetch {name} --from FILE")
    failures = []
    for url in entry.urls:
        try:
            return _install(entry, weights_directory() / entry.files[0], lambda part, url=url: _download(url, part))
        except OSError as error:
            failures.append(f"{url}: {error}")
    raise OSError(f"could not fetch {name}: " + "; ".join(failures))


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, on the CPU; nothing in the file is executed."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file; a file of unchanged size and time is hashed once per process."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(names: tuple[str, ...]) -> tuple[str, Path]:
    for name in names:
        if (path := find_weights(name)) is not None:
            return name, path
    entry = weight_file(names[0])
    size = f"about {entry.megabytes:g} MB, " if entry.megabytes else ""
    looked = ", ".join(map(str, search_directories()))
    fetch = f"evalkit weights fetch {entry.name}" + ("" if entry.urls or entry.repo else " --from FILE")
    raise MissingWeights(f"the weights {entry.name} ({entry.files[0]}, {size}{entry.licence}) are not on this machine; "
                         f"looked in {looked}; get them with: {fetch}")


def _check(entry: WeightFile, path: Path, digest: str) -> None:
    if entry.sha256 and not digest.startswith(entry.sha256):
        raise ValueError(f"{path}: expected sha256 {entry.sha256} for {entry.name}, got {digest}")


def _files_under(directories: list[Path]) -> Iterator[Path]:
    for directory in directories:
        for folder, _, files in os.walk(directory):
            yield from (Path(folder, file) for file in files)


def _find_in_hub_cache(entry: WeightFile) -> Path | None:
    cache = _hub_cache()
    if not cache.is_dir():
        return None  # spares the import
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(entry.repo, file, cache, entry.revision) for file in entry.files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def _open_clip_file(name: str, model: str, tag: str) -> WeightFile:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    repo = get_pretrained_cfg(model, tag).get("hf_hub", "").rstrip("/")
    if not repo:
        raise ValueError(f"{name}: open_clip knows no hub model of that name and tag; tags of {model}: "
                         f"{', '.join(list_pretrained_tags_by_model(model)) or 'none'}")
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
    return WeightFile(name, files, "see the model's page", name, repo=repo)


def _download_from_hub(entry: WeightFile) -> Path:
    from huggingface_hub import snapshot_download

    for file in entry.files:
        snapshot_download(entry.repo, revision=entry.revision, cache_dir=_hub_cache(),
                          allow_patterns=[file, *entry.companions])
        if (path := _find_in_hub_cache(entry)) is not None:
            _check(entry, path, sha256_of(path))
            return path
    raise OSError(f"{entry.repo} at {entry.revision} holds none of {', '.join(entry.files)}")


def _import(entry: WeightFile, source: Path) -> Path:
    folder = weights_directory() / entry.repo.replace("/", "--") if entry.repo else weights_directory()
    candidates = [source / file for file in entry.files] if source.is_dir() else [source]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"expected {' or '.join(entry.files)} at {source}, found none")
    name = file.name if file.name in entry.files else entry.files[0]
    target = _install(entry, folder / name, lambda part: shutil.copyfile(file, part))
    for companion in entry.companions:
        shutil.copyfile(file.parent / companion, folder / companion)
    return target


def _install(entry: WeightFile, target: Path, write: Callable[[Path], object]) -> Path:
    """Let `write(part)` fill a temporary file, check it, and move it to `target` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder, "part")  # not the file's own name, by which a broken download would be found
        write(part)
        digest = sha256_of(part)
        _check(entry, part, digest)
        if not entry.sha256:
            _sidecar(target).write_text(digest + "\n")
        part.replace(target)
    return target


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _download(url: str, path: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "video-evalkit"})
    with urllib.request.urlopen(request, timeout=60) as reply, open(path, "wb") as file:
        if reply.headers.get_content_type() == "text/html":
            raise OSError("expected a file, got a web page (the host may want a login or a confirmation)")
        total, done = int(reply.headers.get("Content-Length") or 0), 0
        while block := reply.read(1 << 20):
            done += file.write(block)
            _progress(url, done, total)
    if total and done != total:
        raise OSError(f"expected {total} bytes, got {done}")


def _progress(url: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        share = f" ({done / total:.0%})" if total else ""
        sys.stderr.write(f"\r{url}: {done / 1e6:.1f} MB{share}" + ("\n" if done == total else ""))
