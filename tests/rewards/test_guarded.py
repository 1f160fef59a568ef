import pytest
import torch

from evalkit.data.corruptions import corrupt
from rewards import load_reward
from rewards.guarded import PRICE, SUSPECT, Guarded
from rewards.hack_clips import world_clips


@pytest.fixture(scope="module")
def reward():
    return Guarded().eval()


@pytest.fixture(scope="module")
def clips():
    return torch.stack([clip.frames for clip in world_clips(6)])


def pixels(clips, defect=None):
    damaged = clips if defect is None else torch.stack([corrupt(clip, defect, 3, seed=1, fps=8.0) for clip in clips])
    return damaged.float() / 255


def test_guarded_is_farm_less_its_guard_and_shows_the_parts_of_both(reward, clips):
    frames = pixels(clips)
    found = reward.measure_any(frames, None, 8.0)
    farm, detector = load_reward("farm"), load_reward("artifact_detector")
    assert torch.allclose(found.components["farm"], farm(frames, fps=8.0))
    assert torch.allclose(found.value, found.components["farm"] - found.components["guard"])
    assert torch.allclose(found.components["artifact_detector.object"], detector.components(frames)["object"])
    assert "farm.coherence" in found.components


def test_a_clean_clip_pays_next_to_nothing_and_a_spoilt_one_pays(reward, clips):
    clean, spoilt = (reward.components(pixels(clips, defect), fps=8.0)["guard"] for defect in (None, "grid"))
    assert clean.median() < 0.02
    assert spoilt.min() > 0.5 * PRICE * (1 - SUSPECT)


def test_a_grid_pleases_farm_and_not_guarded(reward, clips):
    farm = load_reward("farm")
    with torch.no_grad():
        clean, grid = pixels(clips), pixels(clips, "grid")
        assert (farm(grid, fps=8.0) > farm(clean, fps=8.0)).float().mean() > 0.5
        assert (reward(grid, fps=8.0) < reward(clean, fps=8.0)).all()


def test_gradient_is_finite_at_every_frame_of_a_suspect_clip(reward, clips):
    frames = pixels(clips[:1], "noise").requires_grad_()
    reward(frames, fps=8.0).sum().backward()
    assert frames.grad.isfinite().all() and (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()
