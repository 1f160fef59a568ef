"""The language of the world: captions that are true of a scene, what a text claims, and captions that are just false.

Every phrase stands in PHRASES: `caption` writes with it, VOCABULARY lists its words, `parse` reads it back.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations, product
from typing import Any

import numpy as np

from evalkit.data.scene import CAMERAS, COLOURS, DIRECTIONS, GRADES, PATTERNS, SHAPES, Background, Scene, Thing

REGISTERS = ("terse", "dense", "temporal")
FACTORS = ("shape", "colour", "size", "texture", "path", "direction", "pace", "count", "ground", "pattern", "horizon",
           "camera", "camera_speed", "light", "grade", "lines", "post", "cut", "cut_ground", "cut_pattern", "others")
STOPS, LANDS = 0.75, 0.24  # shares of the scene after which a stopping thing rests and a bouncing one first lands
UNMOVED = ("static", "handheld")  # cameras that have no speed
NUMBERS = {"1": "one", "2": "two", "3": "three"}

# kind -> what is meant -> its paraphrases. One pick serves a kind, so that scenes that differ are worded alike.
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "texture": {"plain": ("plain", ""), "striped": ("striped",), "dotted": ("dotted",)},
    "pace": {"slow": ("slowly",), "fast": ("quickly",)},
    "direction": {"left": ("left", "to the left"), "right": ("right", "to the right"), "up": ("up", "upward"),
                  "down": ("down", "downward")},
    "moves": {"": ("moves {direction}", "goes {direction}", "is moving {direction}")},
    "path": {"straight": ("moves {pace} {direction} in a straight line", "{pace} moves straight {direction}"),
             "weaving": ("weaves {pace} {direction}", "{pace} moves {direction} in waves"),
             "stopping": ("moves {pace} {direction}, slows down and stops", "{pace} slides {direction} to a stop"),
             "bouncing": ("bounces {pace} {direction}", "{pace} bounces {direction}")},
    "course": {"straight": ("moves {direction}", "goes {direction}"), "weaving": ("weaves {direction}",),
               "stopping": ("slides {direction}",), "bouncing": ("bounces {direction}",)},
    "place": {"bare": ("a {colour} background",),
              "patterned": ("a {pattern} {colour} background", "a {colour} {pattern} background")},
    "over": {"": ("over {place}", "on {place}", "against {place}")},
    "horizon": {"yes": ("with a horizon", "that has a horizon"), "no": ("without a horizon", "that has no horizon")},
    "other": {"resting": ("stands still", "rests"), "straight": ("moves {direction}", "goes {direction}")},
    "count": {"1": ("one thing: {things}", "{things}{joint}one thing in all")}
    | {number: (f"{NUMBERS[number]} things: {{things}}", f"{{things}}{{joint}}{NUMBERS[number]} things in all")
       for number in ("2", "3")},
    "joint": {"": (", ", "; ")},
    "camera": {"static": ("the camera is still", "the camera does not move"),
               "handheld": ("the camera is handheld", "the camera trembles in a hand")}
    | {move: (f"the camera {{speed}} {kind}s {way}", f"the camera {kind}s {way} {{speed}}")
       for move in CAMERAS if move not in UNMOVED for kind, way in [move.split()]},
    "start": {move: (f"the camera starts to {move}", f"the camera begins to {move}") for move in CAMERAS
              if move not in UNMOVED},
    "with camera": {"": ("{scene}, {camera}", "{scene} and {camera}", "{scene} while {camera}")},
    "light": {"steady": ("", "the light is steady"), "brightening": ("it brightens", "the light gets brighter"),
              "dimming": ("it gets darker", "the light gets darker")},
    "grade": {"neutral": ("",)} | {grade: (f"{grade} colours", f"the colours are {grade}") for grade in GRADES[1:]},
    "lines": {"no": ("",), "yes": ("two lines on the ground", "two lines run along the ground")},
    "post": {"no": ("",), "yes": ("it passes behind a {post}", "a {post} hides it for a moment")},
    "cut": {"": ("the shot cuts to {place}", "a cut to {place} follows")},
    "stopped": {"": ("the {shape} has stopped", "the {shape} has come to a stop")},
    "landed": {"": ("the {shape} lands for the first time", "the {shape} hits the ground for the first time")},
    "when": {"at": ("at {time} s {what}", "{what} at {time} s"), "by": ("by {time} s {what}", "{what} by {time} s"),
             "during": ("from {time} s to {end} s {what}", "{what} from {time} s to {end} s")},
}
OBSTACLES = {"left": "post", "right": "post", "up": "beam", "down": "beam"}  # across the way that the subject takes


def tokens(text: str) -> list[str]:
    """Lower-case words, single digits and the points inside numbers; all other marks are dropped."""
    return re.findall(r"[a-z]+|[0-9]|(?<=[0-9])\.(?=[0-9])", text.lower())


def _vocabulary() -> tuple[str, ...]:
    templates = [text for kind in PHRASES.values() for options in kind.values() for text in options]
    words = tokens(" ".join(re.sub(r"\{\w+\}", " ", text) for text in templates))
    return tuple(sorted({*words, *COLOURS, *SHAPES, *PATTERNS, *OBSTACLES.values(), "a", "an", ".", *"0123456789"}))


VOCABULARY = _vocabulary()  # every word that a caption can hold


class _Wording:
    """Paraphrases chosen by one stream of uniform numbers: a number for each kind of phrase, whatever is said."""

    def __init__(self, seed: int, register: str) -> None:
        stream = np.random.Generator(np.random.PCG64([3, seed, REGISTERS.index(register)]))
        self._numbers = dict(zip(PHRASES, stream.random(len(PHRASES)).tolist(), strict=True))

    def __call__(self, kind: str, meaning: str = "", **words: str) -> str:
        options = PHRASES[kind][meaning]
        return options[int(self._numbers[kind] * len(options))].format(**words)

    def place(self, ground: Background, patterned: bool) -> str:
        kind = "patterned" if patterned else "bare"
        return self("place", kind, colour=ground.colour, pattern=ground.pattern)


def caption(scene: Scene, register: str = "terse", seed: int | None = None) -> str:
    """What is true of the scene, in one of REGISTERS; `seed` (by default the scene's content) chooses the wording.

    Scenes of equal content are told alike, save for the times in seconds that the temporal register gives.
    ValueError for an unknown register.
    """
    if register not in REGISTERS:
        raise ValueError(f"expected a register of {REGISTERS}, got {register!r}")
    say = _Wording(scene.content if seed is None else seed, register)
    text = {"terse": _terse, "dense": _dense, "temporal": _temporal}[register](scene, say)
    return re.sub(r"\ba orange\b", "an orange", " ".join(text.split()))  # the only word that begins with a vowel


def _terse(scene: Scene, say: _Wording) -> str:
    thing, move = scene.subject, scene.camera.move
    motion = say("moves", direction=say("direction", thing.direction))
    text = f"a {thing.colour} {thing.shape} {motion} {say('over', place=say.place(scene.background, False))}"
    return text if move == "static" else say("with camera", scene=text, camera=say("camera", move, speed=""))


def _dense(scene: Scene, say: _Wording) -> str:
    thing, truth, joint = scene.subject, claims(scene), say("joint")
    motion = say("path", thing.path, pace=say("pace", thing.pace), direction=say("direction", thing.direction))
    ground = say("over", place=say.place(scene.background, True))
    subject = (f"a {say('size', thing.size)} {say('texture', thing.texture)} {thing.colour} {thing.shape} {motion} "
               f"{ground} {say('horizon', truth['horizon'])}")
    post = say("post", truth["post"], post=OBSTACLES[thing.direction])  # next to the subject, whom "it" means
    things = joint.join(filter(None, [subject, post, *(_other(other, say) for other in scene.things[1:])]))
    speed = "" if scene.camera.move in UNMOVED else say("pace", scene.camera.speed)
    cut = say("cut", place=say.place(scene.after_cut, True)) if scene.after_cut else ""
    return joint.join(filter(None, [
        say("count", truth["count"], things=things, joint=joint), say("lines", truth["lines"]),
        say("camera", scene.camera.move, speed=speed).strip(), say("light", scene.light), say("grade", scene.grade),
        cut]))


def _other(thing: Thing, say: _Wording) -> str:
    motion = say("other", thing.path, direction=say("direction", thing.direction))
    return f"a {say('size', thing.size)} {thing.colour} {thing.shape} {motion}"


def _temporal(scene: Scene, say: _Wording) -> str:
    """What happens, by the second at which it begins; what lasts from the first frame to the last comes early."""
    thing, camera, end = scene.subject, scene.camera, scene.seconds
    motion = say("course", thing.path, direction=say("direction", thing.direction))
    place = say("over", place=say.place(scene.background, False))
    events = [(0.0, "at", f"a {thing.colour} {thing.shape} {motion} {place}")]
    if camera.move in UNMOVED:
        events.append((0.0, "during", say("camera", camera.move)))
    else:
        events.append((camera.start, "at", say("start", camera.move)))
    if scene.light != "steady":
        events.append((0.0, "during", say("light", scene.light)))
    if thing.path == "bouncing":
        events.append((LANDS * end, "at", say("landed", shape=thing.shape)))
    if thing.path == "stopping":
        events.append((STOPS * end, "by", say("stopped", shape=thing.shape)))
    if scene.cut is not None and scene.after_cut:
        events.append((scene.cut, "at", say("cut", place=say.place(scene.after_cut, True))))
    return "; ".join(say("when", when, time=f"{time:.1f}", end=f"{end:.1f}", what=what)
                     for time, when, what in sorted(events, key=lambda event: event[0]))


def claims(scene: Scene) -> dict[str, str]:
    """The truth: a value for each of FACTORS; "none" where there is nothing to have one, "" for no other things."""
    thing, ground, camera, after = scene.subject, scene.background, scene.camera, scene.after_cut
    others = sorted(f"{other.colour} {other.shape}" for other in scene.things[1:])
    values = (thing.shape, thing.colour, thing.size, thing.texture, thing.path, thing.direction, thing.pace,
              str(len(scene.things)), ground.colour, ground.pattern, _yes(ground.horizon is not None), camera.move,
              "none" if camera.move in UNMOVED else camera.speed, scene.light, scene.grade, _yes(scene.lines),
              _yes(scene.post), _yes(after is not None), after.colour if after else "none",
              after.pattern if after else "none", ", ".join(others))
    return dict(zip(FACTORS, values, strict=True))


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


# What words mean, by whom the text speaks of: the captions' own words, and some that people write instead of them.
_ADJECTIVES = {word: (key, word) for key, names in (("colour", COLOURS), ("pattern", PATTERNS)) for word in names} \
    | {word: (key, meaning) for key in ("size", "texture") for meaning, words in PHRASES[key].items() for word in words}
_WAYS = {way + ending: way for way in (*DIRECTIONS, "in", "out") for ending in ("", "ward", "wards")}
_VERBS = ("pan", "tilt", "zoom", "roll")
_TEMPI = {"slow": "slow", "slowly": "slow", "quick": "fast", "quickly": "fast", "fast": "fast"}
_PATHS = {"straight": "straight", "weaving": "weave weaves weaving waves", "bouncing": "bounce bounces bouncing",
          "stopping": "slows slowing slides sliding stop stops stopped stopping"}
_STATES = {"static": "still static fixed not", "handheld": "handheld trembles shakes"}
_LIGHTS = {"steady": "steady", "brightening": "brightens brightening brighter",
           "dimming": "darkens darkening darker dims dimming"}
_SPEED = {word: ("camera_speed", tempo) for word, tempo in _TEMPI.items()}
_STATE = {word: ("camera", move) for move, words in _STATES.items() for word in words.split()}
_ANYONE = {word: ("light", light) for light, words in _LIGHTS.items() for word in words.split()} \
    | {grade: ("grade", grade) for grade in GRADES[1:]} | {"beam": ("post", "yes")} \
    | {word: (word, "yes") for word in ("horizon", "lines", "post")}
_MEANINGS = {"other": {}, "cut": {}, "camera": _SPEED | _STATE} \
    | {verb: _SPEED | {word: ("camera", f"{verb} {way}") for word, way in _WAYS.items() if f"{verb} {way}" in CAMERAS}
       for verb in _VERBS} \
    | {"subject": {word: ("direction", way) for word, way in _WAYS.items() if way in DIRECTIONS}
       | {word: ("pace", tempo) for word, tempo in _TEMPI.items()}
       | {word: ("path", path) for path, words in _PATHS.items() for word in words.split()}}
_OWNERS = {"it": "subject", "cut": "cut", "cuts": "cut", "camera": "camera", "static": "camera", "handheld": "camera",
           "panning": "pan"} | {verb + end: verb for verb in _VERBS for end in ("", "s", "ing")}
_COUNTS = {word: number for number, name in NUMBERS.items() for word in (number, name)}


def parse(text: str) -> dict[str, str]:
    """What a text of this language claims: those of FACTORS that it speaks of. Its first thing is the subject.

    ValueError where its first shape is not named together with a colour.
    """
    words = [word for word in tokens(text) if word not in ("a", "an", "the")]
    nouns = {index: _noun(words, index) for index, word in enumerate(words) if word in SHAPES}
    subject = next(iter(nouns.values()), {})
    if "colour" not in subject:
        raise ValueError(f"expected a text that first names a thing by a colour ({', '.join(COLOURS)}) and a shape "
                         f"({', '.join(SHAPES)}), such as 'a red star', got {text!r}")
    said, owner = {key: value for key, value in subject.items() if key != "pattern"}, "subject"
    others = set()
    for index, word in enumerate(words):
        if index in nouns:  # a shape without a colour is the subject again
            name = f"{nouns[index].get('colour', subject['colour'])} {word}"
            owner = "subject" if name == f"{subject['colour']} {subject['shape']}" else "other"
            others |= {name} if owner == "other" else set()
        elif word in _OWNERS and (_OWNERS[word] != "roll" or owner == "camera"):  # things may roll, too
            owner = _OWNERS[word]
        for key, value in _meanings(words, index, owner):
            said.setdefault(key, value)
    if others or said.get("count") == "1":
        said["others"] = ", ".join(sorted(others))
    return said


def _noun(words: Sequence[str], index: int) -> dict[str, str]:
    """The shape or ground at `index` and what the adjectives right before it say."""
    found = {"shape": words[index]}
    while index > 0 and words[index - 1] in _ADJECTIVES:
        index -= 1
        key, value = _ADJECTIVES[words[index]]
        found.setdefault(key, value)
    return found


def _meanings(words: Sequence[str], index: int, owner: str) -> Iterator[tuple[str, str]]:
    """The factors and values that the word at `index` tells, where the text speaks of `owner`."""
    before, word = words[index - 1] if index else "", words[index]
    if word in ("background", "ground"):
        noun, prefix = _noun(words, index), "cut_" if owner == "cut" else ""
        yield from ((prefix + name, noun[key]) for key, name in (("colour", "ground"), ("pattern", "pattern"))
                    if key in noun)
    elif word in ("cut", "cuts"):
        yield "cut", "no" if before in ("no", "without") else "yes"
    elif word in ("thing", "things", "object", "objects", "shapes") and before in _COUNTS:
        yield "count", _COUNTS[before]
    elif word in _ANYONE:
        key, value = _ANYONE[word]
        yield key, "no" if before in ("no", "without") else value
    elif word in _MEANINGS[owner] and (before, word) != ("slows", "down"):
        yield _MEANINGS[owner][word]


@dataclass(frozen=True)
class Distractor:
    """A caption that is false, and the factors, in the order of FACTORS, in which it differs from the true one."""

    text: str
    factors: tuple[str, ...]


def distractors(scene: Scene, n: int, register: str = "terse", seed: int | None = None) -> list[Distractor]:
    """`n` distinct false captions in the wording of `caption(scene, register, seed)`.

    They come in rounds: swaps of colours (subject and ground; in dense captions also subject and another thing), every
    factor that can change alone, then what changes several: how many things there are, a cut, a camera that moves
    instead of resting where its speed is told. When rounds run out, two factors are false.
    ValueError for more than there are, which is never below 63.
    """
    found: dict[str, Distractor] = {}
    for distractor in _candidates(scene, register, scene.content if seed is None else seed):
        if len(found) >= n:
            break
        found.setdefault(distractor.text, distractor)
    if len(found) < n:
        raise ValueError(f"expected at most {len(found)} distractors for this scene, got {n}")
    return list(found.values())


def _candidates(scene: Scene, register: str, wording: int) -> Iterator[Distractor]:
    said = parse(caption(scene, register, wording))
    stream = np.random.Generator(np.random.PCG64([4, scene.content, wording]))

    def told(edits: Sequence[Edit]) -> Iterator[Distractor]:
        """What the register tells of the edits that the world could have, in any order."""
        for k in np.argsort(stream.random(len(edits)), kind="stable"):
            other = reduce(lambda part, step: _put(part, *step), edits[k], scene)
            if other != scene and _is_possible(other):
                claimed = parse(text := caption(other, register, wording))
                factors = tuple(name for name in FACTORS if said.get(name) != claimed.get(name))
                if factors and all(name in claimed or name == "camera_speed" for name in factors):  # not just silent
                    yield Distractor(text, factors)

    singles = _single_edits(scene, register)
    order = np.argsort(stream.random(len(singles)), kind="stable")
    ones = [*_swaps(scene, register), *(singles[k] for k in order), *_bound_edits(scene, register)]
    twos = ([one + two for one in ours for two in theirs] for ours, theirs in combinations(singles, 2))
    yield from _round_robin(map(told, ones))
    yield from _round_robin(map(told, twos))


def _round_robin(groups: Iterable[Iterator[Distractor]]) -> Iterator[Distractor]:
    """One of each group, then another of each that has more ..."""
    groups = list(groups)
    while groups:
        left = []
        for group in groups:
            if (distractor := next(group, None)) is not None:
                left.append(group)
                yield distractor
        groups = left


Edit = tuple[tuple[tuple[Any, ...], Any], ...]  # (path into the scene, what to put there), ...
_SINGLE: dict[str, tuple[tuple[Any, ...], Iterable[Any]]] = {  # factors that can change alone: where, and to what
    "shape": (("things", 0, "shape"), SHAPES), "colour": (("things", 0, "colour"), COLOURS),
    **{name: (("things", 0, name), PHRASES[name]) for name in ("size", "texture", "path", "direction", "pace")},
    **{name: ((name,), PHRASES[name]) for name in ("light", "grade")}, "lines": (("lines",), (True,)),
    "post": (("post",), (True,)), "horizon": (("background", "horizon"), (None, 0.0)),
    "ground": (("background", "colour"), COLOURS), "pattern": (("background", "pattern"), PATTERNS),
    "camera_speed": (("camera", "speed"), PHRASES["pace"]), "cut_ground": (("after_cut", "colour"), COLOURS),
    "cut_pattern": (("after_cut", "pattern"), PATTERNS)}
_TOLD = {"terse": ("shape", "colour", "direction", "ground", "camera"), "dense": FACTORS,
         "temporal": ("shape", "colour", "path", "direction", "ground", "camera", "light", "cut", "cut_ground",
                      "cut_pattern")}


def _put(part: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the part of a scene with `value` at the end of `path`."""
    if not path:
        return value
    if isinstance(part, tuple):
        return tuple(_put(item, path[1:], value) if k == path[0] else item for k, item in enumerate(part))
    return replace(part, **{path[0]: _put(getattr(part, path[0]), path[1:], value)})


def _is_possible(scene: Scene) -> bool:
    """Whether the world has such scenes, so that no caption is false by its words alone."""
    thing, after = scene.subject, scene.after_cut
    colours = [each.colour for each in (*scene.things, scene.background, *([after] if after else []))]
    passes = thing.path in ("straight", "weaving") and thing.pace == "fast" and scene.cut is None
    return (len({*colours}) == len(colours) and len({each.shape for each in scene.things}) == len(scene.things)
            and (passes or not scene.post) and (thing.path != "bouncing" or thing.direction in ("left", "right")))


def _swaps(scene: Scene, register: str) -> list[list[Edit]]:
    """The subject's colour against the ground's, and against that of another thing."""
    subject, mine = ("things", 0, "colour"), scene.subject.colour
    ground = [((subject, scene.background.colour), (("background", "colour"), mine))]
    others = [((subject, thing.colour), (("things", number, "colour"), mine))
              for number, thing in enumerate(scene.things) if number > 0 and "others" in _TOLD[register]]
    return [ground, others]


def _single_edits(scene: Scene, register: str) -> list[list[Edit]]:
    """A group for each factor that the register tells and that can change alone."""
    around = OBSTACLES[scene.subject.direction]  # where a post or a beam is told, it stays across the way
    groups = [[((path, value),) for value in values] for name, (path, values) in _SINGLE.items()
              if name in _TOLD[register] and (scene.after_cut or not name.startswith("cut_"))]
    groups = [[edit for edit in group if not scene.post or OBSTACLES.get(edit[0][1], around) == around]
              for group in groups]
    groups.append([((("things", number, key), value),) for number in range(1, len(scene.things))
                   for key in ("shape", "colour") for value in _SINGLE[key][1] if "others" in _TOLD[register]])
    return [*groups, _camera_edits(scene, register)[0]]


def _camera_edits(scene: Scene, register: str) -> tuple[list[Edit], list[Edit]]:
    """To moves that change nothing else that is told, and to those with which a speed comes or goes."""
    alone, bound = [], []
    for move in CAMERAS:
        with_speed = (move in UNMOVED) != (scene.camera.move in UNMOVED) and "camera_speed" in _TOLD[register]
        (bound if with_speed else alone).append(((("camera", "move"), move),))
    return alone, bound


def _bound_edits(scene: Scene, register: str) -> list[list[Edit]]:
    """Of the camera between moving and not, of the number of things, and a cut where there is none."""
    groups, things = [_camera_edits(scene, register)[1]], scene.things
    if "count" in _TOLD[register] and len(things) > 1:
        groups.append([((("things",), things[:-1]),)])
    if "count" in _TOLD[register] and len(things) < 3:
        shapes, colours = ({*names} - {getattr(thing, key) for thing in things}
                           for key, names in (("shape", SHAPES), ("colour", COLOURS)))
        more = [replace(things[0], shape=shape, colour=colour, size="small", texture="plain",
                        path=("resting", "straight")[k % 2], direction=[*DIRECTIONS][k // 2 % 4])
                for k, (shape, colour) in enumerate(product(sorted(shapes), sorted(colours)))]
        groups.append([((("things",), (*things, thing)),) for thing in more])
    if "cut" in _TOLD[register] and not scene.after_cut:
        grounds = [replace(scene.background, colour=colour, pattern=pattern)
                   for colour in COLOURS for pattern in PATTERNS]
        groups.append([((("cut",), scene.seconds / 2), (("after_cut",), ground)) for ground in grounds])
    return groups
