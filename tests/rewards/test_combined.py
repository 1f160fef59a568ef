"""Weighted sums of rewards: one scale for all parts, and a reward like any other."""
import json

import pytest
import torch

from evalkit.features.base import Extractor, make_extractor
from evalkit.features.weights import MissingWeights
from evalkit.metrics.base import Measurement
from rewards import available_rewards, load_reward
from rewards.base import Reward
from rewards.combined import FILE, LAST_SEED, Combined, Scale, measure_scale, reference_clips, setup_of, shipped_scale


class Bright(Reward):
    """A user's own reward: mean brightness."""

    name, min_frames = "bright", 1

    def measure(self, frames, features, prompts, fps):
        return Measurement(frames.mean((1, 2, 3, 4)), {"first": frames[:, 0].mean((1, 2, 3))})


@pytest.fixture(scope="module")
def seen():
    """Frames (3, 16, 3, 96, 96), prompts and fps of three reference clips."""
    clips = list(reference_clips(3))
    return torch.stack([clip[0] for clip in clips]).float() / 255, [clip[1] for clip in clips], clips[0][2]


@pytest.fixture(scope="module")
def three():
    return 0.5 * load_reward("farm") + 0.3 * load_reward("clip_alignment_mini") + load_reward("cinematic_composition")


def test_sum_is_of_standardised_rewards_times_their_weights(three, seen):
    frames, prompts, fps = seen
    wanted = 0
    for name, weight in (("farm", 0.5), ("clip_alignment_mini", 0.3), ("cinematic_composition", 1.0)):
        scale = json.loads(FILE.read_text())["rewards"][name]
        wanted = wanted + weight * (load_reward(name)(frames, prompts, fps) - scale["mean"]) / scale["std"]
    assert torch.allclose(three(frames, prompts, fps), wanted, atol=1e-4)


def test_raw_sum_is_of_the_rewards_as_they_are(three, seen):
    frames, prompts, fps = seen
    wanted = (0.5 * load_reward("farm")(frames, fps=fps) + 0.3 * load_reward("clip_alignment_mini")(frames, prompts)
              + load_reward("cinematic_composition")(frames, fps=fps))
    assert torch.allclose(three.raw()(frames, prompts, fps), wanted, atol=1e-5)


def test_components_add_up_and_show_the_parts_of_the_parts(three, seen):
    frames, prompts, fps = seen
    found = three.components(frames, prompts, fps)
    total = 0.5 * found["farm"] + 0.3 * found["clip_alignment_mini"] + found["cinematic_composition"]
    assert torch.allclose(three(frames, prompts, fps), total, atol=1e-5)
    alone = load_reward("farm").components(frames, fps=fps)
    assert torch.allclose(found["farm.coherence"], alone["coherence"], atol=1e-5)
    assert {"farm.aesthetic", "cinematic_composition.thirds"} <= set(found)


def test_sum_needs_what_any_part_needs(three, seen):
    assert isinstance(three, Reward)
    assert (three.needs_prompts, three.needs_fps, three.min_frames) == (True, True, 8)
    frames, prompts, fps = seen
    with pytest.raises(ValueError, match="expected fps"):
        three(frames, prompts)
    with pytest.raises(ValueError, match="expected 3 prompts"):
        three(frames, None, fps)
    with pytest.raises(ValueError, match="at least 8 frames"):
        three(frames[:, :5], prompts, fps)


def test_algebra_of_rewards_is_that_of_their_numbers(seen):
    frames, flicker = seen[0], load_reward("temporal_flicker")
    bright = Bright().standardised(0.4, 0.2)
    both = -(2 * (0.5 * flicker + bright * 3)) + flicker
    plain = (1 * flicker)(frames)
    assert torch.allclose(both(frames), -6 * bright(frames) + 0 * plain, atol=1e-5)
    assert torch.allclose((-flicker)(frames), -plain)
    assert "temporal_flicker_2" in both.components(frames)


def test_list_of_unequal_clips_is_scored_one_by_one(seen):
    both = load_reward("farm") + load_reward("temporal_flicker")
    clips = [seen[0][0], seen[0][1][:9, :, :64]]
    together = both(clips, fps=8)
    assert together.shape == (2,)
    assert torch.allclose(together, torch.cat([both(clip[None], fps=8) for clip in clips]), atol=1e-5)


def test_gradient_reaches_every_frame_in_float32_and_bfloat16(three, seen):
    frames, prompts, fps = seen
    for dtype in (torch.float32, torch.bfloat16):
        pixels = frames[:1].to(dtype).requires_grad_()
        value = three(pixels, prompts[:1], fps)
        value.sum().backward()
        assert value.isfinite().all() and pixels.grad.isfinite().all()
        assert (pixels.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_extractor_that_two_parts_share_runs_once(seen):
    runs = []
    both = load_reward("farm") + load_reward("cinematic_composition")
    handle = make_extractor("motion").register_forward_hook(lambda *_: runs.append(1))
    try:
        both(seen[0], fps=8)
    finally:
        handle.remove()
    assert len(runs) == 1
    assert all(isinstance(module, Extractor) for module in both.extractors.values())


def test_reward_without_a_shipped_scale_is_refused_with_how_to_get_one(seen):
    mixed = 0.5 * Bright() + load_reward("temporal_flicker")
    with pytest.raises(ValueError, match=r"bright: no mean.*standardised\(mean, std\).*rewards.combined"):
        mixed(seen[0])
    assert mixed.raw()(seen[0]).shape == (3,)
    assert (0.5 * Bright().standardised(0.4, 0.2) + load_reward("temporal_flicker"))(seen[0]).isfinite().all()


def test_scale_of_other_options_of_a_reward_is_not_used(seen):
    with pytest.raises(ValueError, match="other options"):
        (1 * load_reward("farm", kappa=0.9))(seen[0], fps=8)


def test_shipped_scales_are_of_the_rewards_as_they_are_now():
    held = json.loads(FILE.read_text())
    assert held["command"].startswith("python -m rewards.combined --n ")
    for name in available_rewards():
        try:
            reward = load_reward(name)
        except MissingWeights:
            continue
        assert name in held["rewards"], f"run `{held['command']}`"
        assert held["rewards"][name]["setup"] == setup_of(reward), f"{name} has changed: run `{held['command']}`"
        assert held["rewards"][name]["n"] >= 100 and shipped_scale(reward).std > 0


def test_scale_of_a_users_reward_is_measured_on_training_clips_alone():
    found = measure_scale(Bright(), n=4, seed=8)
    values = torch.stack([clip[0].double().mean() / 255 for clip in reference_clips(4, 8)])
    assert found.mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert found.std == pytest.approx(values.std().item(), abs=1e-6)
    with pytest.raises(ValueError, match="seeds from 0"):
        list(reference_clips(4, LAST_SEED - 2))


@pytest.mark.parametrize("mean, std", [(float("nan"), 1), (0, 0), (0, -1), (0, float("inf"))])
def test_scale_that_is_none_is_refused(mean, std):
    with pytest.raises(ValueError, match="standard deviation"):
        Scale(mean, std)


def test_what_is_no_number_or_reward_is_refused():
    reward = Bright()
    for wrong in ("2", None, torch.ones(2), True):
        with pytest.raises(TypeError, match="multiplied by a number"):
            wrong * reward if not isinstance(wrong, torch.Tensor) else reward * wrong
    with pytest.raises(ValueError, match="finite weight"):
        float("nan") * reward
    with pytest.raises(TypeError, match="added to a reward"):
        reward + 1
    assert isinstance(2 * reward, Combined)
