import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from evalkit.data.rendering import DRIFT, POST_COLOUR, pack, render
from evalkit.data.scene import CAMERAS, COLOURS, SHAPES, Background, make_scene
from evalkit.data.synthetic import render_scene, render_scenes

HASH = "import hashlib; from evalkit.data.scene import make_scene as m; " \
       "from evalkit.data.synthetic import render_scene as r; " \
       "print(hashlib.sha256(b''.join(r(m(s)).numpy().tobytes() for s in range(10))).hexdigest())"
TEN_CLIPS = "7bda440fb8927d1ff30b2a46ecb8e5c80c9fca68712c27b6334c24dd475adefe"


def first(condition, **options):
    return next(scene for scene in (make_scene(seed, **options) for seed in range(3000)) if condition(scene))


def mask_of(scene, **options):
    """(T, H, W) bool: the pixels that the subject changes."""
    without = replace(scene, things=(replace(scene.subject, radius=1e-5), *scene.things[1:]))
    return (render_scene(scene, **options).int() - render_scene(without, **options)).abs().sum(1) > 8


def test_ten_clips_are_the_same_in_another_process_and_were_so_when_this_was_written():
    frames = [render_scene(make_scene(seed)).numpy().tobytes() for seed in range(10)]
    here = hashlib.sha256(b"".join(frames)).hexdigest()
    there = subprocess.run([sys.executable, "-c", HASH], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there == TEN_CLIPS


def test_a_batch_is_its_clips_bit_for_bit():
    scenes = [make_scene(seed) for seed in range(20)]
    together = render_scenes(scenes)
    assert all(torch.equal(clip, render_scene(scene)) for clip, scene in zip(together, scenes, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_renders_the_same_bits():
    scenes = [make_scene(seed) for seed in range(64)]
    assert torch.equal(render_scenes(scenes, device="cuda").cpu(), render_scenes(scenes))


def test_the_number_of_threads_changes_nothing():
    before, clip = torch.get_num_threads(), render_scene(make_scene(5), size=128)
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert torch.equal(render_scene(make_scene(5), size=128), clip)
    finally:
        torch.set_num_threads(before)


def test_the_same_motion_at_any_frame_rate():
    slow, fast = (render_scene(make_scene(3), count, fps) for count, fps in ((8, 8), (60, 60)))
    assert torch.equal(slow[::2], fast[::15][:4])


@pytest.mark.parametrize("size", [32, 64, 256, (48, 80), (91, 57)])
def test_any_size_shows_the_same_picture(size):
    scene = make_scene(9)
    clip = render_scene(scene, num_frames=3, size=size).float()
    height, width = (size, size) if isinstance(size, int) else size
    assert clip.shape == (3, 3, height, width)
    if height == width:
        small = torch.nn.functional.interpolate(clip, 32, mode="area")
        assert (small - render_scene(scene, num_frames=3, size=32).float()).abs().mean() < 6


def test_the_subject_is_where_the_scene_says():
    for seed in range(30):
        scene = make_scene(seed)
        if len(scene.things) > 1 or scene.post:
            continue
        mask, told = mask_of(scene), (scene.on_screen(np.arange(16) / 8) + 0.5) * 64
        for frame, (x, y) in zip(mask, told, strict=True):
            if 16 < x < 48 and 16 < y < 48:
                rows, columns = frame.nonzero().float().add(0.5).mean(0)
                assert abs(columns - x) < 1.5 and abs(rows - y) < 2.2, seed


def test_colours_are_the_palettes_under_plain_light():
    seen = 0
    for seed in range(200):
        scene = make_scene(seed, level="simple")
        frame = mask_of(scene, num_frames=9, size=96)[8]
        if frame.sum() > 300:
            pixels = render_scene(scene, num_frames=9, size=96)[8].float()[:, frame]
            colour = pixels.median(1).values
            nearest = min(COLOURS, key=lambda name: (colour - torch.tensor(COLOURS[name]).float()).norm())
            assert nearest == scene.subject.colour, seed
            seen += 1
    assert seen > 100


def test_a_pan_to_the_right_moves_the_ground_to_the_left():
    scene = first(lambda s: s.camera.move == "pan right", level="simple")
    scene = replace(scene, things=(replace(scene.subject, radius=1e-5),))
    clip = render_scene(scene, num_frames=2, fps=1, size=200).float()  # 0.08 of 200 pixels in a second
    assert (clip[1, ..., :-16] - clip[0, ..., 16:]).abs().median() < 3
    assert (clip[1, ..., 16:] - clip[0, ..., :-16]).abs().median() > 6


def test_edges_are_antialiased():
    scene = first(lambda s: s.subject.shape == "circle", level="simple")
    clip = render_scene(scene, 16).int()
    assert len((clip[1:] - clip[:-1]).unique()) > 40, "a subpixel move changes edges by shades"


def test_the_subject_passes_behind_the_post_and_comes_out_again():
    scene = first(lambda s: s.post and s.camera.move == "static" and s.subject.path == "straight"
                  and s.subject.size == "small")
    seen = mask_of(scene, num_frames=64, fps=32).sum((1, 2)).float()
    middle = seen[28:36].min()
    assert middle < 0.5 * seen[12:20].max() and middle < 0.5 * seen[44:52].max()


def test_a_cut_changes_the_ground_at_once_and_brings_the_subject_closer():
    scene = first(lambda s: s.cut is not None and s.light == "steady" and s.camera.move == "static")
    clip = render_scene(scene, 64, 32).float()
    change = clip.diff(dim=0).abs().mean((1, 2, 3))
    assert change.argmax() + 1 == int(np.ceil(scene.cut * 32)) and change.max() > 5 * change.median()
    assert scene.closeness(np.array([0.0, 2.0])).tolist() == [1.0, 0.8]


@pytest.mark.parametrize(("light", "sign"), [("brightening", 1), ("dimming", -1), ("steady", 0)])
def test_light_drifts_as_told(light, sign):
    scene = replace(first(lambda s: s.light == light and s.cut is None and s.camera.move == "static"), things=())
    scene = replace(scene, things=(replace(make_scene(0).subject, radius=1e-5),), post=False, lines=False)
    levels = render_scene(scene).float().mean((1, 2, 3))
    assert (torch.sign(levels.diff()) == sign).all() if sign else levels.std() < 1


def test_no_scene_is_an_error():
    with pytest.raises(ValueError, match="at least one scene"):
        pack([], np.zeros(4))


def test_packed_scenes_may_be_taken_apart():
    packed = pack([make_scene(seed) for seed in range(4)], np.arange(3) / 8)
    assert torch.equal(render(packed.rows(slice(2, 4)), 24, 24), render(packed, 24, 24)[2:])


PLAIN = make_scene(3, level="simple")
PLAIN = replace(PLAIN, background=replace(PLAIN.background, pattern="checkered"),
                camera=replace(PLAIN.camera, move="static"))


def with_camera(move, speed, scene=PLAIN):
    return replace(scene, camera=replace(scene.camera, move=move, speed=speed))


def with_subject(scene=PLAIN, **changes):
    return replace(scene, things=(replace(scene.subject, **changes), *scene.things[1:]))


def best_shift(before, after, axis, reach=11):
    """By how many pixels the content of `after` lies further along `axis` than that of `before`, both (3, H, W).

    Checks of 100 pixels come again after 25, and light falls off to one side: shifts are small, and gradients compared.
    """
    before, after = (picture.diff(dim=axis) for picture in (before, after))

    def error(shift):
        inner = (slice(None), slice(reach, -reach), slice(reach, -reach))
        return (torch.roll(before, shift, axis)[inner] - after[inner]).abs().mean()

    return min(range(-reach, reach + 1), key=error)


@pytest.mark.parametrize("move", CAMERAS)
def test_the_subject_is_where_the_scene_says_under_every_camera(move):
    scene = with_camera(move, "fast", with_subject(shape="circle", x=0.05, y=-0.05))
    told, mask = scene.on_screen(np.arange(16) / 8), mask_of(scene, size=96)
    whole = np.flatnonzero(np.abs(told).max(axis=1) < 0.25)
    assert len(whole) >= 8
    for frame in whole:
        rows, columns = mask[frame].nonzero().float().add(0.5).mean(0).tolist()
        assert np.abs((told[frame] + 0.5) * 96 - (columns, rows)).max() < 0.3


@pytest.mark.parametrize(("move", "axis", "pixels"), [
    ("pan right", 2, -8), ("pan left", 2, 8), ("tilt down", 1, -8), ("tilt up", 1, 8)])
def test_the_ground_moves_against_the_camera_as_far_as_the_camera_moves(move, axis, pixels):
    first, second = render_scene(with_camera(move, "slow", with_subject(radius=0.0)), 2, 1, 100).float()
    assert best_shift(first, second, axis) == pixels  # 0.08 of 100 in a second


def test_beyond_the_horizon_the_ground_is_paler_and_moves_half_as_far():
    scene = with_subject(replace(PLAIN, background=Background("blue", "checkered", 3, horizon=0.0)), radius=0.0)
    frame = render_scene(scene, 1).float()[0]
    assert frame[:, :28].mean() > frame[:, 36:].mean() + 30
    first, second = render_scene(with_camera("pan right", "slow", scene), 2, 1, 100).float()
    assert best_shift(first[:, :48], second[:, :48], 2) == -4
    assert best_shift(first[:, 52:], second[:, 52:], 2) == -8


@pytest.mark.parametrize(("move", "sign"), [("zoom in", 1), ("zoom out", -1)])
def test_what_is_zoomed_in_on_grows(move, sign):
    areas = mask_of(with_camera(move, "fast", with_subject(path="resting", x=0.0, y=0.0)), size=96).sum((1, 2))
    assert (torch.sign(areas.diff()) == sign).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tenth_of_a_pixel_changes_the_edges_of_every_shape_by_shades(shape):
    scene = with_subject(shape=shape, direction="right", x=0.0, y=0.0)
    rate = scene.subject.speed * 64 / 0.1  # frames a second
    changes = render(pack([scene], 1 + np.arange(2) / rate), 64, 64)[0].int().diff(dim=0).abs()
    assert 1 < changes.max() < 64 and 20 < (changes.amax(1) > 1).sum() < 400


def test_nothing_shows_through_the_post_and_all_that_comes_out_is_the_same():
    scene = with_subject(replace(PLAIN, post=True), direction="right", pace="fast", speed=0.45, x=0.0, y=0.0)
    shown = render_scene(scene)
    column = shown[:, :, 32, 32].float()
    assert (column - column[0]).abs().max() == 0 and (column[0] - torch.tensor(POST_COLOUR)).abs().max() < 4
    beside = torch.tensor([abs(x - 31.5) > 5 for x in range(64)])
    assert torch.equal(shown[..., beside], render_scene(replace(scene, post=False))[..., beside])


def test_before_a_cut_nothing_tells_of_it_and_after_it_all_is_the_second_shot():
    cuts = [scene for scene in map(make_scene, range(200)) if scene.cut is not None][:5]
    for scene in cuts:
        shown, second = render_scene(scene), torch.from_numpy(scene.in_second_shot(np.arange(16) / 8))
        assert torch.equal(shown[~second], render_scene(replace(scene, cut=None, after_cut=None))[~second])
        begun = replace(scene, cut=0.0, background=Background("red", "spotted", 1, scene.background.horizon))
        assert torch.equal(shown[second], render_scene(begun)[second])


@pytest.mark.parametrize("light", ["brightening", "dimming"])
def test_light_drifts_evenly_from_one_end_to_the_other(light):
    still = with_subject(path="resting")
    steady, drifting = (render_scene(replace(still, light=name), 17).float() for name in ("steady", light))
    gains = drifting.mean((1, 2, 3)) / steady.mean((1, 2, 3))
    assert (gains - torch.linspace(*DRIFT[light], 17)).abs().max() < 0.03, "but for what is brighter than white"


def test_grades_tint_and_change_the_colourfulness():
    means = {grade: render_scene(replace(PLAIN, grade=grade), 4).float().mean((0, 2, 3))
             for grade in ("neutral", "warm", "cold", "faded", "vivid")}
    assert means["warm"][0] > means["neutral"][0] > means["cold"][0]
    assert means["warm"][2] < means["neutral"][2] < means["cold"][2]
    assert means["faded"].std() < means["neutral"].std() < means["vivid"].std()


def test_lines_run_from_below_to_where_the_subject_is_in_the_middle_of_the_scene():
    scene = with_subject(x=0.1, y=0.1, radius=0.0)
    changed = (render_scene(replace(scene, lines=True)) != render_scene(scene)).any(1)[0]
    assert not changed[: int((0.5 + 0.1) * 64)].any(), "none above it"
    for row in (48, 56, 63):  # as far to its left as to its right
        columns = changed[row].nonzero()[:, 0].float() + 0.5
        assert (columns.min() + columns.max()) / 2 == pytest.approx((0.5 + 0.1) * 64, abs=1.5)
        assert columns.max() - columns.min() > 8


def test_batches_of_mixed_levels_and_odd_sizes_and_clocks_are_their_clips_bit_for_bit():
    scenes = [make_scene(seed, level=("full", "simple")[seed % 2]) for seed in range(6)]
    times = np.random.default_rng(0).uniform(0, 2, (6, 5))
    together = render(pack(scenes, times), 33, 47)
    alone = [render(pack([scene], clock), 33, 47)[0] for scene, clock in zip(scenes, times, strict=True)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("size", [(40, 72), (72, 40)])
def test_a_wider_or_higher_picture_holds_the_square_one_in_its_middle(size):
    top, left = (size[0] - 40) // 2, (size[1] - 40) // 2
    for scene in map(make_scene, range(5)):
        middle = render_scene(scene, 4, 2, size)[..., top:top + 40, left:left + 40]
        assert torch.equal(middle, render_scene(scene, 4, 2, 40))


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"fps": 0}, {"fps": -8}, {"size": 0}, {"size": (0, 4)}])
def test_empty_clips_are_refused(wrong):
    with pytest.raises(ValueError, match="expected positive"):
        render_scene(PLAIN, **wrong)
