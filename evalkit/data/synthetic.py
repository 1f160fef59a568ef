"""Captioned moving shapes with known truth: the same motion in seconds at any frame rate, the same pixels anywhere."""
from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.data.corruptions import corrupt

COLOURS = {"red": (214, 48, 44), "green": (54, 160, 72), "blue": (48, 92, 200), "yellow": (236, 204, 60),
           "purple": (134, 70, 170), "orange": (238, 138, 40), "white": (238, 238, 234), "grey": (120, 124, 128)}
DIRECTIONS = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
PANS = {"": 0.0, "left": -0.06, "right": 0.06}  # slower than any shape, which thus moves as told against both
SHAPES = ("circle", "square", "triangle", "star")
QUALITIES = {"good": None, "flickering": ("luma_flicker", 3), "blurry": ("blur", 3), "noisy": ("noise", 3),
             "blocky": ("blocks", 3), "shaky": ("camera_jitter", 3), "frozen": ("freeze", 3),
             "shuffled": ("shuffle", 3)}
NOMINAL_SECONDS = 4.0  # a shape crosses the centre after half of this


@dataclass(frozen=True)
class Scene:
    """What happens, in seconds and short sides of the picture, y downwards, (0, 0) its centre."""

    shape: str
    colour: str
    background: str
    direction: str
    pan: str
    radius: float
    speed: float
    offset: float  # of the path from the centre, across the direction
    texture_seed: int

    @property
    def prompt(self) -> str:
        """A true caption."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        pan = f", the camera pans {self.pan}" if self.pan else ""
        what = f"{article} {self.colour} {self.shape} moves {self.direction}"
        return f"{what} over a {self.background} background{pan}"

    def positions(self, times: np.ndarray) -> np.ndarray:
        """(T, 2) x and y of the shape's centre at `times` (T,)."""
        dx, dy = DIRECTIONS[self.direction]
        way = self.speed * (times - NOMINAL_SECONDS / 2)
        return np.stack([dx * way + abs(dy) * self.offset, dy * way + abs(dx) * self.offset], axis=1)


@dataclass(frozen=True)
class SyntheticClip:
    """frames uint8 (T, 3, H, W); state: the scene's fields, and "positions", (x, y) in pixels per frame."""

    frames: Tensor
    fps: float
    prompt: str
    state: dict[str, Any]


def make_scene(seed: int, content: int | None = None) -> Scene:
    """The scene of `seed`; scenes of equal `content` (by default the seed) share their prompt."""
    of_prompt = np.random.Generator(np.random.PCG64([1, seed if content is None else content]))
    of_seed = np.random.Generator(np.random.PCG64([2, seed]))
    colour, background = (list(COLOURS)[i] for i in of_prompt.permutation(len(COLOURS))[:2])
    shape, direction, pan = (list(names)[of_prompt.integers(len(names))] for names in (SHAPES, DIRECTIONS, PANS))
    radius, speed, offset = of_seed.random(3)
    return Scene(shape, colour, background, direction, pan, 0.11 + 0.05 * radius, 0.08 + 0.09 * speed,
                 0.4 * (offset - 0.5), int(of_seed.integers(2**31)))


def render_clip(seed: int, num_frames: int = 32, fps: float = 8.0, size: int | tuple[int, int] = 128, *,
                content: int | None = None) -> SyntheticClip:
    """Frame i shows the scene of `seed` at i / `fps` seconds; `size` is H = W or (H, W).

    Deterministic across processes and machines. Raises ValueError where a count, rate or size is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(num_frames, fps, height, width) <= 0:
        raise ValueError(f"expected positive num_frames, fps and size, got {num_frames}, {fps}, {size}")
    scene = make_scene(seed, content)
    times = np.arange(num_frames) / fps
    pixels = scene.positions(times) * min(height, width) + (width / 2, height / 2)
    state = asdict(scene) | {"positions": pixels.round(3).tolist()}
    return SyntheticClip(render(scene, times, height, width), fps, scene.prompt, state)


def render(scene: Scene, times: np.ndarray, height: int, width: int) -> Tensor:
    """uint8 (T, 3, H, W): the scene at `times` (T,) seconds."""
    short = min(height, width)
    xs = (np.arange(width) + 0.5 - width / 2) / short
    ys = (np.arange(height) + 0.5 - height / 2) / short
    brightness = _texture(scene, xs + PANS[scene.pan] * times[:, None], ys).astype(np.float32)[:, None]
    centre = scene.positions(times)
    x = (xs - centre[:, :1]).astype(np.float32)[:, None, :]
    y = (ys - centre[:, 1:]).astype(np.float32)[:, :, None]
    edge = _distance(scene.shape, x, y, np.float32(scene.radius)) * np.float32(short)  # pixels, negative inside
    cover = np.clip(np.float32(0.5) - edge, 0, 1)[:, None]
    colour, ground = (np.array(COLOURS[name], np.float32).reshape(3, 1, 1)
                      for name in (scene.colour, scene.background))
    picture = ground * brightness
    picture += (colour - picture) * cover
    return torch.from_numpy(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def _texture(scene: Scene, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """(T, H, W) factors about 0.85 at columns `xs` (T, W) and rows `ys` (H,): a gradient and smooth value noise."""
    lattice = np.random.Generator(np.random.PCG64(scene.texture_seed)).random((17, 17))
    noise = _hats(ys, 17) @ lattice @ _hats(xs, 17).swapaxes(-1, -2)
    return 0.65 + 0.3 * noise + 0.1 * ys[:, None]


def _hats(positions: np.ndarray, count: int) -> np.ndarray:
    """(..., count) smooth weights of lattice points a tenth of the picture apart, repeated periodically."""
    cell = (positions[..., None] * 10 - np.arange(count)) % count
    nearness = np.clip(1 - np.minimum(cell, count - cell), 0, 1)
    return nearness * nearness * (3 - 2 * nearness)


def _normals(count: int) -> list[tuple[float, float]]:
    """Outward normals of a regular polygon with a corner on top, rounded so that every machine has the same."""
    angles = [math.pi * (0.5 + (2 * k + 1) / count) for k in range(count)]
    return [(round(math.cos(a), 6), round(-math.sin(a), 6)) for a in angles]


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.float32) -> np.ndarray:
    """(T, H, W) signed distance to the shape of circumscribed `radius`, negative inside."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * np.float32(0.8)
    count, inner = (3, 0.5) if shape == "triangle" else (5, 0.309017)
    sides = [np.float32(nx) * x + np.float32(ny) * y - radius * np.float32(inner) for nx, ny in _normals(count)]
    if shape == "triangle":
        return np.maximum.reduce(sides)
    largest = second = np.full_like(sides[0], -np.inf)  # a star: inside at least four of the five lines
    for side in sides:
        second = np.maximum(second, np.minimum(largest, side))
        largest = np.maximum(largest, side)
    return second


def write_samples(folder: str | Path, n: int, seeds_per_prompt: int = 1, quality: str = "good", *,
                  num_frames: int = 32, fps: float = 8.0, size: int | tuple[int, int] = 128) -> Path:
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
            clip = render_clip(seed, num_frames, fps, size, content=content)
            defect = QUALITIES[quality]
            frames = corrupt(clip.frames, *defect, seed=seed, fps=fps) if defect else clip.frames
            path = folder / f"{content:04d}-{seed}.mp4"
            write_video(path, frames, fps)
            lines.append(json.dumps({"path": path.name, "prompt": clip.prompt, "seed": seed, "fps": fps}))
    manifest = folder / "prompts.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
