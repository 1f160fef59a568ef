"""Scenes to pixels, in batches, on a processor or a GPU, bit for bit the same on every machine.

Only additions, products, minima, maxima, comparisons and roots of whole tensors are used, each of which IEEE 754 fixes;
no sums over pixels, no sines, no fused operations. What needs sines is computed once per frame in float64.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evalkit.data.scene import COLOURS, PATTERNS, SHAPES, TEXTURES, Background, Scene

MOST_THINGS = 3
PIXELS_AT_ONCE = 2**17  # on a processor: what its cache holds; a GPU takes as many as it is given
WAVES = ((3.1, 0.4), (4.7, 1.7), (7.3, 2.9), (11.9, 0.9))  # cycles per short side and direction of the clouds' waves
CLOUDS, MARKS = 0.3, 0.3  # how far clouds and checks or spots darken the ground
POST_COLOUR, LINE_COLOUR = (58, 50, 46), (70, 66, 62)
POST_WIDTH, LINE_WIDTH = 0.045, 0.012  # half of each
FAR_MOVES = 0.5  # what lies beyond the horizon moves so much less with the camera
SHADE = 0.16  # of the side away from the light
DRIFT = {"steady": (1.0, 1.0), "brightening": (0.62, 1.1), "dimming": (1.1, 0.62)}
GAINS = {"neutral": (1, 1, 1), "warm": (1.08, 1.0, 0.8), "cold": (0.82, 0.98, 1.12), "faded": (1, 1, 1),
         "vivid": (1, 1, 1)}
CHROMA = {"faded": 0.65, "vivid": 1.35}
FADED = (0.75, 40.0)  # contrast, and what blacks are lifted to
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Packed:
    """Scenes as numbers, ready for a device: tensors whose first axis is the scene, the second, if any, the frame."""

    pose: Tensor  # (B, T, 4): a, b, x, y; the picture shows a * point - b * turned point + (x, y)
    gain: Tensor  # (B, T, 3): light and the grade's gains
    shot: Tensor  # (B, T) 0 or 1
    centres: Tensor  # (B, things, T, 2)
    bodies: Tensor  # (B, things, 3): radius, 0 where there is none; phase; red ... are in `paint`
    kinds: Tensor  # (B, things, 2) whole numbers: shape, texture
    paint: Tensor  # (B, things, 3) colours, 0..255
    grounds: Tensor  # (B, 2, 3) of both shots
    patterns: Tensor  # (B, 2) whole numbers
    waves: Tensor  # (B, 2, waves, 3): cycles along x and y, and phase
    marks: Tensor  # (B, 6): horizon, side of the light, lines' x and y, post's place, grade's chroma
    flags: Tensor  # (B, 3) bool: lines, post (upright or not), post upright; (contrast and lift follow from chroma)

    def to(self, device: torch.device | str) -> Packed:
        return Packed(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def rows(self, part: slice) -> Packed:
        return Packed(**{name: value[part] for name, value in vars(self).items()})


def pack(scenes: Sequence[Scene], times: np.ndarray) -> Packed:
    """The scenes at `times` (T,) seconds, or (B, T), as numbers on the CPU. ValueError where there is no scene."""
    if not scenes:
        raise ValueError("expected at least one scene, got none")
    clocks = np.broadcast_to(times, (len(scenes), np.shape(times)[-1]))
    rows = [_numbers(scene, clock) for scene, clock in zip(scenes, clocks, strict=True)]
    return Packed(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


def _numbers(scene: Scene, times: np.ndarray) -> dict[str, np.ndarray]:
    log_scale, angle, x, y = scene.camera.poses(times, scene.seconds).T
    scale = np.exp(log_scale) * scene.closeness(times)
    things = [None] * (MOST_THINGS - len(scene.things)) + list(scene.things[::-1])  # the subject last, in front
    centres = np.zeros((MOST_THINGS, len(times), 2))
    bodies, kinds, paint = np.zeros((MOST_THINGS, 2)), np.zeros((MOST_THINGS, 2), np.int64), np.zeros((MOST_THINGS, 3))
    for slot, thing in enumerate(things):
        if thing is not None:
            centres[slot] = thing.positions(times, scene.seconds)
            bodies[slot] = thing.radius, thing.phase
            kinds[slot] = SHAPES.index(thing.shape), TEXTURES.index(thing.texture)
            paint[slot] = COLOURS[thing.colour]
    shots = (scene.background, scene.after_cut or scene.background)
    begin, end = DRIFT[scene.light]
    light = begin + (end - begin) * np.clip(times / scene.seconds, 0, 1)
    middle = scene.subject.positions(np.array([scene.seconds / 2]), scene.seconds)[0]
    horizontal = scene.subject.direction in ("left", "right")
    single = {
        "pose": np.stack([scale * np.cos(angle), scale * np.sin(angle), x, y], 1),
        "gain": light[:, None] * np.array(GAINS[scene.grade]),
        "shot": scene.in_second_shot(times), "centres": centres, "bodies": bodies, "paint": paint,
        "grounds": np.array([_ground_colour(ground) for ground in shots]),
        "waves": np.array([_waves(ground.seed) for ground in shots]),
        "marks": np.array([-9.0 if shots[0].horizon is None else shots[0].horizon,
                           1.0 if scene.key == "left" else -1.0, *middle,
                           scene.subject.x if horizontal else scene.subject.y, CHROMA.get(scene.grade, 1.0)]),
    }
    whole = {"kinds": kinds, "patterns": np.array([PATTERNS.index(ground.pattern) for ground in shots]),
             "flags": np.array([scene.lines, scene.post, horizontal])}
    return {name: value.astype(np.float32) for name, value in single.items()} | whole


def _ground_colour(ground: Background) -> np.ndarray:
    """Muted: half the paint, half grey, so that a thing stands out even on a ground of its own hue."""
    return 0.6 * np.array(COLOURS[ground.colour]) + 0.4 * 132


def _waves(seed: int) -> list[tuple[float, float, float]]:
    """Cycles along x and y, and the phase, of each wave of the clouds."""
    numbers = np.random.Generator(np.random.PCG64(seed)).random((len(WAVES), 2)).tolist()
    return [(cycles * math.cos(angle + turn), cycles * math.sin(angle + turn), phase)
            for (cycles, angle), (turn, phase) in zip(WAVES, numbers, strict=True)]


def render(packed: Packed, height: int, width: int) -> Tensor:
    """uint8 (B, T, 3, H, W) on the device of `packed`."""
    batch, frames = packed.shot.shape
    result = torch.empty(batch, frames, 3, height, width, dtype=torch.uint8, device=packed.shot.device)
    clips = max(1, PIXELS_AT_ONCE // (frames * height * width)) if result.device.type == "cpu" else batch
    for start in range(0, batch, clips):
        part = slice(start, start + clips)
        _paint(packed.rows(part), height, width, result[part])
    return result


def _paint(p: Packed, height: int, width: int, out: Tensor) -> None:
    short = min(height, width)
    device = p.shot.device
    xs = ((torch.arange(width, device=device) + (0.5 - width / 2)) / short)[None, None, None, :]
    ys = ((torch.arange(height, device=device) + (0.5 - height / 2)) / short)[None, None, :, None]
    a, b, dx, dy = (part[..., None, None] for part in p.pose.unbind(-1))
    x, y = (a * xs - b * ys) + dx, (b * xs + a * ys) + dy  # where in the world every pixel lies
    sharp = short / (a.abs() + b.abs())  # pixels per unit, less where the picture is turned: edges soften a little
    picture = list(_ground(p, x, y, dx, dy, sharp))
    if bool(p.flags[:, 0].any()):
        _blend(picture, _lines(p, x, y, sharp), LINE_COLOUR)
    for slot in range(MOST_THINGS):
        _thing(p, slot, x, y, sharp, picture)
    if bool(p.flags[:, 1].any()):
        upright = p.flags[:, 2, None, None, None]
        along = torch.where(upright, x, y) - p.marks[:, 4, None, None, None]
        cover = ((POST_WIDTH - along.abs()) * sharp + 0.5).clamp_(0, 1) * p.flags[:, 1, None, None, None]
        _blend(picture, cover, POST_COLOUR)
    _light_and_grade(p, xs, picture)
    for channel in range(3):
        out[:, :, channel] = (picture[channel] + 0.5).clamp_(0, 255.5).to(torch.uint8)


def _blend(picture: list[Tensor], cover: Tensor, colour: Sequence[float | Tensor]) -> None:
    for channel in range(3):
        picture[channel] = picture[channel] + (colour[channel] - picture[channel]) * cover


def _wave(turns: Tensor) -> Tensor:
    """A smooth wave from 0 to 1 and back within one turn."""
    rise = ((turns - turns.floor()) - 0.5).abs() * 2
    return rise * rise * (3 - 2 * rise)


def _ground(p: Packed, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, sharp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Red, green and blue of the background."""
    second = p.shot[..., None, None] > 0

    def of_shot(values: Tensor) -> Tensor:
        first, other = (values[:, shot, None, None, None] for shot in (0, 1))
        return torch.where(second, other, first)

    horizon = p.marks[:, 0, None, None, None]
    cover = None
    if bool((p.marks[:, 0] > -9).any()):
        below = ((y - horizon) * sharp + 0.5).clamp_(0, 1)
        far = below < 0.5
        x = torch.where(far, x - dx * (1 - FAR_MOVES), x)
        y = torch.where(far, y - dy * (1 - FAR_MOVES), y)
        cover = (1 - below) * 0.5
    shade = None
    for k in range(len(WAVES)):
        turns = (x * of_shot(p.waves[:, :, k, 0]) + y * of_shot(p.waves[:, :, k, 1])) + of_shot(p.waves[:, :, k, 2])
        shade = _wave(turns) if shade is None else shade + _wave(turns)
    bright = 1.08 - (CLOUDS / len(WAVES) * 1.6) * shade
    pattern = of_shot(p.patterns)
    if bool((p.patterns > 0).any()):
        across, down = x * 4 + 0.25, y * 4 + 0.25  # in cells of a quarter
        u, v = (((c - c.floor()) - 0.5).abs() * 4 - 1 for c in (across, down))
        edge = sharp / 8
        checks = (u * edge).clamp_(-1, 1) * (v * edge).clamp_(-1, 1) * 0.5 + 0.5
        spots = ((0.55 - ((u + 1) * (u + 1) + (v + 1) * (v + 1))) * edge + 0.5).clamp_(0, 1)
        bright = bright - MARKS * torch.where(pattern == 1, checks, torch.where(pattern == 2, spots, 0.0))
    channels = [of_shot(p.grounds[:, :, channel]) * bright for channel in range(3)]
    if cover is not None:
        _blend(channels, cover, (236.0, 238.0, 240.0))
    return channels[0], channels[1], channels[2]


def _lines(p: Packed, x: Tensor, y: Tensor, sharp: Tensor) -> Tensor:
    """Cover (B, T, H, W) of two lines from below that meet where the subject is in the middle of the clip."""
    at_x, at_y = (p.marks[:, k, None, None, None] for k in (2, 3))
    down = y - at_y
    aside = ((x - at_x).abs() - down * 0.7).abs()
    cover = ((LINE_WIDTH - aside * 0.82) * sharp + 0.5).clamp_(0, 1)
    return cover * (down > 0) * p.flags[:, 0, None, None, None]


def _thing(p: Packed, slot: int, x: Tensor, y: Tensor, sharp: Tensor, picture: list[Tensor]) -> None:
    """Draw one thing of every scene: scenes of one shape together, and of the frame what may show it."""
    radius, phase = (p.bodies[:, slot, k, None, None, None] for k in (0, 1))
    for shape in range(len(SHAPES)):
        rows = ((p.kinds[:, slot, 0] == shape) & (p.bodies[:, slot, 0] > 0)).nonzero()[:, 0]
        if not len(rows):
            continue
        mine = slice(None) if len(rows) == len(p.kinds) else rows
        r = radius[mine]
        u, v = (grid[mine] - p.centres[mine, slot, :, axis, None, None] for axis, grid in enumerate((x, y)))
        edge = _distance(SHAPES[shape], u, v, r) * sharp[mine]  # pixels, negative inside
        cover = (0.5 - edge).clamp_(0, 1)
        tone = _texture(p.kinds[mine, slot, 1], u, v, r, phase[mine], sharp[mine])
        for channel in range(3):
            paint = p.paint[mine, slot, channel, None, None, None]
            paint = paint if tone is None else paint + (paint.new_tensor(1.0) * 128 - paint) * tone
            mixed = picture[channel][mine]
            mixed = mixed + (paint - mixed) * cover
            if isinstance(mine, slice):
                picture[channel] = mixed
            else:
                picture[channel][mine] = mixed


def _texture(kinds: Tensor, u: Tensor, v: Tensor, r: Tensor, phase: Tensor, sharp: Tensor) -> Tensor | None:
    """How far, 0..1, the paint gives way to grey: stripes, dots, or None where all are plain."""
    if not bool((kinds > 0).any()):
        return None
    kinds = kinds[:, None, None, None]
    stripe = (((u + v * 0.5) / (r * 0.62) + phase) % 1 - 0.5).abs() * 4 - 1
    across, down = ((c / (r * 0.7) + 0.5) % 1 - 0.5 for c in (u, v))
    edge = sharp * r * 0.3
    stripes = (stripe * edge * 0.8).clamp_(-1, 1) * 0.5 + 0.5
    dots = ((0.09 - (across * across + down * down)) * edge * 4 + 0.5).clamp_(0, 1)
    return 0.75 * torch.where(kinds == 1, stripes, torch.where(kinds == 2, dots, 0.0))


def _normals(count: int) -> list[tuple[float, float]]:
    """Outward normals of a regular polygon with a corner on top, rounded so that every machine has the same."""
    angles = [math.pi * (0.5 + (2 * k + 1) / count) for k in range(count)]
    return [(round(math.cos(angle), 6), round(-math.sin(angle), 6)) for angle in angles]


def _distance(shape: str, u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Signed distance of points (u, v) to the shape of circumscribed radius r around the origin, negative inside."""
    if shape == "circle":
        return (u * u + v * v).sqrt() - r * 0.94
    if shape == "ring":
        return ((u * u + v * v).sqrt() - r * 0.72).abs() - r * 0.26
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - r * 0.8
    if shape == "cross":
        far, near = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
        return torch.maximum(far - r * 0.96, near - r * 0.32)
    count, inner = (3, 0.5) if shape == "triangle" else (5, 0.345)
    low = r * 0.15 if shape == "triangle" else 0  # about its middle, not that of its corners
    sides = [u * nx + (v - low) * ny - r * inner for nx, ny in _normals(count)]
    if shape == "triangle":
        return torch.maximum(torch.maximum(sides[0], sides[1]), sides[2])
    largest = torch.maximum(sides[0], sides[1])
    second = torch.minimum(sides[0], sides[1])
    for side in sides[2:]:  # a star: inside at least four of the five lines
        second = torch.maximum(second, torch.minimum(largest, side))
        largest = torch.maximum(largest, side)
    return second


def _light_and_grade(p: Packed, xs: Tensor, picture: list[Tensor]) -> None:
    shade = 1 - p.marks[:, 1, None, None, None] * xs * SHADE
    for channel in range(3):
        picture[channel] = picture[channel] * (p.gain[..., channel, None, None] * shade)
    chroma = p.marks[:, 5]
    if bool((chroma != 1).any()):
        keep = chroma[:, None, None, None]
        luma = (picture[0] * LUMA[0] + picture[1] * LUMA[1]) + picture[2] * LUMA[2]
        contrast = torch.where(keep < 1, FADED[0], 1.0)
        lift = torch.where(keep < 1, FADED[1], 0.0)
        for channel in range(3):
            picture[channel] = (luma + (picture[channel] - luma) * keep) * contrast + lift
