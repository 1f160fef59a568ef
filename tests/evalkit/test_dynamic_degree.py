from __future__ import annotations

import pytest
import torch

from evalkit.clips import ClipBatch
from evalkit.data.corruptions import corrupt
from evalkit.data.synthetic import render_clip
from evalkit.data.video import read_clips
from evalkit.features.base import extract, make_extractor
from evalkit.metrics.base import make_metric

METRIC = make_metric("dynamic_degree")


def measure(source, fps: float | None = None):
    clip = read_clips(source, [METRIC.spec], fps=fps)[METRIC.spec][0]
    frames = torch.as_tensor(clip.frames).float()[None] / 255
    features = {"motion": extract(make_extractor("motion"), frames)}
    return METRIC.measure(ClipBatch(frames, fps=torch.tensor([METRIC.spec.fps]), features=features), None)


def score(frames: torch.Tensor, fps: float) -> float:
    if frames.is_floating_point():
        frames = (frames * 255).round().byte()
    return measure(frames.numpy(), fps).value.item()


def sliding(speed: float, fps: float, seconds: float = 2) -> torch.Tensor:
    """A texture that slides by `speed` short sides per second."""
    noise = torch.rand(1, 3, 8, 40, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, size=(96, 480), mode="bicubic", align_corners=False)[0].clamp(0, 1)
    starts = [round(96 * speed * t / fps) for t in range(int(seconds * fps))]
    return torch.stack([wide[:, :, x:x + 128] for x in starts])


@pytest.mark.parametrize("speed", [0.1, 0.4, 1.0])
def test_a_pan_of_known_speed_is_read_back(speed: float) -> None:
    assert score(sliding(speed, 24), 24) == pytest.approx(100 * speed, rel=0.1)


@pytest.mark.parametrize("seed", [0, 4])
def test_the_same_scene_scores_the_same_at_any_fps(seed: int) -> None:
    scores = [score(render_clip(seed, int(2 * fps), fps, 64, level="simple").frames, fps)
              for fps in (8, 16, 24, 30, 60)]
    assert max(scores) - min(scores) < 0.08 * max(scores)


def test_a_still_scores_zero() -> None:
    assert score(sliding(0.4, 16)[:1].expand(16, 3, 96, 128), 16) == pytest.approx(0, abs=1e-3)


def test_flicker_and_noise_are_not_motion() -> None:
    still = (sliding(0.4, 16)[:1].expand(24, 3, 96, 128) * 255).round().byte()
    moving = score(sliding(0.4, 16), 16)
    for name in ("luma_flicker", "noise"):
        assert score(corrupt(still, name, 3), 16) < 0.15 * moving, name


def test_freezing_lowers_the_score_step_by_step_on_real_clips(assets) -> None:
    data = assets / "data"
    paths = sorted(data.glob("ucf101/*/*.avi"))[::20] + sorted(data.glob("webvid/**/*.mp4"))[:1]
    spec = type(METRIC.spec)(size=96, max_frames=72)
    for path in paths:
        clip = read_clips(path, [spec])[spec][0]
        frames = torch.as_tensor(clip.frames)
        ladder = [score(corrupt(frames, "freeze", severity), float(clip.fps)) for severity in range(6)]
        assert ladder == sorted(ladder, reverse=True) and len(set(ladder)) == 6, path.name


def test_cuts_do_not_count_as_motion() -> None:
    slow = sliding(0.05, 8, seconds=2)
    joined = torch.cat([slow, slow.flip(-1, -2) ** 2])
    assert score(joined, 8) == pytest.approx(score(slow, 8), rel=0.2)


def test_refuses_a_batch_without_fps() -> None:
    with pytest.raises(ValueError, match="dynamic_degree: expected fps"):
        METRIC.measure(ClipBatch(torch.zeros(1, 2, 3, 8, 8)), None)
