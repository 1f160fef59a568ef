"""Videos as every browser plays them: 8-bit 4:2:0 H.264 in mp4, VP8, VP9 or AV1; others are copied so, once.

As a process of its own (`python -m leaderboards.arena_media FOLDER`, a path a line in, a line of JSON each out) it
decodes and encodes with evalkit's reader and writer; the server imports no torch.
"""
from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from evalkit.errors import UsageError

SUFFIXES = (".mp4", ".m4v", ".webm")
CODECS = ("h264", "vp8", "vp9", "av1")
PIXELS = ("yuv420p", "yuvj420p")  # Firefox and Safari play no 4:4:4
CRF = 12.0  # of copies: no rater sees it


def sha256(path: Path) -> str:
    """Of a file's bytes, as evalkit's column `content`; of a folder, of its names and files in order."""
    if path.is_dir():
        parts = [f"{file.name}\0{sha256(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_playable(sources: Mapping[str, str], folder: Path,
                  progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, str]:
    """For each source (path -> sha256) the file to show: itself, or its copy in `folder`, made where it is missing.

    UsageError where a video cannot be read.
    """
    if not sources:
        return {}
    child = subprocess.Popen([sys.executable, "-m", "leaderboards.arena_media", str(folder)], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write("".join(json.dumps([path, digest]) + "\n" for path, digest in sources.items()))
    child.stdin.close()
    found = {}
    with child:
        for line in child.stdout:
            told = json.loads(line)
            if "error" in told:
                child.kill()
                raise UsageError(f"{told['path']} cannot be shown: {told['error']}")
            found[told["path"]] = told["playable"]
            progress("videos made playable", len(found), len(sources))
    if len(found) < len(sources):
        raise RuntimeError(f"arena_media ended with {child.returncode} after {len(found)} of {len(sources)} videos")
    return found


def _serve_lines(folder: Path) -> Iterator[dict[str, str]]:
    from evalkit.data.video_types import VideoError

    for line in sys.stdin.readlines():
        path, digest = json.loads(line)
        try:
            yield {"path": path, "playable": str(_playable(Path(path), folder / f"{digest}.mp4"))}
        except (VideoError, ValueError, OSError) as error:
            yield {"path": path, "error": str(error)}


def _playable(path: Path, copy: Path) -> Path:
    """`path` where browsers play it, else `copy`; a last odd row or column is left out, which 4:2:0 cannot hold."""
    from evalkit.data.video import probe, read_video, write_video

    if copy.is_file():
        return copy
    if path.suffix.lower() in SUFFIXES:
        info = probe(path)
        if info.codec in CODECS and info.pixel_format in PIXELS:
            return path
    clip = read_video(path)
    frames = clip.frames[:, :, :clip.frames.shape[2] // 2 * 2, :clip.frames.shape[3] // 2 * 2]
    copy.parent.mkdir(parents=True, exist_ok=True)
    return write_video(copy, frames, clip.fps if clip.fps > 0 else 8.0, crf=CRF)  # nan: the source has no rate


if __name__ == "__main__":
    for told in _serve_lines(Path(sys.argv[1])):
        print(json.dumps(told), flush=True)
