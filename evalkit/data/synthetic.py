"""The made-up world: captioned clips whose every factor is known, the same by seed at any size, length and rate."""
from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from evalkit.data.captions import REGISTERS, caption
from evalkit.data.corruptions import corrupt
from evalkit.data.rendering import pack, render
from evalkit.data.scene import FPS, NUM_FRAMES, SECONDS, SIZE, SPLITS, Scene, make_scene

WORLD_FILE: dict[str, Any] = {"crf": 12, "pixel_format": "yuv444p"}  # of `write_world`: colours keep their edges
QUALITIES = {"good": None, "flickering": ("luma_flicker", 3), "blurry": ("blur", 3), "noisy": ("noise", 3),
             "blocky": ("blocks", 3), "shaky": ("camera_jitter", 3), "frozen": ("freeze", 3),
             "shuffled": ("shuffle", 3)}
Size = int | tuple[int, int]
Level = Literal["simple", "full"]


@dataclass(frozen=True)
class SyntheticClip:
    """frames uint8 (T, 3, H, W) of `scene` at `fps`, and a true caption of it."""

    frames: Tensor
    fps: float
    prompt: str
    scene: Scene

    @property
    def state(self) -> dict[str, Any]:
        """Every factor, JSON-ready."""
        return self.scene.state()


def render_scene(scene: Scene, num_frames: int = NUM_FRAMES, fps: float = FPS, size: Size = SIZE,
                 device: str = "cpu") -> Tensor:
    """uint8 (T, 3, H, W): frame i shows the scene at i / `fps` seconds; `size` is H = W or (H, W).

    The same bits on every machine and device. ValueError where a count, rate or size is not positive.
    """
    return render_scenes([scene], num_frames, fps, size, device)[0]


def render_scenes(scenes: Sequence[Scene], num_frames: int = NUM_FRAMES, fps: float = FPS, size: Size = SIZE,
                  device: str = "cpu") -> Tensor:
    """uint8 (B, T, 3, H, W) of many scenes in one batch, which is what a GPU wants."""
    height, width = (size, size) if isinstance(size, int) else size
    if not all(0 < value < math.inf for value in (num_frames, fps, height, width)):
        raise ValueError(f"expected positive num_frames, fps and size, got {num_frames}, {fps}, {size}")
    return render(pack(scenes, np.arange(num_frames) / fps).to(device), height, width)


def render_clip(seed: int, num_frames: int = NUM_FRAMES, fps: float = FPS, size: Size = 128, *,
                content: int | None = None, level: Level = "full", register: str = "terse",
                seconds: float = SECONDS) -> SyntheticClip:
    """The scene of `seed` as a clip with its caption; clips of equal `content` share the caption."""
    scene = make_scene(seed, content, level, seconds)
    return SyntheticClip(render_scene(scene, num_frames, fps, size), fps, caption(scene, register), scene)


def write_samples(folder: str | Path, n: int, seeds_per_prompt: int = 1, quality: str = "good", *,
                  num_frames: int = NUM_FRAMES, fps: float = FPS, size: Size = 128, level: Level = "full") -> Path:
    """What a model of this `quality` would hand in: `n` prompts, each with several seeds, as mp4 + prompts.jsonl.

    Returns the manifest's path: one line per video with path, prompt, seed, fps. ValueError on an unknown quality.
    """
    from evalkit.data.video import write_video  # lazily: PyAV

    if quality not in QUALITIES:
        raise ValueError(f"unknown quality {quality!r}; there are: {', '.join(QUALITIES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for content in range(n):
        for seed in range(content * seeds_per_prompt, (content + 1) * seeds_per_prompt):
            clip = render_clip(seed, num_frames, fps, size, content=content, level=level)
            defect = QUALITIES[quality]
            frames = corrupt(clip.frames, *defect, seed=seed, fps=fps) if defect else clip.frames
            path = folder / f"{content:04d}-{seed}.mp4"
            write_video(path, frames, fps)
            lines.append(json.dumps({"path": path.name, "prompt": clip.prompt, "seed": seed, "fps": fps}))
    manifest = folder / "prompts.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def write_world(folder: str | Path, n: int, split: str = "train", *, first: int = 0, num_frames: int = NUM_FRAMES,
                fps: float = FPS, size: Size = SIZE, level: Level = "full",
                workers: int = 1) -> Iterator[dict[str, Any]]:
    """Render `n` clips of a split to `folder`, one row of prompts.jsonl after the other, each yielded once it is there.

    A row holds path, prompt (terse), seed, fps, the captions of all registers and the whole state. Where the manifest
    holds rows already, those clips are not rendered again: a killed run goes on. ValueError on an unknown split.
    """
    from evalkit.data.video import write_video
    from evalkit.workers import map_in_processes

    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "prompts.jsonl"
    done = seeds_written(manifest)

    def write(seed: int) -> dict[str, Any]:
        scene = make_scene(seed, level=level)
        path = folder / f"{seed:07d}.mp4"
        write_video(path, render_scene(scene, num_frames, fps, size), fps, **WORLD_FILE)
        captions = {register: caption(scene, register) for register in REGISTERS}
        return {"path": path.name, "prompt": captions["terse"], "seed": seed, "fps": fps, "captions": captions,
                "state": scene.state()}

    def crashed(seed: int) -> dict[str, Any]:
        raise RuntimeError(f"rendering the scene of seed {seed} ended its process")

    start = SPLITS[split] + first
    seeds = [seed for seed in range(start, start + n) if seed not in done]
    with manifest.open("a") as file:
        for row in map_in_processes(write, seeds, workers, crashed):
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield row


def seeds_written(manifest: Path) -> set[int]:
    """Seeds of the rows of `write_world`'s manifest, of none where there is none yet.

    A last line that a killed run left half written is cut off.
    """
    if not manifest.exists():
        return set()
    text = manifest.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        manifest.write_text(whole)
    return {json.loads(line)["seed"] for line in whole.splitlines()}
