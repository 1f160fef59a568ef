from itertools import pairwise

import numpy as np
import pytest
import torch

from evalkit.data.corruptions import CORRUPTIONS, SEVERITIES, available_corruptions, corrupt, register_corruption
from evalkit.data.spatial_defects import gaussian_blur, luma
from evalkit.data.synthetic import render_clip
from evalkit.data.temporal_defects import translate

TEMPORAL = [name for name in CORRUPTIONS if CORRUPTIONS[name].kind == "temporal"]
PICTURE = [name for name in CORRUPTIONS if name not in TEMPORAL]
STEADY_ERROR = [*PICTURE, "luma_flicker", "colour_flicker", "camera_jitter", "vanish", "ghosting", "dropped_frames",
                "freeze", "slow_motion", "crossfade", "temporal_blur", "shuffle"]
REORDERING = ["dropped_frames", "shuffle", "freeze", "static", "repeat", "reverse"]


@pytest.fixture(scope="module")
def clip():
    return render_clip(4, num_frames=48, fps=25, size=(66, 90)).frames


def error(a, b):
    return (a.float() - b.float()).abs().mean().item()


def source_index(frames, result):
    """Which input frame each output frame is; -1 where it is none."""
    same = (result[:, None] == frames[None]).flatten(2).all(-1)
    return torch.where(same.any(1), same.int().argmax(1), -1).tolist()


@pytest.mark.parametrize("name", available_corruptions())
def test_severity_zero_is_the_input_and_others_change_it_keeping_shape_and_dtype(clip, name):
    before = clip.clone()
    assert torch.equal(corrupt(clip, name, 0), clip)
    for severity in SEVERITIES:
        result = corrupt(clip, name, severity)
        assert result.shape == clip.shape and result.dtype == torch.uint8
        assert error(result, clip) > 0
    assert torch.equal(clip, before), "the input was written to"


@pytest.mark.parametrize("name", STEADY_ERROR)
def test_the_distance_to_the_original_grows_with_the_severity(clip, name):
    errors = [error(corrupt(clip, name, severity), clip) for severity in (0, *SEVERITIES)]
    assert all(low < high for low, high in pairwise(errors)), errors


@pytest.mark.parametrize("name", available_corruptions())
def test_equal_seeds_give_equal_pixels(clip, name):
    assert torch.equal(corrupt(clip, name, 3, seed=7), corrupt(clip, name, 3, seed=7))


@pytest.mark.parametrize("name", ["noise", "luma_flicker", "colour_flicker", "dropped_frames", "shuffle", "reverse",
                                  "camera_jitter", "caption_overlay"])
def test_other_seeds_give_other_pixels(clip, name):
    assert not torch.equal(corrupt(clip, name, 3, seed=7), corrupt(clip, name, 3, seed=8))


@pytest.mark.parametrize("name", available_corruptions())
@pytest.mark.parametrize("shape", [(2, 3, 17, 23), (3, 3, 1, 1), (5, 3, 7, 130)])
def test_odd_and_tiny_clips_work(name, shape):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    for severity in SEVERITIES:
        assert corrupt(frames, name, severity).shape == shape


@pytest.mark.parametrize("name", PICTURE)
def test_a_single_picture_can_be_corrupted_in_space(clip, name):
    assert corrupt(clip[:1], name, 2).shape == clip[:1].shape


@pytest.mark.parametrize("name", TEMPORAL)
def test_a_single_picture_has_no_temporal_defect(clip, name):
    with pytest.raises(ValueError, match="at least 2 frames"):
        corrupt(clip[:1], name, 2)


@pytest.mark.parametrize(("frames", "name", "severity", "message"), [
    (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "blurr", 1, "unknown corruption 'blurr'; there are: banding, "),
    (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "blur", 6, "expected 0"),
    (torch.zeros(2, 3, 4, 4), "blur", 1, "expected uint8"),
    (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), "blur", 1, "expected uint8"),
    (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "blur", 1, "expected uint8"),
])
def test_wrong_arguments_are_named(frames, name, severity, message):
    with pytest.raises(ValueError, match=message):
        corrupt(frames, name, severity)


def test_frames_dropped_at_one_severity_are_dropped_at_the_next(clip):
    dropped = []
    for severity in SEVERITIES:
        index = source_index(clip, corrupt(clip, "dropped_frames", severity))
        assert all(i <= t for t, i in enumerate(index)) and index == sorted(index)
        dropped.append({t for t, i in enumerate(index) if i != t})
    assert all(low < high for low, high in pairwise(dropped))


@pytest.mark.parametrize("name", REORDERING)
def test_reordering_invents_no_frame(clip, name):
    for severity in SEVERITIES:
        assert -1 not in source_index(clip, corrupt(clip, name, severity))


def test_shuffle_keeps_every_frame_once_and_moves_them_further_with_the_severity(clip):
    reach = []
    for severity in SEVERITIES:
        index = source_index(clip, corrupt(clip, "shuffle", severity))
        assert sorted(index) == list(range(len(clip)))
        reach.append(max(abs(t - i) for t, i in enumerate(index)))
    assert reach == sorted(reach) and reach[0] <= 2 and reach[-1] > 20


def test_shuffle_changes_even_two_frames():
    frames = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone()
    assert all(source_index(frames, corrupt(frames, "shuffle", 1, seed=seed)) == [1, 0] for seed in range(5))


def test_static_at_severity_five_is_a_still(clip):
    assert source_index(clip, corrupt(clip, "static", 5)) == [0] * len(clip)


def test_reverse_at_severity_five_runs_each_fifth_backwards_in_its_place(clip):
    assert torch.equal(corrupt(clip, "reverse", 5), torch.cat([part.flip(0) for part in clip.tensor_split(5)]))


@pytest.mark.parametrize("seed", range(4))
def test_reverse_turns_as_many_fifths_as_its_severity_and_keeps_those_of_the_one_below(clip, seed):
    fifths, turned = clip.tensor_split(5), [set()]
    for severity in SEVERITIES:
        parts = corrupt(clip, "reverse", severity, seed=seed).tensor_split(5)
        assert all(torch.equal(part, fifth) or torch.equal(part, fifth.flip(0))
                   for part, fifth in zip(parts, fifths, strict=True))
        turned.append({k for k in range(5) if not torch.equal(parts[k], fifths[k])})
        assert len(turned[-1]) == severity and turned[-2] < turned[-1]


def test_flickers_have_the_stated_strength_on_grey():
    frames = torch.full((400, 3, 2, 2), 120, dtype=torch.uint8)
    gains = corrupt(frames, "luma_flicker", 2)[:, 0, 0, 0].double() / 120
    assert gains.std().item() == pytest.approx(0.05, rel=0.03) and gains.mean().item() == pytest.approx(1, abs=0.001)
    coloured = corrupt(frames, "colour_flicker", 3)
    assert luma(coloured.double()).sub(120).abs().max() < 0.51, "grey keeps its luma to rounding"
    assert coloured.double().std(0).min() > 5


def test_blur_spreads_a_point_as_a_gaussian_and_keeps_its_sum():
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1
    spread = gaussian_blur(point, 2.0)[0, 0]
    offsets = (torch.arange(41) - 20.0) ** 2
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * offsets).sum().item() == pytest.approx(4, rel=0.03)


def test_translation_by_whole_pixels_is_a_roll_and_by_fractions_is_exact_on_parabolas():
    frames = torch.rand(2, 3, 8, 12)
    moved = translate(frames, torch.tensor([2.0, -3.0]), 3)
    assert torch.allclose(moved[0, ..., :-2], frames[0, ..., 2:]) and torch.allclose(moved[1, ..., 3:],
                                                                                       frames[1, ..., :-3])
    x = torch.arange(12.0)
    parabola = (x**2).expand(1, 1, 1, 12)
    assert torch.allclose(translate(parabola, torch.tensor([0.3]), 3)[0, 0, 0, 2:-3], (x[2:-3] + 0.3) ** 2, atol=1e-4)


def test_blocks_put_their_energy_on_a_grid_of_eight_and_keep_block_means():
    ramp = render_clip(9, num_frames=1, size=64).frames
    blocky = corrupt(ramp, "blocks", 5)
    steps = luma(blocky).diff(dim=-1).abs().mean((0, 1, 2))
    assert steps[7::8].mean() > 4 * steps[torch.arange(63) % 8 != 7].mean()
    means = [torch.nn.functional.avg_pool2d(luma(frames), 8) for frames in (ramp, blocky)]
    assert (means[0] - means[1]).abs().max() < 2


def test_durations_follow_the_frame_rate():
    clip = render_clip(0, num_frames=60, fps=60, size=32).frames
    slow, fast = (corrupt(clip, "temporal_blur", 2, fps=fps) for fps in (15, 60))
    assert error(slow, clip) < error(fast, clip)


def test_a_registered_corruption_can_be_used_and_names_are_unique(clip):
    try:
        @register_corruption("inverted", "colour")
        def inverted(frames, dial):
            """Negative."""
            return torch.lerp(frames.float(), 255 - frames.float(), dial.severity / 5)

        assert CORRUPTIONS["inverted"].summary == "Negative."
        assert torch.equal(corrupt(clip, "inverted", 5), 255 - clip)
        with pytest.raises(ValueError, match="registered already"):
            register_corruption("inverted", "colour")(inverted)
    finally:
        CORRUPTIONS.pop("inverted", None)
