from __future__ import annotations

import pytest
import torch

from evalkit.clips import ClipBatch
from evalkit.data.corruptions import corrupt
from evalkit.data.synthetic import render_clip
from evalkit.data.video import read_video
from evalkit.metrics.base import make_metric
from rewards.flicker import TemporalFlicker

RATES = (8, 12, 16, 24, 30, 60)
STEADY = TemporalFlicker()


def scene(seed: int, fps: float = 25, frames: int = 32) -> torch.Tensor:
    return as_float(render_clip(seed, frames, fps, 48).frames)


def as_float(frames: torch.Tensor) -> torch.Tensor:
    return frames if frames.is_floating_point() else frames.float() / 255


def corrupted(frames: torch.Tensor, name: str, severity: int) -> torch.Tensor:
    return corrupt((frames * 255).round().byte(), name, severity).float() / 255


def gains(frames: int, deviation: float) -> torch.Tensor:
    noise = torch.randn(frames, generator=torch.Generator().manual_seed(0))
    return (1 + deviation * noise).view(-1, 1, 1, 1)


def score(frames: torch.Tensor) -> float:
    with torch.no_grad():
        return STEADY(frames[None]).item()


def vbench(frames: torch.Tensor) -> float:
    return 1 - frames.diff(dim=0).abs().mean().item()


@pytest.mark.parametrize("seed", range(4))
def test_flicker_is_invariant_to_fps(seed: int) -> None:
    clips = {fps: scene(seed, fps, int(2 * fps)) for fps in RATES}
    clean = [score(clip) for clip in clips.values()]
    flickering = score((clips[24] * gains(48, 0.05)).clamp(0, 1))
    spread = max(clean) - min(clean)
    assert spread < 0.02 * (min(clean) - flickering)
    published = [vbench(clip) for clip in clips.values()]
    published_gap = vbench(clips[24]) - vbench((clips[24] * gains(48, 0.05)).clamp(0, 1))
    assert max(published) - min(published) > 0.05 * published_gap  # the published formula is not


def test_amplitude_of_a_known_gain_is_read_back() -> None:
    frames = torch.full((1, 64, 3, 32, 32), 0.5) * gains(64, 0.05)[None]
    found = STEADY.components(frames)
    expected = 0.05 * (0.5 / (0.5 + 0.04))
    assert found["luma"].item() == pytest.approx(expected, rel=0.15)
    assert found["colour"].item() == pytest.approx(0, abs=1e-5)
    assert found["local"].item() == pytest.approx(0, abs=1e-5)


def test_a_steady_exposure_ramp_is_no_flicker() -> None:
    ramp = torch.linspace(0, -0.8, 32).exp().view(1, -1, 1, 1, 1)
    assert STEADY(scene(1)[:1].expand(32, 3, 48, 48)[None] * ramp).item() > 0.99


def test_colour_flicker_is_told_from_luma_flicker() -> None:
    balance = torch.stack([gains(32, 0.1), 1 / gains(32, 0.1), torch.ones(32, 1, 1, 1)], dim=1)[..., 0]
    frames = (scene(2)[:1] * 0.8 * balance).clamp(0, 1)
    found = STEADY.components(frames[None])
    assert found["colour"] > 1.5 * found["luma"]


def test_a_flickering_region_is_seen_and_is_local() -> None:
    frames = scene(3)
    region = frames.clone()
    region[:, :, 6:30, 6:30] *= 0.8 * gains(32, 0.3)
    found = STEADY.components(region.clamp(0, 1)[None])
    assert score(region.clamp(0, 1)) < score(frames) - 0.03
    assert found["local"] > 2 * found["luma"]


def test_a_fast_pan_is_steady_and_flicker_on_top_is_seen() -> None:
    wide = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 60, generator=torch.Generator().manual_seed(1)),
                                           size=(48, 480), mode="bicubic").clamp(0, 1)[0]
    pan = torch.stack([wide[:, :, 6 * t:6 * t + 64] for t in range(32)])  # 12 % of the short side per frame
    assert score(pan) > 0.97
    assert score((pan * gains(32, 0.05)).clamp(0, 1)) < score(pan) - 0.2


def test_cuts_are_left_out_and_reported() -> None:
    parts = [scene(seed, frames=16) for seed in (1, 2, 5)]
    found = STEADY.measure(torch.cat(parts)[None], {}, None, None)
    assert found.curves["cut"][0].nonzero().flatten().tolist() == [16, 32]
    assert found.components["cuts"].item() == 2
    assert found.value.item() > min(score(part) for part in parts) - 1e-3


@pytest.mark.parametrize("name", ["luma_flicker", "colour_flicker"])
def test_answers_for_flicker_on_synthetic_clips(name: str) -> None:
    ladder = [score(corrupted(scene(7), name, severity)) for severity in range(6)]
    assert ladder == sorted(ladder, reverse=True) and len(set(ladder)) == 6


@pytest.mark.parametrize("name", ["luma_flicker", "colour_flicker"])
def test_answers_for_flicker_on_real_clips(assets, name: str) -> None:
    data = assets / "data"
    paths = sorted(data.glob("ucf101/*/*.avi"))[::20] + sorted(data.glob("webvid/**/*.mp4"))[:3]
    for path in paths:
        frames = torch.as_tensor(read_video(path, TemporalFlicker.spec).frames)[:48]
        ladder = [score(as_float(corrupt(frames, name, severity))) for severity in range(6)]
        assert ladder[0] > 0.9, f"{path.name}: flickers without being told to"
        assert ladder == sorted(ladder, reverse=True), path.name


def test_every_frame_gets_a_finite_gradient() -> None:
    frames = (scene(4, frames=12) * gains(12, 0.05)).clamp(0, 1)[None].requires_grad_()
    STEADY(frames).sum().backward()
    size = frames.grad.abs().amax((0, 2, 3, 4))
    assert frames.grad.isfinite().all() and (size > 0).all()


def test_gradient_ascent_removes_flicker() -> None:
    start = (scene(4, frames=12) * gains(12, 0.1)).clamp(0, 1)
    gain = torch.zeros(12, requires_grad=True)
    for _ in range(20):
        reward = STEADY((start * gain.exp().view(-1, 1, 1, 1)).clamp(0, 1)[None]).sum()
        (slope,) = torch.autograd.grad(reward, gain)
        gain = (gain + 0.02 * slope / slope.abs().max()).detach().requires_grad_()
    assert score((start * gain.detach().exp().view(-1, 1, 1, 1)).clamp(0, 1)) > score(start) + 0.2


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_constant_clip_is_steady_with_finite_gradient(level: float) -> None:
    frames = torch.full((1, 3, 3, 20, 20), level, requires_grad=True)
    value = STEADY(frames)
    value.sum().backward()
    assert value.item() == pytest.approx(1) and frames.grad.isfinite().all()


def test_a_clip_scores_the_same_in_any_batch() -> None:
    clips = torch.stack([corrupted(scene(seed, frames=10), "luma_flicker", 2) for seed in range(5)])
    together, alone = STEADY(clips), torch.cat([STEADY(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_bf16_frames_are_accepted_and_short_clips_refused() -> None:
    frames = scene(6, frames=8)[None]
    assert STEADY(frames.bfloat16()).item() == pytest.approx(STEADY(frames).item(), abs=0.02)
    with pytest.raises(ValueError, match="at least 3 frames, got 2"):
        STEADY(frames[:, :2])


def test_the_metric_is_the_reward() -> None:
    frames = scene(0)[None]
    metric = make_metric("temporal_flicker")
    assert metric.higher_is_better
    assert metric.measure(ClipBatch(frames), None).value.item() == pytest.approx(score(frames[0]))
