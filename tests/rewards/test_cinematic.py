"""cinematic_composition as a reward: gradients, batches, cuts, and ladders of defects on real clips."""
import math

import pytest
import torch

from evalkit.metrics.base import make_metric
from rewards.cinematic import WEIGHTS, CinematicComposition, motion_scores

FPS = 25.0


@pytest.fixture(scope="module")
def reward() -> CinematicComposition:
    return CinematicComposition()


def moving_texture(num_frames: int = 24, height: int = 96, width: int = 128, step: float = 0.8) -> torch.Tensor:
    """(1, T, 3, H, W): coloured waves under a smooth pan of `step` pixels per frame."""
    y, x = torch.meshgrid(torch.arange(height) * 1.0, torch.arange(width) * 1.0, indexing="ij")
    frames = []
    for t in range(num_frames):
        u = x + step * t
        waves = [torch.sin(u / 5 + phase) * torch.sin(y / 7 + u / 31 + phase) for phase in (0.0, 0.6, 1.5)]
        frames.append(0.45 + 0.25 * torch.stack(waves))
    return torch.stack(frames)[None]


def test_weights_add_up_to_one():
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_gradient_is_finite_and_reaches_every_frame(reward):
    frames = moving_texture(num_frames=16).requires_grad_()
    reward(frames, fps=FPS).sum().backward()
    per_frame = frames.grad.abs().amax((0, 2, 3, 4))
    assert torch.isfinite(frames.grad).all()
    assert (per_frame > 0).all()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_frames", [2, 3, 9])
def test_constant_clip_has_finite_score_and_gradient(reward, level, num_frames):
    frames = torch.full((1, num_frames, 3, 48, 64), level, requires_grad=True)
    value = reward(frames, fps=FPS)
    value.sum().backward()
    assert 0 < value.item() < 1
    assert torch.isfinite(frames.grad).all()


def test_a_clip_scores_the_same_alone_and_among_others(reward):
    smooth = moving_texture(num_frames=10, height=64, width=96)
    clips = torch.cat([smooth, smooth.flip(-1), smooth * 0.4, smooth.flip(1), torch.zeros_like(smooth)])
    fps = torch.tensor([25.0, 12.0, 30.0, 8.0, 24.0])
    together = reward(clips, fps=fps)
    alone = torch.cat([reward(clip[None], fps=rate) for clip, rate in zip(clips, fps, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_bfloat16_frames_score_as_float32_ones(reward):
    frames = moving_texture(num_frames=8).bfloat16()
    torch.testing.assert_close(reward(frames, fps=FPS), reward(frames.float(), fps=FPS))


def test_missing_fps_is_refused(reward):
    with pytest.raises(ValueError, match="expected fps"):
        reward(moving_texture(num_frames=4))


def test_freezing_a_moving_clip_does_not_pay(reward):
    frames = moving_texture()
    frozen = frames[:, :1].expand_as(frames)
    parts, still = reward.components(frames, fps=FPS), reward.components(frozen, fps=FPS)
    assert still["motion_smoothness"] < 0.05 < 0.7 < parts["motion_smoothness"]
    assert reward(frozen, fps=FPS) < reward(frames, fps=FPS)


def test_a_hard_cut_is_neither_jitter_nor_a_change_of_grade(reward):
    motion = {"transform": torch.zeros(2, 30, 4), "displacement": torch.full((2, 30), 0.02),
              "cut": torch.zeros(2, 30)}
    motion["transform"][1, 15, 0], motion["displacement"][1, 15], motion["cut"][1, 15] = 0.5, 0.9, 1.0
    for score in motion_scores(motion, torch.full((2,), FPS)).values():
        assert score[0] == pytest.approx(score[1].item(), abs=1e-6)
    frames = moving_texture()
    other = frames.flip(2, 3) * torch.tensor([0.3, 1.0, 0.5])[:, None, None]
    cut_clip = torch.cat([frames[:, :12], other[:, 12:]], dim=1)
    halves = [reward.components(half, fps=FPS)["grading"].item() for half in (frames[:, :12], other[:, 12:])]
    assert reward.components(cut_clip, fps=FPS)["grading"].item() == pytest.approx(sum(halves) / 2, abs=0.05)


def test_metric_has_the_reward_s_number_and_components(reward):
    from evalkit.clips import ClipBatch
    from evalkit.features.base import extract

    frames, metric = moving_texture(num_frames=8), make_metric("cinematic_composition")
    features = {"motion": extract(metric.extractors()[0], frames)}
    found = metric.measure(ClipBatch(frames, fps=torch.tensor([FPS]), features=features), None)
    torch.testing.assert_close(found.value, reward(frames, fps=FPS))
    assert set(WEIGHTS) < set(found.components)
    value = sum(WEIGHTS[name] * found.components[name].item() for name in WEIGHTS)
    assert found.value.item() == pytest.approx(value) and math.isfinite(value)


@pytest.mark.parametrize("defect", ["camera_jitter", "desaturation"])
def test_real_clips_fall_strictly_with_severity(reward, assets, defect):
    from evalkit.data.corruptions import corrupt
    from evalkit.data.video import read_clips

    videos = sorted((assets / "data" / "ucf101").glob("*/*.avi"))[::20]
    curves = []
    for video in videos:
        (clip,) = read_clips(video, [reward.spec])[reward.spec]
        frames = clip.frames[:24]
        series = [corrupt(frames, defect, severity, fps=clip.fps) for severity in (0, 1, 3, 5)]
        with torch.no_grad():
            curves.append([reward(one[None].float() / 255, fps=clip.fps).item() for one in series])
    mean = torch.tensor(curves).mean(0)
    assert (mean.diff() < 0).all()
    assert all(curve[0] > curve[2] for curve in curves)
