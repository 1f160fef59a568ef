import json
import math
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch

from evalkit.data.captions import caption, claims, parse
from evalkit.data.corruptions import CORRUPTIONS, SEVERITIES, available_corruptions, corrupt
from evalkit.data.rendering import pack, render
from evalkit.data.scene import COLOURS, PACES, SIZES, SPLITS, Scene, is_held_out, make_scene, split_of
from evalkit.data.truth import (
    COSTS,
    DIMENSIONS,
    DISTINCT,
    SWAPPED,
    TEXT_COSTS,
    Defect,
    Version,
    compare,
    make_preference,
    make_preferences,
    true_quality,
)

SCENE = make_scene(4)
PROMPT = caption(SCENE, "dense")
ALL = (*DIMENSIONS, "overall")


@pytest.fixture(scope="module")
def pairs():
    return list(make_preferences(600))


def wrong_claims(version, prompt):
    truth = claims(version.scene)
    return [factor for factor, value in parse(prompt).items() if truth[factor] != value]


def test_every_corruption_of_the_library_and_no_other_has_a_cost():
    assert set(available_corruptions()) == set(COSTS)
    assert set(TEXT_COSTS) <= set(COSTS)
    for costs in COSTS.values():
        assert max(costs) > 0 and all(0 <= cost < 1 for cost in costs)


@pytest.mark.parametrize("name", available_corruptions())
def test_picture_defects_cost_looks_most_and_temporal_ones_but_flicker_motion(name):
    visual, motion = COSTS[name]
    if name.endswith("flicker"):
        assert visual > motion > 0
    else:
        assert (visual > motion) == (CORRUPTIONS[name].kind in ("spatial", "colour"))


@pytest.mark.parametrize("name", available_corruptions())
@pytest.mark.parametrize("beside", [(), (Defect("blur", 5), Defect("static", 5))])
def test_quality_falls_strictly_with_the_severity_where_a_defect_costs_and_never_rises(name, beside):
    levels = [true_quality(SCENE, beside, PROMPT)] + [
        true_quality(SCENE, [*beside, Defect(name, severity)], PROMPT) for severity in SEVERITIES]
    for better, worse in pairwise(levels):
        assert worse["overall"] < better["overall"] and worse["text"] <= better["text"]
        for dimension, cost in zip(DIMENSIONS, COSTS[name], strict=False):
            assert worse[dimension] < better[dimension] if cost else worse[dimension] == better[dimension]
    assert all(0 <= value <= 1 for level in levels for value in level.values())


def test_a_flawless_clip_has_quality_one_with_and_without_its_prompt():
    for scene in map(make_scene, (*range(20), *range(2_000_000, 2_000_020))):
        for prompt in (None, caption(scene, "terse"), caption(scene, "dense")):
            assert true_quality(scene, (), prompt) == dict.fromkeys(ALL, 1.0)


def test_costs_are_proportional_to_the_severity_and_multiply():
    quality = true_quality(SCENE, [Defect("blur", 2), Defect("luma_flicker", 5)])
    assert quality["visual"] == pytest.approx((1 - 0.4 * COSTS["blur"][0]) * (1 - COSTS["luma_flicker"][0]))
    assert quality["motion"] == pytest.approx(1 - COSTS["luma_flicker"][1])


@pytest.mark.parametrize("register", ["terse", "dense"])
def test_a_prompt_that_is_false_in_one_claim_costs_text_exactly_its_share(register):
    ground = next(name for name in COLOURS if name not in PROMPT)
    other = replace(SCENE, background=replace(SCENE.background, colour=ground))
    prompt = caption(other, register)
    assert true_quality(SCENE, (), prompt)["text"] == pytest.approx(1 - 1 / len(parse(prompt)), abs=1e-12)


def test_shuffling_hides_the_direction_but_not_the_colour_and_desaturation_the_reverse():
    moving = make_scene(next(seed for seed in range(99) if make_scene(seed).camera.move == "static"))
    thing = moving.subject
    prompt = f"a {thing.colour} {thing.shape} moves {thing.direction}"
    assert parse(prompt) == {"shape": thing.shape, "colour": thing.colour, "direction": thing.direction}
    for name in ("shuffle", "desaturation"):
        text = true_quality(moving, [Defect(name, 5)], prompt)["text"]
        assert text == pytest.approx((2 + 1 - TEXT_COSTS[name][-1]) / 3)


def test_reversed_fifths_hide_path_and_pace_and_nothing_else():
    thing, camera = SCENE.subject, SCENE.camera.move
    assert camera != "static"
    without = f"a {thing.colour} {thing.shape} moves {thing.direction}, the camera {camera.replace(' ', 's ')}"
    assert parse(without)["camera"] == camera
    assert true_quality(SCENE, [Defect("reverse", 5)], without)["text"] == 1
    assert {"path", "pace", "direction", "camera", "light"} <= parse(PROMPT).keys()
    hidden = true_quality(SCENE, [Defect("reverse", 5)], PROMPT)["text"]
    assert hidden == pytest.approx(1 - 2 * TEXT_COSTS["reverse"][-1] / len(parse(PROMPT)))


def test_a_still_shows_a_camera_that_is_still_and_no_motion_of_anything():
    scene = replace(SCENE, camera=replace(SCENE.camera, move="static"))
    thing = scene.subject
    prompt = f"a {thing.colour} {thing.shape} over a {scene.background.colour} background, the camera is still"
    assert parse(prompt)["camera"] == "static"
    assert true_quality(scene, [Defect("static", 5)], prompt)["text"] == 1


def test_a_white_thing_stays_white_without_colour():
    scene = replace(SCENE, things=(replace(SCENE.subject, colour="white"),))
    assert true_quality(scene, [Defect("desaturation", 5)], f"a white {scene.subject.shape}")["text"] == 1


def test_a_defect_does_not_make_a_false_claim_any_better_or_worse():
    other = "left" if SCENE.subject.direction == "right" else "right"
    prompt = f"a {SCENE.subject.colour} {SCENE.subject.shape} moves {other}"
    for defects in ((), (Defect("shuffle", 5),)):
        assert true_quality(SCENE, defects, prompt)["text"] == pytest.approx(2 / 3)


def test_overall_is_the_mean_or_weighted_as_told():
    quality = true_quality(SCENE, [Defect("freeze", 3), Defect("blur", 1)], PROMPT)
    assert quality["overall"] == pytest.approx(sum(quality[name] for name in DIMENSIONS) / 3)
    weighted = true_quality(SCENE, [Defect("freeze", 3)], PROMPT, weights={"motion": 3, "text": 1})
    assert weighted["overall"] == pytest.approx((3 * weighted["motion"] + weighted["text"]) / 4)


def test_a_version_renders_its_scene_and_then_its_defects_in_order():
    defects = (Defect("noise", 2), Defect("reverse", 5))
    frames = Version(SCENE, defects).frames(num_frames=8, fps=4, size=(24, 32))
    assert frames.shape == (8, 3, 24, 32) and frames.dtype == torch.uint8
    expected = render(pack([SCENE], torch.arange(8).numpy() / 4), 24, 32)[0]
    for name, severity in (("noise", 2), ("reverse", 5)):
        expected = corrupt(expected, name, severity, seed=SCENE.seed, fps=4)
    assert torch.equal(frames, expected)
    assert not torch.equal(frames, Version(SCENE, defects[::-1]).frames(num_frames=8, fps=4, size=(24, 32)))


@pytest.mark.parametrize("name", available_corruptions())
def test_severities_that_pairs_hold_look_different_in_the_format_of_the_world(name):
    clips = [Version(SCENE, (Defect(name, severity),)).frames(size=48) for severity in DISTINCT.get(name, SEVERITIES)]
    assert all(not torch.equal(low, high) for low, high in pairwise([Version(SCENE).frames(size=48), *clips]))


def test_equal_pixels_have_equal_quality():
    still, repeated = (Version(SCENE, (Defect(name, 5),)) for name in ("static", "repeat"))
    assert torch.equal(still.frames(size=32), repeated.frames(size=32))
    assert set(compare(PROMPT, still, repeated).margins.values()) == {0.0}


def test_swapping_the_sides_swaps_the_labels(pairs):
    for pair in pairs[:200]:
        swapped = compare(pair.prompt, pair.b, pair.a)
        assert swapped.true == {name: SWAPPED[label] for name, label in pair.true.items()}
        assert swapped.margins == {name: -margin for name, margin in pair.margins.items()}


def test_labels_follow_the_margins_and_ties_are_within_the_tie_margin(pairs):
    for pair in pairs:
        assert set(pair.true) == set(pair.margins) == set(pair.observed) == set(ALL)
        for name, margin in pair.margins.items():
            assert pair.true[name] == ("tie" if abs(margin) <= 0.02 else "a" if margin > 0 else "b")
    assert all(set(pair.true.values()) == {"tie"} for pair in map(lambda k: make_preference(k, tie_margin=1), range(9)))


def test_pairs_are_the_same_whenever_they_are_made(pairs):
    assert list(make_preferences(20)) == pairs[:20] == [make_preference(seed) for seed in range(20)]
    assert list(islice(make_preferences(5, first_seed=7), 2)) == pairs[7:9]


def test_both_sides_win_equally_often_in_every_dimension(pairs):
    for name in ALL:
        labels = [pair.true[name] for pair in pairs if pair.true[name] != "tie"]
        assert len(labels) > 200
        assert abs(labels.count("a") / len(labels) - 0.5) < 3 * math.sqrt(0.25 / len(labels))


def test_a_third_of_the_pairs_has_one_wrong_claim_on_one_side(pairs):
    wrong = [[wrong_claims(version, pair.prompt) for version in (pair.a, pair.b)] for pair in pairs]
    assert all(sorted(map(len, sides)) in ([0, 0], [0, 1]) for sides in wrong)
    share = sum(map(bool, [a or b for a, b in wrong])) / len(pairs)
    assert abs(share - 1 / 3) < 3 * math.sqrt(2 / 9 / len(pairs))
    factors = {factor for sides in wrong for side in sides for factor in side}
    assert {"shape", "colour", "direction", "pace", "path", "ground", "camera", "light"} <= factors


def test_defects_are_none_to_two_a_side_of_all_kinds_and_severities(pairs):
    sides = [version.defects for pair in pairs for version in (pair.a, pair.b)]
    assert {len(defects) for defects in sides} == {0, 1, 2}
    drawn = [defect for defects in sides for defect in defects]
    assert {defect.name for defect in drawn} == set(COSTS)
    assert {defect.severity for defect in drawn} == set(SEVERITIES)
    assert all(len({defect.name for defect in defects}) == len(defects) for defects in sides)


@pytest.mark.parametrize("split", SPLITS)
def test_a_pair_shows_two_scenes_of_its_own_split_even_where_a_claim_is_wrong(split):
    for pair in make_preferences(60, first_seed=SPLITS[split]):
        scenes = (pair.a.scene, pair.b.scene)
        assert scenes[0].seed != scenes[1].seed and scenes[0].content == scenes[1].content
        for scene in scenes:
            thing = scene.subject
            assert split_of(scene.seed) == split_of(scene.content) == split
            assert is_held_out(thing.shape, thing.colour, thing.direction) == (split == "compositional")


def test_a_scene_with_a_wrong_claim_is_one_of_the_world(pairs):
    for pair in pairs:
        for scene in (pair.a.scene, pair.b.scene):
            thing = scene.subject
            assert SIZES[thing.size][0] <= thing.radius <= SIZES[thing.size][1]
            assert PACES[thing.pace][0] <= thing.speed <= PACES[thing.pace][1]
            colours = [each.colour for each in (*scene.things, scene.background)]
            assert len(set(colours)) == len(colours)
            assert not (scene.post and thing.path in ("stopping", "bouncing"))


@pytest.mark.parametrize(("mix", "moved"), [({"visual": 1}, "visual"), ({"motion": 1}, "motion")])
def test_the_mix_restricts_pairs_to_a_dimension(mix, moved):
    for pair in (make_preference(seed, dimension_mix=mix) for seed in range(40)):
        assert not wrong_claims(pair.a, pair.prompt) + wrong_claims(pair.b, pair.prompt)
        defects = pair.a.defects + pair.b.defects
        assert all((COSTS[each.name][0] > COSTS[each.name][1]) == (moved == "visual") for each in defects)
    only_text = [make_preference(seed, dimension_mix={"text": 1}) for seed in range(40)]
    assert all(pair.true["visual"] == pair.true["motion"] == "tie" != pair.true["text"] for pair in only_text)


def test_noise_flips_its_share_of_the_observed_labels_and_neither_a_true_one_nor_a_tie(pairs):
    noisy = list(make_preferences(len(pairs), noise=0.2))
    assert all(pair.observed == pair.true for pair in pairs)
    assert [replace(pair, observed=pair.true) for pair in noisy] == pairs
    for name in ALL:
        flips = [pair.observed[name] != pair.true[name] for pair in noisy if pair.true[name] != "tie"]
        assert abs(sum(flips) / len(flips) - 0.2) < 3 * math.sqrt(0.2 * 0.8 / len(flips))
        assert all(pair.observed[name] == "tie" for pair in noisy if pair.true[name] == "tie")


def test_a_row_is_json_that_renders_and_grades_the_pair_again(pairs):
    row = json.loads(json.dumps(pairs[3].row()))
    a, b = (Version(Scene.from_state(row[side]["state"]), tuple(Defect(**each) for each in row[side]["defects"]))
            for side in ("a", "b"))
    assert compare(row["prompt"], a, b) == pairs[3]
    assert row["true"] == row["observed"] == pairs[3].true and row["margins"] == pairs[3].margins


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Defect("blurr", 1), "blurr.*there are: .*blur"),
    (lambda: Defect("blur", 0), "severity"),
    (lambda: Defect("blur", 6), "severity"),
    (lambda: true_quality(SCENE, (), "a sunset"), "a sunset"),
    (lambda: true_quality(SCENE, weights={"sound": 1}), "weights.*visual.*sound"),
    (lambda: true_quality(SCENE, weights={}), "weights"),
    (lambda: true_quality(SCENE, weights={"text": 2, "motion": -1}), "weights"),
    (lambda: make_preference(0, noise=0.5), "noise"),
    (lambda: make_preference(0, noise=-0.1), "noise"),
    (lambda: make_preference(0, dimension_mix={"text": math.nan}), "dimension_mix"),
    (lambda: make_preference(0, tie_margin=-1), "tie_margin"),
    (lambda: make_preference(-1), "-1"),
])
def test_wrong_arguments_are_told_with_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
