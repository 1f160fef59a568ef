"""Small arenas for tests: folders of copied clips with prompts, and a server as a process of its own."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch

from evalkit.data.video import write_video
from leaderboards.arena_samples import fill
from leaderboards.arena_store import ArenaStore

PROGRAM = ("import argparse; from leaderboards.commands.arena import add_arguments, main; "
           "parser = argparse.ArgumentParser(); add_arguments(parser); raise SystemExit(main(parser.parse_args()))")


def write_clip(path: Path, shade: int, size: tuple[int, int] = (32, 48), frames: int = 4, **how) -> Path:
    """A clip of a square that moves over a ground of this shade."""
    clip = torch.full((frames, 3, *size), shade, dtype=torch.uint8)
    for k in range(frames):
        clip[k, 0, 8:20, 2 + k * 2:14 + k * 2] = 255 - shade
    return write_video(path, clip, 8, **how)


def write_models(folder: Path, prompts: int, names: tuple[str, ...] = ("one", "two"), **how) -> list[str]:
    """Folders of `prompts` videos each with their prompts.jsonl: the same clip within a model."""
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        first = write_clip(folder / name / "0.mp4", 40 * k, **how)
        rows = [{"path": f"{n}.mp4", "prompt": f"prompt {n}", "seed": 0} for n in range(prompts)]
        for row in rows[1:]:
            shutil.copy(first, folder / name / row["path"])
        (folder / name / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(folder / name) for name in names]


def fill_arena(folder: Path, prompts: int, names: tuple[str, ...] = ("one", "two"), **how) -> str:
    """The path of a database without votes, of pairs whose videos are ready to play."""
    store = ArenaStore(str(folder / "votes.db"))
    fill(store, write_models(folder, prompts, names, **how), None, (), None, folder / "media")
    store.engine.dispose()
    return str(folder / "votes.db")


def start_server(*arguments: str, port: int = 0) -> tuple[subprocess.Popen, str]:
    """The process and where it answers."""
    server = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments, "--port", str(port)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    line = server.stdout.readline()
    found = re.search(r"http://[^/]+", line)
    assert found, line + server.stderr.read()
    return server, found[0]


@contextmanager
def served(*arguments: str, port: int = 0):
    """Where an arena answers, for as long as the block lasts."""
    server, where = start_server(*arguments, port=port)
    try:
        yield where
    finally:
        server.kill()
        server.communicate()


def post(client: httpx.Client, path: str, body: dict, patience: float = 20.0) -> httpx.Response:
    """As the page does: asked again until the server answers."""
    end = time.monotonic() + patience
    while True:
        try:
            return client.post(path, json=body)
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
