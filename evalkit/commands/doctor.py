"""evalkit doctor: what works on this machine, what is missing, how to get it."""
from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One line of the examination: state is "ok", "missing" (something optional) or "broken"."""

    what: str
    state: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__


def main(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    console, broken = Console(), False
    for finding in examine():
        broken |= finding.state == "broken"
        colour = {"ok": "green", "missing": "yellow", "broken": "red"}[finding.state]
        console.print(Text.assemble((f"{finding.state:<8}", colour), f"{finding.what:<24} {finding.detail}"),
                      soft_wrap=True)
    return int(broken)


def examine() -> Iterator[Finding]:
    """Try everything that scoring relies on, for real."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")
    for what, check in (("torch", _torch), ("GPU", _gpu), ("decoding (PyAV)", _pyav), ("decoding (TorchCodec)", _codec),
                        ("cache", _cache), ("scoring", _scoring)):
        yield _try(what, check)
    yield from _weights()


def _try(what: str, check: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(what, *check())
    except Exception as error:  # the purpose of this command is to say what fails, whatever it is
        return Finding(what, "broken", f"{type(error).__name__}: {error}")


def _torch() -> tuple[str, str]:
    import torch

    return "ok", f"{torch.__version__}, {torch.get_num_threads()} threads"


def _gpu() -> tuple[str, str]:
    import torch

    if not torch.cuda.is_available():
        return "missing", "none; scoring runs on the CPU, one video per core"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return "ok", ", ".join(names)


def _pyav() -> tuple[str, str]:
    import av
    import torch

    from evalkit.data.video import read_video, write_video

    frames = (torch.arange(8 * 3 * 64 * 64) % 251).reshape(8, 3, 64, 64).to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        write_video(path, frames, fps=8)
        clip = read_video(path)
    if tuple(clip.frames.shape) != (8, 3, 64, 64):
        return "broken", f"wrote 8 frames of 64×64, read {tuple(clip.frames.shape)}"
    return "ok", f"PyAV {av.__version__}: wrote and read an h264 video"


def _codec() -> tuple[str, str]:
    try:
        import torchcodec
    except (ImportError, RuntimeError, OSError) as error:
        return "missing", f"optional: {str(error).splitlines()[0]}"
    return "ok", torchcodec.__version__


def _cache() -> tuple[str, str]:
    from evalkit.cache import Cache, cache_key, default_cache

    cache = Cache(default_cache())
    key = cache_key(kind="doctor")
    cache.store_json(key, "probe")
    if cache.load_json(key) != "probe":
        return "broken", f"{default_cache()} does not give back what is stored"
    free = shutil.disk_usage(default_cache()).free / 2**30
    return "ok", f"{default_cache()}, {free:.0f} GiB free"


def _scoring() -> tuple[str, str]:
    from evalkit.data.synthetic import render_clip
    from evalkit.runner import evaluate

    clip = render_clip(seed=0, num_frames=16, size=64)
    report = evaluate([clip.frames], fps=clip.fps, metrics=["temporal_flicker"], device="cpu", cache=None)
    return "ok", f"temporal_flicker of a rendered clip: {report.scores['temporal_flicker'].value:.3f}"


def _weights() -> Iterator[Finding]:
    from evalkit.features.weights import list_weights

    for one in list_weights():
        where = str(one.path) if one.path else f"used by {one.used_by}; evalkit weights fetch {one.name}"
        yield Finding(one.name, "ok" if one.path else "missing", where)
