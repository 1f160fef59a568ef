import pytest
import torch

from evalkit.data.corruptions import corrupt
from evalkit.metrics.base import make_metric
from rewards import spatial_artifacts, temporal_artifacts
from rewards.artifacts import SCALES, Artifacts
from rewards.frames import evenly_spaced


def scene(num_frames=12, size=96, seed=0):
    """(T, 3, H, W) uint8: a smooth random picture with texture of 1/f amplitude that glides by 0.8 pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(3, size, 2 * size, generator=generator))
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(2 * size)
    radius = torch.hypot(fy, fx)
    envelope = torch.exp(-3 * radius**2) / radius.clamp_min(1 / size)
    shifted = [torch.fft.irfft2(spectrum * envelope * torch.exp(-2j * torch.pi * fx * 0.8 * t), s=(size, 2 * size))
               for t in range(num_frames)]
    frames = torch.stack(shifted)[..., :size]
    return ((frames / frames.std() * 0.15 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def unit(frames):
    return frames[None].float() / 255


def components(frames):
    return Artifacts().components(unit(frames))


@pytest.mark.parametrize(("defect", "name"), [
    ("blocks", "blockiness"), ("banding", "banding"), ("blur", "blur"), ("noise", "noise"),
    ("temporal_blur", "ghosting"), ("crossfade", "ghosting"), ("dropped_frames", "duplicate_frames"),
    ("freeze", "duplicate_frames"), ("luma_flicker", "flicker")])
def test_each_detector_rises_with_its_defect(defect, name):
    clean = scene(24)
    levels = [components(corrupt(clean, defect, severity))[name].item() for severity in (0, 1, 3)]
    assert levels[0] < levels[1] < levels[2] < 1


def test_an_object_that_vanishes_raises_vanishing_and_one_that_moves_does_not():
    still = scene(1, 128).expand(16, 3, 128, 128).clone()
    moving, vanishing = still.clone(), still.clone()
    for t in range(16):
        moving[t, :, 40:64, 16 + 4 * t:40 + 4 * t] = 160
    vanishing[:8, :, 40:64, 40:64] = 160
    assert components(vanishing)["vanishing"] > 3 * components(moving)["vanishing"]


@pytest.mark.parametrize(("period", "phase"), [(8, 0), (8, 3), (10, 7), (16, 5)])
def test_blockiness_finds_any_period_and_phase(period, phase):
    texture = torch.rand(1, 4, 160, 200, generator=torch.Generator().manual_seed(0)) * 0.02
    column = (torch.arange(200) - phase).div(period, rounding_mode="floor") % 2
    row = (torch.arange(160) - phase).div(period, rounding_mode="floor") % 2
    blocky = texture + 0.05 * (column + row[:, None])
    assert spatial_artifacts.blockiness(blocky) > 5 * spatial_artifacts.blockiness(texture)


def test_noise_is_the_standard_deviation_of_white_noise():
    generator = torch.Generator().manual_seed(0)
    luma = 0.5 + 0.03 * torch.randn(1, 2, 256, 256, generator=generator)
    assert spatial_artifacts.noise(luma) == pytest.approx(torch.full((1, 2), 0.03), rel=0.05)


def test_blur_is_the_variance_of_the_gaussian_that_blurred_a_one_over_f_picture():
    size, variance = 256, 4.0
    spectrum = torch.fft.rfft2(torch.randn(1, size, size, generator=torch.Generator().manual_seed(0)))
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    radius = torch.hypot(fy, fx).clamp_min(1 / size)
    blurred = spectrum / radius * torch.exp(-0.5 * variance * (2 * torch.pi * radius) ** 2)
    picture = torch.fft.irfft2(blurred, s=(size, size))
    assert spatial_artifacts.blur((picture / picture.std() * 0.1 + 0.5)[None]).item() == pytest.approx(4.0, rel=0.25)


def test_half_of_all_frames_repeated_is_a_level_of_half():
    generator = torch.Generator().manual_seed(0)
    luma = torch.rand(1, 11, 16, 16, generator=generator).repeat_interleave(2, dim=1)[:, :21]
    assert temporal_artifacts.duplicate_frames(luma, torch.ones(1, 20)).item() == pytest.approx(0.5, abs=0.02)


def test_a_cut_is_no_flicker_and_no_vanishing_object():
    luma = torch.cat([torch.full((1, 6, 16, 16), 0.2), torch.full((1, 6, 16, 16), 0.9)], dim=1)
    whole = torch.ones(1, 11)
    whole[:, 5] = 0
    assert temporal_artifacts.flicker(luma, whole) < 1e-6 < temporal_artifacts.flicker(luma, torch.ones(1, 11))
    assert temporal_artifacts.vanishing(luma, whole) < 1e-3


def test_artifacts_are_blind_to_mirroring():
    clip = corrupt(scene(), "noise", 2)
    reward = Artifacts()
    assert reward(unit(clip)).item() == pytest.approx(reward(unit(clip.flip(-1))).item(), abs=0.01)


def test_metric_is_minus_the_reward_exactly():
    from evalkit.clips import ClipBatch

    frames = unit(scene())
    metric = make_metric("artifacts")
    measured = metric.measure(ClipBatch(frames), None)
    assert torch.equal(measured.value, -Artifacts()(frames))
    assert metric.higher_is_better is False
    assert metric.range == (0.0, 1.0)
    assert set(measured.components) == set(SCALES)


def test_gradient_is_finite_and_reaches_every_frame():
    frames = unit(corrupt(scene(), "noise", 1)).requires_grad_()
    Artifacts()(frames).sum().backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("num_frames", [2, 3, 5])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_clips_have_finite_scores_and_gradients(num_frames, value):
    frames = torch.full((1, num_frames, 3, 24, 40), value, requires_grad=True)
    reward = Artifacts()(frames)
    reward.sum().backward()
    assert reward.isfinite().all()
    assert -1 <= reward.item() <= 0
    assert frames.grad.isfinite().all()


def test_a_clip_scores_the_same_alone_and_in_a_batch():
    clips = torch.cat([unit(corrupt(scene(seed=k), "noise", 1 + k)) for k in range(5)])
    reward = Artifacts()
    together = reward(clips)
    alone = torch.cat([reward(clip[None]) for clip in clips])
    assert together == pytest.approx(alone, abs=1e-6)


def test_bf16_frames_score_nearly_as_float32_ones():
    frames = unit(corrupt(scene(), "noise", 3))
    reward = Artifacts()
    assert reward(frames.bfloat16()).dtype == torch.float32
    assert reward(frames.bfloat16()).item() == pytest.approx(reward(frames).item(), abs=0.05)


def test_evenly_spaced_keeps_the_first_and_the_last_frame():
    assert evenly_spaced(torch.arange(30)[None, :], 4).tolist() == [[0, 10, 19, 29]]
    assert evenly_spaced(torch.arange(3)[None, :], 4).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("defect", ["blur", "noise", "blocks", "banding", "dropped_frames"])
def test_real_clips_are_ruined_step_by_step(assets, defect):
    from evalkit.clips import ClipSpec
    from evalkit.data.video import read_clips

    spec = ClipSpec(size=None, crop=160, max_frames=24)
    paths = [assets / "data/ucf101/Surfing/v_Surfing_g02_c01.avi",
             assets / "data/ucf101/BasketballDunk/v_BasketballDunk_g10_c01.avi",
             assets / "data/webvid/1053841541.mp4"]
    clips = [read_clips(path, [spec])[spec][0].frames for path in paths]
    reward = Artifacts()
    scores = torch.tensor([[reward(unit(corrupt(clip, defect, severity))).item() for clip in clips]
                           for severity in (0, 2, 4)])
    assert (scores.mean(1).diff() < 0).all()
    assert (scores[2] < scores[0]).all()
