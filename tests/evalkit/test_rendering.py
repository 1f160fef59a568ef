import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from evalkit.data.rendering import pack, render
from evalkit.data.scene import COLOURS, make_scene
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
