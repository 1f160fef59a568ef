import json

import numpy as np
import pytest

from evalkit.data.scene import (
    CAMERA_SPEEDS,
    CAMERAS,
    COLOURS,
    DIRECTIONS,
    PACES,
    PATHS,
    SHAPES,
    SPLITS,
    Scene,
    bounce_height,
    is_held_out,
    make_scene,
    split_of,
)

TIMES = np.arange(16) / 8
SCENES = [make_scene(seed) for seed in range(400)]


def held_out(scene):
    return is_held_out(scene.subject.shape, scene.subject.colour, scene.subject.direction)


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_scene_of_a_plain_split_shows_a_held_out_combination(split):
    assert not any(held_out(make_scene(SPLITS[split] + k)) for k in range(500))


def test_every_scene_of_the_compositional_split_shows_one():
    assert all(held_out(make_scene(SPLITS["compositional"] + k)) for k in range(500))


def test_a_seed_tells_its_split():
    found = [split_of(seed) for seed in (0, 999_999, 1_000_000, 2_000_000)]
    assert found == ["train", "train", "test", "compositional"]


def test_everything_occurs_and_often():
    for get, values in ((lambda s: s.subject.shape, SHAPES), (lambda s: s.subject.colour, COLOURS),
                        (lambda s: s.subject.direction, DIRECTIONS), (lambda s: s.subject.path, PATHS),
                        (lambda s: s.camera.move, CAMERAS), (lambda s: len(s.things), (1, 2, 3))):
        found = [get(scene) for scene in SCENES]
        assert min(found.count(value) for value in values) >= 400 / len(values) / 3
    assert 0.1 < np.mean([scene.cut is not None for scene in SCENES]) < 0.3
    assert any(scene.post for scene in SCENES)


def test_scenes_of_one_content_differ_only_in_what_no_caption_says():
    for content in range(40):
        one, other = make_scene(1000 + content, content), make_scene(2000 + content, content)
        assert one.subject.speed != other.subject.speed
        for a, b in zip(one.things, other.things, strict=True):
            for field in ("shape", "colour", "size", "texture", "path", "direction", "pace"):
                assert getattr(a, field) == getattr(b, field)
        assert (one.camera.move, one.light, one.grade, one.background.colour, one.cut is None) == (
            other.camera.move, other.light, other.grade, other.background.colour, other.cut is None)


def test_a_scene_is_rebuilt_from_its_state():
    for scene in SCENES[:50]:
        assert Scene.from_state(json.loads(json.dumps(scene.state()))) == scene


def test_the_subject_is_the_largest_outruns_the_camera_and_wears_a_colour_of_its_own():
    for scene in SCENES:
        sizes = [thing.radius for thing in scene.things]
        assert all(sizes[0] > 1.3 * size for size in sizes[1:])
        assert scene.subject.speed > CAMERA_SPEEDS[scene.camera.speed]
        assert scene.background.colour not in {thing.colour for thing in scene.things}
        assert len({thing.colour for thing in scene.things}) == len(scene.things)


@pytest.mark.parametrize("path", PATHS)
def test_things_move_as_told(path):
    for scene in SCENES:
        thing = scene.subject
        if thing.path != path:
            continue
        moved = np.diff(thing.positions(TIMES, scene.seconds)[[0, -1]], axis=0)[0]
        towards = np.dot(moved, DIRECTIONS[thing.direction])
        slow, fast = PACES[thing.pace]
        assert slow * 1.5 < towards < fast * 2.2, scene.seed


def test_what_stops_has_stopped_and_what_bounces_falls_first_and_keeps_half_its_height():
    for scene in SCENES[:100]:
        if scene.subject.path == "stopping":
            last = scene.subject.positions(np.array([1.6, 1.9]), 2.0)
            assert np.allclose(last[0], last[1])
    share = np.linspace(0, 1, 2001)
    height = bounce_height(share)
    assert height[0] == 1 and height.min() == 0 and np.all(np.diff(height[:400]) < 0)
    peaks = [height[k] for k in range(1, 2000) if height[k - 1] < height[k] >= height[k + 1]]
    assert peaks[:3] == pytest.approx([0.5, 0.25, 0.125], abs=1e-3)


def test_a_longer_scene_takes_its_time():
    short, long = make_scene(3), make_scene(3, seconds=4.0)
    ways = [np.ptp(s.subject.positions(np.linspace(0, s.seconds, 9), s.seconds), axis=0) for s in (short, long)]
    assert ways[0] == pytest.approx(ways[1])


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 0, "content": -1}, {"seed": 0, "level": "hard"}])
def test_wrong_seeds_and_levels_are_refused(wrong):
    with pytest.raises(ValueError, match="expected seeds of 0 or more"):
        make_scene(**wrong)
