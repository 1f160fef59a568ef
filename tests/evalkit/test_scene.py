import json
from dataclasses import replace

import numpy as np
import pytest

from evalkit.data.captions import claims
from evalkit.data.scene import (
    CAMERA_SPEEDS,
    CAMERAS,
    COLOURS,
    DIRECTIONS,
    LEVELS,
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


def test_simple_scenes_keep_the_splits_too():
    for split, first in SPLITS.items():
        assert {held_out(make_scene(first + k, level="simple")) for k in range(300)} == {split == "compositional"}


@pytest.mark.parametrize("level", LEVELS)
def test_states_of_every_level_and_split_go_through_json(level):
    for scene in (make_scene(first + k, level=level) for first in SPLITS.values() for k in range(60)):
        assert Scene.from_state(json.loads(json.dumps(scene.state()))) == scene


@pytest.mark.parametrize("wrong", [{"weather": "rain"}, {"camera": {"move": "static"}}, {"things": [{"x": 0}]}])
def test_a_state_with_other_fields_is_refused(wrong):
    with pytest.raises(TypeError):
        Scene.from_state(SCENES[0].state() | wrong)


def test_in_the_picture_too_the_subject_moves_as_told_and_is_there_most_of_the_time():
    times = np.linspace(0, 2, 33)
    for scene in map(make_scene, range(2000)):
        places = scene.on_screen(times)
        assert (places[-1] - places[0]) @ DIRECTIONS[scene.subject.direction] > 0.02, scene.seed
        assert np.mean(np.abs(places).max(axis=1) < 0.5) > 0.4, scene.seed


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_a_longer_scene_claims_the_same_and_shows_it_slower(seconds):
    for scene in SCENES[:100]:
        slower = make_scene(scene.seed, seconds=seconds)
        assert claims(slower) == claims(scene)
        np.testing.assert_allclose(slower.on_screen(TIMES * seconds / 2), scene.on_screen(TIMES), atol=1e-12)


def test_a_camera_that_starts_late_rests_until_then():
    late = [scene for scene in SCENES if scene.camera.start > 0]
    assert len(late) > 40
    for scene in late:
        poses = scene.camera.poses(TIMES, scene.seconds)
        assert np.ptp(poses[scene.camera.start >= TIMES], axis=0).max() == 0 < 0.02 < np.ptp(poses, axis=0).max()


def test_a_simple_scene_is_one_large_plain_thing_on_a_straight_path_in_steady_light():
    for scene in (make_scene(seed, level="simple") for seed in range(200)):
        (thing,) = scene.things
        assert (thing.size, thing.texture, thing.path) == ("large", "plain", "straight")
        assert scene.camera.move in ("static", "pan left", "pan right") and scene.camera.start == 0
        usual = replace(scene, light="steady", grade="neutral", lines=False, post=False, cut=None, after_cut=None)
        assert scene == usual and scene.background.horizon is None


def test_shapes_and_grounds_differ_within_a_scene_and_posts_stand_where_something_fast_passes():
    for scene in map(make_scene, range(1000)):
        assert len({thing.shape for thing in scene.things}) == len(scene.things)
        if scene.after_cut:
            assert scene.after_cut.colour not in {scene.background.colour, *(thing.colour for thing in scene.things)}
        if scene.post:
            assert (scene.subject.pace, scene.cut) == ("fast", None)
            assert scene.subject.path in ("straight", "weaving")
