"""The true quality of a clip of the made-up world, known from its recipe, and true preferences between two clips.

Nothing here looks at pixels: rewards and alignment methods, which do, are graded against it.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from evalkit.data import scene as world
from evalkit.data.captions import caption, claims, parse
from evalkit.data.corruptions import CORRUPTIONS, SEVERITIES, available_corruptions, corrupt
from evalkit.data.scene import FPS, NUM_FRAMES, SECONDS, SIZE, SPLITS, Scene, make_scene, split_of
from evalkit.data.synthetic import render_scene

DIMENSIONS = ("visual", "motion", "text")
EVEN = dict.fromkeys(DIMENSIONS, 1.0)
REGISTERS = ("terse", "dense")  # the temporal one tells seconds, which scenes of equal content do not share
SPLIT_SIZE = SPLITS["test"]
SWAPPED = {"a": "b", "b": "a", "tie": "tie"}

# Corruption -> (visual, motion) cost at severity 5; at severity s, s fifths of it. What spoils every single frame costs
# looks, and what spoils only their sequence motion. Both pay where both suffer: flicker is seen in the look of frames
# first, but nothing moves smoothly in it; smears, ghosts and dissolves come from motion and blur the frames that show
# it; jitter and vanishing leave frames soft or patched. Below 1, so that a second defect always makes it worse still.
COSTS: dict[str, tuple[float, float]] = {
    "blur": (0.8, 0.0), "noise": (0.7, 0.0), "blocks": (0.7, 0.0), "over_sharpen": (0.5, 0.0), "grid": (0.55, 0.0),
    "border": (0.4, 0.0), "caption_overlay": (0.45, 0.0), "banding": (0.5, 0.0), "desaturation": (0.5, 0.0),
    "over_saturation": (0.5, 0.0), "over_exposure": (0.6, 0.0), "under_exposure": (0.65, 0.0),
    "contrast_loss": (0.6, 0.0), "luma_flicker": (0.65, 0.25), "colour_flicker": (0.65, 0.2),
    "camera_jitter": (0.15, 0.7), "vanish": (0.2, 0.6), "ghosting": (0.3, 0.5), "temporal_blur": (0.3, 0.7),
    "crossfade": (0.2, 0.75), "slow_motion": (0.1, 0.6), "dropped_frames": (0.0, 0.6), "reverse": (0.0, 0.5),
    "shuffle": (0.0, 0.9), "freeze": (0.0, 0.9),
    "repeat": (0.0, 0.95), "static": (0.0, 0.95),  # at 5 the same: a still, of 16 frames
}
_ORDER, _TEMPO = ("path", "direction", "camera", "light"), ("pace", "camera_speed")
_CUT = ("cut", "cut_ground", "cut_pattern")
_HUES = ("colour", "ground", "cut_ground", "grade", "others")
_STILL, _GREY = ("static", "steady"), ("white", "black", "")  # values that a still, or a grey clip, shows as well
# Corruption -> claims that can no longer be seen to hold, save for which values, and the cost at severity 5.
TEXT_COSTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    "static": (_ORDER + _TEMPO + _CUT, _STILL, 0.95), "repeat": (_ORDER + _TEMPO + _CUT, _STILL, 0.95),
    "freeze": (_ORDER + _TEMPO + _CUT, _STILL, 0.9), "shuffle": (_ORDER + _TEMPO, _STILL, 0.9),
    "crossfade": (_ORDER + _TEMPO, _STILL, 0.6), "slow_motion": (_TEMPO, (), 0.9),
    "reverse": (("path", "pace"), (), 0.6),  # fifths in place: which way all goes can still be seen
    "desaturation": (_HUES, _GREY, 0.95)}
DISTINCT = {"static": (1, 2, 3, 5), "crossfade": (1, 2, 3, 5)}  # of 16 frames, their 4 shows the same as their 5

# Factor -> where a scene holds it, in which field, and its values: what can be wrong about a scene, one at a time.
_VARIABLE: dict[str, tuple[str, str, Iterable[str]]] = {
    "shape": ("subject", "shape", world.SHAPES), "colour": ("subject", "colour", world.COLOURS),
    "size": ("subject", "size", world.SIZES), "texture": ("subject", "texture", world.TEXTURES),
    "path": ("subject", "path", world.PATHS), "direction": ("subject", "direction", world.DIRECTIONS),
    "pace": ("subject", "pace", world.PACES), "ground": ("background", "colour", world.COLOURS),
    "pattern": ("background", "pattern", world.PATTERNS), "camera": ("camera", "move", world.CAMERAS),
    "camera_speed": ("camera", "speed", world.CAMERA_SPEEDS), "light": ("", "light", world.LIGHTS),
    "grade": ("", "grade", world.GRADES)}


@dataclass(frozen=True)
class Defect:
    """A corruption of the library at a severity of 1..5. ValueError for another name or severity."""

    name: str
    severity: int

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ValueError(f"unknown corruption {self.name!r}; there are: {', '.join(available_corruptions())}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity: expected one of {SEVERITIES}, got {self.severity!r}")


def true_quality(scene: Scene, defects: Sequence[Defect] = (), prompt: str | None = None, *,
                 weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """How good the scene with these defects is: "visual", "motion", "text" and "overall", each in [0, 1], 1 flawless.

    Visual is how its frames look and motion how it moves, whatever it shows: products over the defects of what each
    leaves, so that a higher severity is worse, and more defects are never better. Text is the share of the prompt's
    claims that hold in the scene, of which a claim that a defect hides counts as far as it can still be seen; 1 without
    a prompt. Overall is their mean, because none is dearer than another a priori, or weighted by `weights`
    (dimension -> 0 or more, absent ones 0). ValueError for wrong weights, for a prompt that `captions.parse` cannot
    read, and for a corruption that is not in COSTS.
    """
    shares = _weights("weights", EVEN if weights is None else weights)
    if unpriced := [defect.name for defect in defects if defect.name not in COSTS]:
        raise ValueError(f"expected corruptions that truth.COSTS knows, {', '.join(sorted(COSTS))}; got {unpriced}")
    quality = {name: math.prod(1 - COSTS[defect.name][column] * defect.severity / 5 for defect in defects)
               for column, name in enumerate(DIMENSIONS[:2])}
    quality["text"] = 1.0 if prompt is None else _text_quality(scene, defects, prompt)
    return quality | {"overall": sum(shares[name] * quality[name] for name in DIMENSIONS) / sum(shares.values())}


def _text_quality(scene: Scene, defects: Sequence[Defect], prompt: str) -> float:
    truth, said = claims(scene), parse(prompt)
    credits = [_visible(factor, value, defects) for factor, value in said.items() if truth[factor] == value]
    return sum(credits) / len(said)


def _visible(factor: str, value: str, defects: Sequence[Defect]) -> float:
    """How far, 0..1, a true claim can be seen to hold despite the defects."""
    hidden = [(*TEXT_COSTS[defect.name], defect.severity) for defect in defects if defect.name in TEXT_COSTS]
    return math.prod(1 - cost * severity / 5 for factors, kept, cost, severity in hidden
                     if factor in factors and value not in kept)


def _weights(what: str, given: Mapping[str, float]) -> dict[str, float]:
    """Of all DIMENSIONS, in their order, absent ones 0."""
    values = given.values()
    if not set(given) <= set(DIMENSIONS) or min(values, default=0) < 0 or not 0 < sum(values) < math.inf:
        raise ValueError(f"{what}: expected weights of 0 or more for {DIMENSIONS}, not all 0, got {dict(given)}")
    return {name: given.get(name, 0) for name in DIMENSIONS}


@dataclass(frozen=True)
class Version:
    """A clip as its recipe: a scene and the defects that it suffers, one after the other."""

    scene: Scene
    defects: tuple[Defect, ...] = ()

    def frames(self, num_frames: int = NUM_FRAMES, fps: float = FPS, size: int | tuple[int, int] = SIZE) -> Tensor:
        """uint8 (T, 3, H, W): frame i at i / `fps` seconds; `size` is H = W or (H, W). Deterministic."""
        frames = render_scene(self.scene, num_frames, fps, size)
        for defect in self.defects:
            frames = corrupt(frames, defect.name, defect.severity, seed=self.scene.seed, fps=fps)
        return frames

    def row(self) -> dict[str, Any]:
        """JSON-ready; `Scene.from_state` reads the state back."""
        return {"state": self.scene.state(), "defects": [asdict(defect) for defect in self.defects]}


@dataclass(frozen=True)
class Preference:
    """Two versions for one prompt, and for each of DIMENSIONS and "overall" which is better: "a", "b" or "tie".

    margins: true quality of a less that of b, -1..1; true: the labels that follow; observed: those an annotator gives.
    """

    prompt: str
    a: Version
    b: Version
    margins: dict[str, float]
    true: dict[str, str]
    observed: dict[str, str]

    def row(self) -> dict[str, Any]:
        """JSON-ready: all that is needed to render and to grade the pair."""
        return {"prompt": self.prompt, "a": self.a.row(), "b": self.b.row(), "margins": self.margins, "true": self.true,
                "observed": self.observed}


def compare(prompt: str, a: Version, b: Version, tie_margin: float = 0.02) -> Preference:
    """The true preference, observed without error. Qualities that differ by `tie_margin` or less are a tie.

    ValueError as in `true_quality`, and for a negative margin.
    """
    if not tie_margin >= 0:
        raise ValueError(f"tie_margin: expected 0 or more, got {tie_margin}")
    of_a, of_b = (true_quality(version.scene, version.defects, prompt) for version in (a, b))
    margins = {name: of_a[name] - of_b[name] for name in of_a}
    labels = {name: "tie" if abs(margin) <= tie_margin else "a" if margin > 0 else "b"
              for name, margin in margins.items()}
    return Preference(prompt, a, b, margins, labels, dict(labels))


def make_preference(seed: int, *, noise: float = 0.0, dimension_mix: Mapping[str, float] = EVEN,
                    tie_margin: float = 0.02) -> Preference:
    """The pair of `seed`: two scenes of the content `seed`, of its split, with none to two defects each.

    dimension_mix says in what pairs differ: defects are drawn among the kinds that spoil visual or motion most in
    proportion to these two, and text's share of the whole, a third by default, is that of the pairs in which one side
    shows something else than one claim of the prompt says. noise in [0, 0.5) is the probability with which each
    observed label that is no tie is the wrong one; it changes nothing else, and a higher one flips those that a lower
    one does. ValueError for a negative seed, and for another noise or mix.
    """
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise: expected 0 or more and less than 0.5, got {noise}")
    mix = _weights("dimension_mix", dimension_mix)
    scenes = [make_scene(seed)]
    first = SPLITS[split_of(seed)]
    half_a_split_away = first + (seed - first + SPLIT_SIZE // 2) % SPLIT_SIZE
    scenes.append(make_scene(half_a_split_away, content=seed))
    stream = _stream(5, seed)
    prompt = caption(scenes[0], _pick(stream, REGISTERS))
    if stream.random() * sum(mix.values()) < mix["text"]:
        side = _pick(stream, (0, 1))
        scenes[side] = _pick(stream, _pick(stream, _with_one_wrong_claim(scenes[side], prompt)))
    a, b = (Version(scene, _draw_defects(stream, mix)) for scene in scenes)
    pair = compare(prompt, a, b, tie_margin)
    chances = _stream(6, seed).random(len(pair.true))  # of its own, so that clips and truth are those of every noise
    return replace(pair, observed={name: SWAPPED[label] if chance < noise else label
                                   for (name, label), chance in zip(pair.true.items(), chances, strict=True)})


def make_preferences(n: int, first_seed: int = 0, noise: float = 0.0) -> Iterator[Preference]:
    """The pairs of `n` seeds from `first_seed` on: a value of SPLITS, or after it."""
    return (make_preference(seed, noise=noise) for seed in range(first_seed, first_seed + n))


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


def _pick(stream: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(stream.random() * len(items))]  # of uniform numbers only, which every numpy draws alike


def _draw_defects(stream: np.random.Generator, mix: Mapping[str, float]) -> tuple[Defect, ...]:
    """None to two of different kinds, the dimension of each by `mix`; severities at random."""
    defects: dict[str, Defect] = {}
    damage = mix["visual"] + mix["motion"]
    for _ in range(_pick(stream, (0, 1, 2)) if damage else 0):
        visual = stream.random() * damage < mix["visual"]
        kinds = [kind for kind, (look, move) in COSTS.items() if (look > move) == visual and kind not in defects]
        kind = _pick(stream, kinds)
        defects[kind] = Defect(kind, _pick(stream, DISTINCT.get(kind, SEVERITIES)))
    return tuple(defects.values())


def _with_one_wrong_claim(scene: Scene, prompt: str) -> list[list[Scene]]:
    """Scenes like this of which just one claim of the prompt is wrong, grouped by which; at least one group.

    They keep the seed and content of the original, of whose content they no longer are.
    """
    said = parse(prompt)
    groups = [[other for other in _changes(scene, factor) if _is_possible(other, scene)
               and said.items() - claims(other).items() == {(factor, said[factor])}] for factor in said]
    return [group for group in groups if group]


def _changes(scene: Scene, factor: str) -> list[Scene]:
    """The scene with every value of `factor`, its own among them; none where that cannot change alone."""
    part, field, values = _VARIABLE.get(factor, ("", "", ()))
    holders = [replace(getattr(scene, part) if part else scene, **{field: value}) for value in values]
    if part == "subject":
        return [replace(scene, things=(_resized(thing, scene), *scene.things[1:])) for thing in holders]
    return [replace(scene, **{part: holder}) for holder in holders] if part else holders


def _resized(thing: world.Thing, scene: Scene) -> world.Thing:
    """With the radius and speed of its size and pace, as far within their ranges as the subject's were."""
    stretch, before = SECONDS / scene.seconds, scene.subject
    radius = np.interp(before.radius, world.SIZES[before.size], world.SIZES[thing.size])
    speed = np.interp(before.speed / stretch, world.PACES[before.pace], world.PACES[thing.pace]) * stretch
    return replace(thing, radius=float(radius), speed=float(speed))


def _is_possible(other: Scene, scene: Scene) -> bool:
    """Whether `other`, a change of `scene`, is one that the world and the scene's split can show."""
    thing, before = other.subject, scene.subject
    grounds = [ground for ground in (other.background, other.after_cut) if ground]
    colours, shapes = [each.colour for each in (*other.things, *grounds)], [each.shape for each in other.things]
    turned = (thing.direction in ("left", "right")) != (before.direction in ("left", "right"))
    crowded = other.post or len(other.things) > 1  # they stand beside the way that the subject takes, or across it
    return (len({*colours}) == len(colours) and len({*shapes}) == len(shapes) and not (turned and crowded)
            and (not other.post or (thing.path in ("straight", "weaving") and thing.pace == "fast"))
            and (thing.path != "bouncing" or thing.direction in ("left", "right"))
            and world.is_held_out(thing.shape, thing.colour, thing.direction)
            == world.is_held_out(before.shape, before.colour, before.direction))
