from __future__ import annotations

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from evalkit.clips import ClipSpec
from evalkit.data.corruptions import corrupt
from evalkit.data.video import read_video
from evalkit.features.base import make_extractor
from evalkit.features.shots import hard_cuts

MOTION = make_extractor("motion")
SMALL = ClipSpec(size=64, max_frames=24)


def texture(seed: int = 0, height: int = 96, width: int = 128) -> torch.Tensor:
    noise = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)[0].clamp(0.05, 0.95)


def moved(image: torch.Tensor, tx: float, ty: float, log_scale: float = 0, angle: float = 0) -> torch.Tensor:
    """`image` (3, H, W) with its content carried by the similarity: an independent, analytic inverse warp."""
    height, width = image.shape[-2:]
    short = min(height, width)
    y, x = torch.meshgrid((torch.arange(height) + 0.5 - height / 2) / short,
                          (torch.arange(width) + 0.5 - width / 2) / short, indexing="ij")
    source = torch.complex(x - tx, y - ty) * cmath.exp(-complex(log_scale, angle))
    grid = torch.stack([source.real * 2 * short / width, source.imag * 2 * short / height], -1)
    return F.grid_sample(image[None], grid[None], padding_mode="reflection", align_corners=False)[0]


def run(*frames: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return MOTION(torch.stack(frames)[None])


@pytest.mark.parametrize("truth", [(0.003, -0.002, 0, 0), (0.02, 0.01, 0.01, 0.01), (0.15, 0, 0, 0),
                                   (0.1, 0.08, 0.03, -0.05), (0, 0, 0.05, 0.08)])
def test_a_known_similarity_is_read_back(truth: tuple[float, float, float, float]) -> None:
    found = run(texture(), moved(texture(), *truth))["transform"][0, 0]
    assert (found - torch.tensor(truth)).abs().max() < 0.005 + 0.03 * max(map(abs, truth))


def test_displacement_is_the_length_of_a_pan() -> None:
    for speed in (0.004, 0.03, 0.15):
        found = run(texture(1), moved(texture(1), speed * 0.8, speed * 0.6))["displacement"]
        assert found.item() == pytest.approx(speed, rel=0.12, abs=0.001)


@pytest.mark.parametrize("speed", [0.03, 0.12])
def test_a_moving_object_shows_in_displacement_and_not_in_the_transform(speed: float) -> None:
    def frame(x: float) -> torch.Tensor:
        picture, thing = texture(2), texture(3)[:, :32, :32] * 0.5
        left = round(40 + 96 * x)
        picture[:, 30:62, left:left + 32] = thing
        return picture

    found = run(frame(0), frame(speed))
    exact = (round(40 + 96 * speed) - 40) / 96
    assert found["transform"].abs().max() < 0.004
    assert found["displacement"].item() == pytest.approx(exact, rel=0.25)


def test_a_gain_is_exposure_and_neither_motion_nor_residual() -> None:
    found = run(texture() * 0.8, texture() * 0.8 * 1.1)
    assert found["exposure"][0, 0, 0].item() == pytest.approx(0.1, abs=0.01)
    assert found["transform"].abs().max() < 1e-3
    assert found["displacement"].item() < 2e-3 and found["residual"].item() < 2e-3


def test_residual_peak_finds_what_vanished() -> None:
    with_object = texture()
    with_object[:, 40:56, 60:76] = 1 - with_object[:, 40:56, 60:76]
    assert run(with_object, texture())["residual_peak"].item() > 0.05
    assert run(texture(), moved(texture(), 0.01, 0))["residual_peak"].item() < 0.03


def test_stills_give_exact_zeros_and_black_ones_finite_gradients() -> None:
    for image in (texture(), torch.zeros(3, 40, 40)):
        frames = image.expand(1, 3, *image.shape).clone().requires_grad_()
        found = MOTION(frames)
        assert found["displacement"].abs().max() < 1e-5 and found["residual"].abs().max() < 1e-5
        sum(found[key].sum() for key in ("transform", "displacement", "residual", "exposure")).backward()
        assert frames.grad.isfinite().all()


def test_gradient_of_the_transform_agrees_with_the_motion_that_made_it() -> None:
    shift = torch.tensor(0.01, requires_grad=True)
    image = texture(4)
    y, x = torch.meshgrid((torch.arange(96) + 0.5) / 48 - 1, (torch.arange(128) + 0.5) / 64 - 1, indexing="ij")
    grid = torch.stack([x - shift * 2 * 96 / 128, y], -1)[None]
    pair = torch.stack([image, F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]])
    found = MOTION(pair[None])
    found["transform"][0, 0, 0].backward(retain_graph=True)
    assert shift.grad.item() == pytest.approx(1, abs=0.15)
    shift.grad = None
    found["displacement"].sum().backward()
    assert shift.grad.item() == pytest.approx(1, abs=0.2)


def test_every_frame_gets_a_gradient() -> None:
    frames = torch.stack([moved(texture(), 0.01 * t, 0) for t in range(5)])[None].requires_grad_()
    found = MOTION(frames)
    (found["displacement"].sum() + found["residual"].sum()).backward()
    assert frames.grad.isfinite().all() and (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_a_clip_gives_the_same_in_any_batch() -> None:
    clips = torch.stack([torch.stack([moved(texture(s), 0.01 * t, 0.02 * math.sin(t)) for t in range(4)])
                         for s in range(5)])
    together = MOTION(clips)
    for row, clip in enumerate(clips):
        for key, value in MOTION(clip[None]).items():
            torch.testing.assert_close(together[key][row], value[0], rtol=1e-3, atol=1e-4)


def test_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        MOTION(torch.zeros(1, 1, 3, 16, 16))


def cut_positions(frames: torch.Tensor) -> list[int]:
    return hard_cuts(frames[None])[0].nonzero().flatten().tolist()


def test_cuts_between_synthetic_shots_are_found() -> None:
    shots = [torch.stack([moved(texture(s), 0.02 * t, 0) for t in range(6)]) for s in range(4)]
    assert cut_positions(torch.cat(shots)) == [5, 11, 17]


def test_a_shot_of_one_frame_at_either_end_is_found() -> None:
    assert cut_positions(torch.stack([texture(0), texture(1), texture(1)])) == [0]
    assert cut_positions(torch.stack([texture(0), texture(1)])) == [0]


@pytest.mark.parametrize("change", ["luma flicker", "flash", "fast pan", "noise", "black frame"])
def test_what_is_no_cut_is_not_called_one(change: str) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = texture().mul(0.8).expand(12, 3, 96, 128).clone()
    if change == "luma flicker":
        frames *= 1 + 0.2 * torch.randn(12, 1, 1, 1, generator=generator)
    elif change == "flash":
        frames[6] = 0.8 + 0.2 * frames[6]
    elif change == "fast pan":
        frames = torch.stack([texture(0, 96, 400)[:, :, 14 * t:14 * t + 128] for t in range(12)])
    elif change == "noise":
        frames += 0.15 * torch.randn(frames.shape, generator=generator)
    else:
        frames[6] = 0
    assert cut_positions(frames.clamp(0, 1)) == []


def test_cuts_between_real_clips_are_found_and_flicker_makes_none(assets) -> None:
    data = assets / "data"
    paths = sorted(data.glob("ucf101/*/*_c01.avi"))[::4] + sorted(data.glob("webvid/**/*.mp4"))[:4]
    shots = [torch.as_tensor(read_video(path, SMALL).frames) for path in paths]
    shots = [F.interpolate(shot.float(), size=(64, 85)).byte() for shot in shots]
    joined = torch.cat(shots)
    inside = set(cut_positions(joined.float() / 255))
    joints = set(torch.tensor([len(shot) for shot in shots]).cumsum(0)[:-1].sub(1).tolist())
    alone, start = set(), 0
    for shot in shots:
        alone |= {start + p for p in cut_positions(shot.float() / 255)}
        start += len(shot)
    assert len(joints & inside) >= len(joints) - 1
    assert inside - joints == alone and len(alone) <= 1
    for shot in shots[::3]:
        flickering = corrupt(shot, "luma_flicker", 3)
        assert cut_positions(flickering.float() / 255) == cut_positions(shot.float() / 255)
