"""The state of the world: what a scene holds and does, in seconds and short sides of the picture, and how it is drawn.

A seed names a scene wholly. Seeds below 10^6 are for training, the next million for tests, and those from 2 * 10^6 on
show only combinations of colour with shape or direction that no scene before them shows.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

FPS, NUM_FRAMES, TRAIN_FRAMES, SIZE = 8.0, 16, 17, 64  # the world's own format; latent models want 4k + 1 frames
SECONDS = NUM_FRAMES / FPS  # a scene is in its middle after half of this
SPLITS = {"train": 0, "test": 1_000_000, "compositional": 2_000_000}  # name -> first seed

COLOURS = {"red": (212, 40, 40), "orange": (242, 134, 28), "yellow": (240, 220, 60), "green": (44, 158, 66),
           "blue": (40, 84, 208), "purple": (148, 62, 186), "white": (240, 240, 236), "black": (26, 26, 30)}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": (0.115, 0.125), "large": (0.175, 0.195)}  # radius, from and to
DIRECTIONS = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
PATHS = ("straight", "weaving", "stopping", "bouncing")  # and "resting", for what is not the subject
PACES = {"slow": (0.16, 0.22), "fast": (0.4, 0.5)}  # short sides a second, where a scene lasts two of them
PATTERNS = ("cloudy", "checkered", "spotted")
CAMERAS = ("static", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out", "roll left", "roll right",
           "handheld")
CAMERA_SPEEDS = {"slow": 0.08, "fast": 0.14}  # short sides a second: slower than any subject, which thus moves as told
LIGHTS = ("steady", "brightening", "dimming")
GRADES = ("neutral", "warm", "cold", "faded", "vivid")
LEVELS = ("simple", "full")  # simple: one large plain thing on a straight path, a camera that pans at most

Item = TypeVar("Item")


@dataclass(frozen=True)
class Thing:
    """An object: what it is, how it moves, and where the middle of its path lies."""

    shape: str
    colour: str
    size: str
    texture: str
    path: str
    direction: str
    pace: str
    radius: float
    speed: float  # short sides a second, on average
    x: float
    y: float
    phase: float  # 0..1: of weaving and of the texture

    def positions(self, times: np.ndarray, seconds: float) -> np.ndarray:
        """(T, 2) x and y of the centre at `times` (T,) of a scene of so many seconds."""
        dx, dy = DIRECTIONS[self.direction]
        along, aside = self.speed * (times - seconds / 2), np.zeros_like(times)
        if self.path == "resting":
            along = aside
        elif self.path == "stopping":  # slows down evenly and rests after three quarters
            share = np.minimum(times / (0.75 * seconds), 1)
            along = self.speed * seconds * (share * (2 - share) - 0.5)
        elif self.path == "weaving":
            aside = 0.07 * np.sin(2 * math.pi * (2 * times / seconds + self.phase))
        x, y = self.x + dx * along + abs(dy) * aside, self.y + dy * along + abs(dx) * aside
        if self.path == "bouncing":
            y = self.y + 0.22 - 0.44 * bounce_height(times / seconds)
        return np.stack([x, y], axis=1)


@dataclass(frozen=True)
class Background:
    """colour and pattern; seed of its irregularities; horizon: y above which a paler distance begins, None: nowhere."""

    colour: str
    pattern: str
    seed: int
    horizon: float | None = None


@dataclass(frozen=True)
class Camera:
    """move: one of CAMERAS; start: the second at which it begins; phase 0..1, of a hand's trembling."""

    move: str
    speed: str
    start: float
    phase: float

    def poses(self, times: np.ndarray, seconds: float) -> np.ndarray:
        """(T, 4): log scale, angle, x and y. The picture shows what lies at scale * R(angle) * point + (x, y).

        Pans and tilts are at 0, zooms at scale 1 and rolls upright in the middle of their way.
        """
        kind, _, way = self.move.partition(" ")
        moved = np.maximum(times - self.start, 0) - (seconds - self.start) / 2
        rate = CAMERA_SPEEDS[self.speed]
        pose = np.zeros((len(times), 4))
        if kind == "handheld":
            for column, (size, hertz) in enumerate(((0.02, 0.6), (0.02, 0.5), (0.03, 0.8), (0.03, 0.7))):
                turn = hertz * times * 2 / seconds + (self.phase * (column + 1)) % 1
                pose[:, column] = size * np.sin(2 * math.pi * turn)
        elif kind != "static":
            column = {"pan": 2, "tilt": 3, "zoom": 0, "roll": 1}[kind]
            sign = 1 if way in ("right", "down", "out") else -1
            pose[:, column] = sign * moved * rate * 2 / seconds * {"zoom": 1.6, "roll": 1.8}.get(kind, 1.0)
        return pose


@dataclass(frozen=True)
class Scene:
    """Everything that is shown. `things[0]` is the subject: the largest, in front of the others."""

    seed: int
    content: int
    things: tuple[Thing, ...]
    background: Background
    camera: Camera
    light: str
    key: str  # "left" or "right": where the light comes from
    grade: str
    lines: bool  # two lines on the ground that lead to the subject
    post: bool  # something that stands in front and that the subject passes behind
    cut: float | None  # the second at which another shot begins, on `after_cut`
    after_cut: Background | None
    seconds: float = SECONDS

    @property
    def subject(self) -> Thing:
        return self.things[0]

    def on_screen(self, times: np.ndarray, thing: int = 0) -> np.ndarray:
        """(T, 2) x and y of the centre of a thing, by default the subject, in the picture at `times` (T,).

        In short sides from the picture's middle.
        """
        log_scale, angle, x, y = self.camera.poses(times, self.seconds).T
        scale = np.exp(log_scale) * self.closeness(times)
        away_x, away_y = self.things[thing].positions(times, self.seconds).T - np.stack([x, y])
        return np.stack([np.cos(angle) * away_x + np.sin(angle) * away_y,
                         np.cos(angle) * away_y - np.sin(angle) * away_x], axis=1) / scale[:, None]

    def closeness(self, times: np.ndarray) -> np.ndarray:
        """(T,) by which the camera's scale is multiplied: the second shot is closer."""
        return np.where(self.in_second_shot(times), 0.8, 1.0)

    def in_second_shot(self, times: np.ndarray) -> np.ndarray:
        """(T,) bool."""
        return np.zeros(len(times), bool) if self.cut is None else times >= self.cut

    def state(self) -> dict[str, Any]:
        """Every factor, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Scene:
        """The scene that `state()` gave; KeyError or TypeError where a part is missing or unknown."""
        after = state["after_cut"]
        return cls(**state | {
            "things": tuple(Thing(**thing) for thing in state["things"]), "camera": Camera(**state["camera"]),
            "background": Background(**state["background"]), "after_cut": after and Background(**after)})


def bounce_height(share: np.ndarray) -> np.ndarray:
    """Height 1..0 of something dropped at 0 that keeps half of its height at every bounce, at shares of the scene."""
    fall, keep = 0.24, math.sqrt(0.5)
    height = 1 - (share / fall) ** 2
    landed, duration, top = fall, 2 * fall * keep, 0.5
    for _ in range(6):
        middle = landed + duration / 2
        hop = top * (1 - ((share - middle) / (duration / 2)) ** 2)
        height = np.where(share > landed, hop, height)
        landed, duration, top = landed + duration, duration * keep, top / 2
    return np.maximum(height, 0)


def split_of(seed: int) -> str:
    """Which split the seed belongs to."""
    return [name for name, first in SPLITS.items() if seed >= first][-1]


def is_held_out(shape: str, colour: str, direction: str) -> bool:
    """Whether the combination is kept for the compositional split: one colour of each shape and of each direction."""
    number = list(COLOURS).index(colour)
    return number == SHAPES.index(shape) or number == (list(DIRECTIONS).index(direction) * 2 + 5) % len(COLOURS)


class _Draw:
    """Choices from one stream of uniform numbers, the same on every machine."""

    def __init__(self, *key: int) -> None:
        self._numbers = iter(np.random.Generator(np.random.PCG64(key)).random(96).tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def of(self, items: Sequence[Item]) -> Item:
        return items[int(next(self._numbers) * len(items))]

    def chance(self, probability: float) -> bool:
        return next(self._numbers) < probability


def make_scene(seed: int, content: int | None = None, level: Literal["simple", "full"] = "full",
               seconds: float = SECONDS) -> Scene:
    """The scene of `seed`; scenes of equal `content` (by default the seed) share all that a caption can say.

    ValueError for a negative seed or an unknown level.
    """
    content = seed if content is None else content
    if min(seed, content) < 0 or level not in LEVELS:
        raise ValueError(f"expected seeds of 0 or more and a level of {LEVELS}, got {seed}, {content}, {level!r}")
    what, how = _Draw(1, content), _Draw(2, seed)
    full = level == "full"
    subject = _subject(what, how, split_of(content), full, seconds)
    things = [subject]
    for _ in range(what.of((0, 0, 1, 1, 2)) if full else 0):
        things.append(_another(things, what, how, seconds))
    ground = what.of([name for name in COLOURS if name not in {thing.colour for thing in things}])
    horizon = how.between(-0.3, 0.05) if what.chance(0.5) and full else None
    background = Background(ground, what.of(PATTERNS), int(how.between(0, 2**31)), horizon)
    move, speed, late = what.of(CAMERAS), what.of(list(CAMERA_SPEEDS)), what.chance(0.3)
    if not full:
        move, speed, late = what.of(("static", "pan left", "pan right")), "slow", False
    late = late and move not in ("static", "handheld")
    camera = Camera(move, speed, how.between(0.35, 0.55) * seconds if late else 0.0, how.between(0, 1))
    light, key, grade, lines = what.of(LIGHTS), what.of(("left", "right")), what.of(GRADES), what.chance(0.2)
    cut, post = what.chance(0.2) and full, what.chance(0.25) and full
    after = None
    if cut:
        others = [name for name in COLOURS if name not in {ground, *(thing.colour for thing in things)}]
        after = Background(what.of(others), what.of(PATTERNS), int(how.between(0, 2**31)), background.horizon)
    post = post and not cut and subject.path in ("straight", "weaving") and subject.pace == "fast"
    scene = Scene(seed, content, tuple(things), background, camera, light, key, grade, lines, post,
                  how.between(0.4, 0.6) * seconds if cut else None, after, seconds)
    return scene if full else replace(scene, light="steady", grade="neutral", lines=False)


def _subject(what: _Draw, how: _Draw, split: str, full: bool, seconds: float) -> Thing:
    shape, colour, path = what.of(SHAPES), what.of(list(COLOURS)), what.of(PATHS)
    size, texture, pace = what.of(list(SIZES)), what.of(TEXTURES), what.of(list(PACES))
    if not full:
        path, size, texture = "straight", "large", "plain"
    direction = what.of(list(DIRECTIONS)[:2] if path == "bouncing" else list(DIRECTIONS))
    wanted = [name for name in COLOURS if is_held_out(shape, name, direction) == (split == "compositional")]
    if colour not in wanted:
        colour = what.of(wanted)
    return Thing(shape, colour, size, texture, path, direction, pace, how.between(*SIZES[size]),
                 how.between(*PACES[pace]) * SECONDS / seconds, how.between(-0.17, 0.17), how.between(-0.17, 0.17),
                 how.between(0, 1))


def _another(things: Sequence[Thing], what: _Draw, how: _Draw, seconds: float) -> Thing:
    """Smaller than the subject, of another colour and shape than those there are, beside the subject's path."""
    shape = what.of([name for name in SHAPES if name not in {thing.shape for thing in things}])
    colour = what.of([name for name in COLOURS if name not in {thing.colour for thing in things}])
    path, direction = what.of(("resting", "straight")), what.of(list(DIRECTIONS))
    subject, side = things[0], -1 if len(things) == 1 else 1
    across = side * how.between(0.28, 0.36)
    along = how.between(-0.25, 0.25)
    x, y = (along, across) if DIRECTIONS[subject.direction][0] else (across, along)
    return Thing(shape, colour, "small", "plain", path, direction, "slow", how.between(0.078, 0.083),
                 how.between(*PACES["slow"]) * SECONDS / seconds, x, y, how.between(0, 1))
