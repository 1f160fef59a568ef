"""Each part of cinematic_composition moves in its declared direction on scenes built for it."""
import math
from itertools import pairwise

import pytest
import torch

from rewards import camera, composition, grading
from rewards.bands import band, falls, rises
from rewards.cinematic import still_scores
from rewards.frames import to_luma

FPS = torch.tensor([25.0])


def spot(cx: float, cy: float, height: int = 96, width: int = 144) -> torch.Tensor:
    """(1, H, W): a bright disc at (cx, cy) of width and height on grey."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    distance = torch.hypot(x - cx * width, y - cy * height)
    return (0.3 + 0.6 * torch.sigmoid((6 - distance) * 2))[None]


def rays(cx: float, cy: float, height: int = 96, width: int = 144) -> torch.Tensor:
    """(1, H, W): edges that converge on (cx, cy)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (0.5 + 0.3 * torch.tanh(4 * torch.sin(14 * torch.atan2(y - cy * height, x - cx * width))))[None]


def pan(num_pairs: int = 60, per_second: float = 0.2) -> torch.Tensor:
    """(1, N, 4) transforms of an even pan."""
    transform = torch.zeros(1, num_pairs, 4)
    transform[..., 0] = per_second / 25
    return transform


def velocity(transform: torch.Tensor) -> torch.Tensor:
    return camera.camera_velocity(transform, torch.zeros(transform.shape[:2]), FPS)


def shaken(transform: torch.Tensor, size: float) -> torch.Tensor:
    """`transform` with the camera at a random place, of deviation `size`, around its path in every frame."""
    places = size * torch.randn(1, transform.shape[1] + 1, 2, generator=torch.Generator().manual_seed(3))
    return transform + torch.cat([places.diff(dim=1), torch.zeros_like(transform[..., 2:])], dim=-1)


@pytest.mark.parametrize("place", [(0.3, 0.4), (0.7, 0.55)])
def test_centroid_finds_the_subject(place):
    found = composition.centroid(composition.saliency(spot(*place)))[0]
    torch.testing.assert_close(found, torch.tensor(place), atol=0.03, rtol=0)


def test_thirds_prefers_a_power_point_to_the_centre_and_the_border():
    power, centre, border = (composition.thirds(composition.saliency(spot(x, y))).item()
                             for x, y in [(1 / 3, 1 / 3), (0.5, 0.5), (0.04, 0.5)])
    assert power > 0.95
    assert centre == pytest.approx(math.exp(-(2 / 36) / (2 * 0.17**2)), abs=0.03)
    assert border < centre < power


def test_framing_falls_as_the_subject_leaves_the_picture():
    scores = [composition.framing(composition.saliency(spot(x, 0.5))).item() for x in (0.5, 0.15, 0.08, 0.03)]
    assert scores[0] > 0.9
    assert all(a > b for a, b in pairwise(scores))


def test_leading_lines_lead_to_the_subject():
    picture = rays(0.3, 0.4)
    structure = composition.structure_tensor(picture)
    right, wrong = (composition.leading_lines(structure, composition.saliency(spot(*place))).item()
                    for place in [(0.3, 0.4), (0.8, 0.7)])
    assert right > 0.85
    assert wrong < right - 0.25


def test_converging_lines_beat_parallel_ones_and_none():
    bars = 0.5 + 0.3 * torch.sin(torch.arange(144) / 3.0).expand(1, 96, 144)
    converging, parallel, none = (composition.vanishing_point(composition.structure_tensor(x), (96, 144)).item()
                                  for x in (rays(0.5, 0.5), bars, torch.full((1, 96, 144), 0.5)))
    assert converging > parallel + 0.1
    assert none == pytest.approx(0.0, abs=1e-5)


def test_composition_ignores_colour():
    frames = torch.rand(1, 4, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    grey = to_luma(frames)[:, :, None].expand_as(frames)
    coloured, faded = (still_scores(x, torch.zeros(1, 3)) for x in (frames, grey))
    for name in ("thirds", "leading_lines", "vanishing_point", "framing", "exposure"):
        torch.testing.assert_close(faded[name], coloured[name], atol=1e-5, rtol=1e-4)
    assert faded["palette"] < coloured["palette"]


@pytest.mark.parametrize(("rgb", "lab"), [((1, 1, 1), (100, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.20)),
                                          ((0, 0, 1), (32.30, 79.19, -107.86)), ((0.5, 0.5, 0.5), (53.39, 0, 0))])
def test_lab_matches_published_values(rgb, lab):
    found = grading.lab_of(torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor(lab, dtype=torch.float32), atol=0.1, rtol=0)


def test_colourfulness_is_the_paper_s_formula():
    frame = torch.rand(3, 20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    r, g, b = (frame * 255).numpy()
    rg, yb = r - g, (r + g) / 2 - b
    expected = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
    assert grading.colourfulness(frame).item() == pytest.approx(expected, rel=1e-4)


def coloured(saturation: float) -> torch.Tensor:
    """(1, 4, 3, 48, 64) frames of random patches, `saturation` away from their luma."""
    frames = torch.rand(1, 1, 3, 6, 8, generator=torch.Generator().manual_seed(2)).repeat_interleave(8, -1)
    frames = frames.repeat_interleave(8, -2).expand(1, 4, 3, 48, 64)
    return 0.5 + saturation * (frames - 0.5) + (1 - saturation) * (frames.mean(2, keepdim=True) - 0.5)


def test_palette_falls_when_colours_fade_and_when_they_are_garish():
    fading = [grading.palette(coloured(saturation)).item() for saturation in (0.5, 0.3, 0.15, 0.05, 0.0)]
    assert all(a > b for a, b in pairwise(fading))
    pure = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[:, :, None, None].expand(2, 3, 48, 32)
    garish = torch.cat(tuple(pure), dim=-1).expand(1, 4, 3, 48, 64)
    assert grading.palette(garish).item() < 0.5 < fading[0]


def test_exposure_falls_with_clipping_on_either_side():
    luma = 0.42 + 0.2 * torch.sin(torch.arange(64) / 4.0).expand(1, 4, 48, 64)
    neutral, bright, dark = (grading.exposure((gain * luma).clamp(0, 1)).item() for gain in (1.0, 2.4, 0.08))
    assert neutral > 0.7
    assert max(bright, dark) < 0.3


def test_grading_falls_as_the_palette_drifts_and_leaves_out_cuts():
    frames = coloured(0.4)
    def graded(step: float, same_shot: float = 1.0) -> float:
        tint = 1 + step * torch.arange(4).view(1, 4, 1, 1, 1) * torch.tensor([1.0, 0, -1.0]).view(3, 1, 1)
        return grading.grading(grading.lab_of((frames * tint).clamp(0, 1)), torch.full((1, 3), same_shot)).item()

    assert graded(0.0) > 0.99
    assert graded(0.0) > graded(0.05) > graded(0.15) > graded(0.3)
    assert graded(0.3, same_shot=0.0) == pytest.approx(graded(0.0), abs=1e-3)


def test_a_tripod_and_an_even_pan_have_a_good_path_and_shake_costs_ever_more():
    steady = [camera.camera_path(velocity(pan(per_second=speed)), FPS).item() for speed in (0.0, 0.2)]
    assert min(steady) > 0.95
    shaking = [camera.camera_path(velocity(shaken(pan(), size)), FPS).item() for size in (0.001, 0.004, 0.016)]
    assert steady[1] > shaking[0] > shaking[1] > shaking[2]


def test_jitter_is_the_amplitude_of_a_tremor_at_any_frame_rate():
    for rate in (25.0, 60.0):
        time = torch.arange(round(4 * rate) + 1) / rate
        shift = (0.01 * torch.sin(2 * math.pi * 8 * time)).diff()
        transform = torch.stack([shift, 0 * shift, 0 * shift, 0 * shift], dim=-1)[None]
        speed = camera.camera_velocity(transform, torch.zeros(1, len(shift)), torch.tensor([rate]))
        assert camera.jitter(speed, torch.tensor([rate])).item() == pytest.approx(0.01 / math.sqrt(2), rel=0.2)


def test_spectrum_adds_up_to_the_variance():
    for count in (40, 41):
        time = torch.arange(count) / 25.0
        wave = torch.sin(2 * math.pi * 5 * time)[None, :, None]
        power, frequency = camera.spectrum(wave, FPS)
        assert power.sum().item() == pytest.approx(0.5, rel=0.1)
        assert frequency[0, power.argmax()].item() == pytest.approx(5.0, abs=0.7)


def test_smoothness_falls_with_repeated_frames_and_erratic_speed():
    speed = torch.full((1, 60), 0.4)
    def smooth(values: torch.Tensor) -> float:
        return camera.motion_smoothness(velocity(pan()), values, FPS).item()

    repeated = torch.where(torch.arange(60) % 2 == 0, 0.0, 2 * speed)
    erratic = speed * (1 + 2 * torch.rand(1, 60, generator=torch.Generator().manual_seed(0)))
    assert smooth(speed) > 0.9
    assert smooth(repeated) < 0.6 * smooth(speed)
    assert smooth(erratic * 3) < smooth(erratic) < smooth(speed)
    assert smooth(0 * speed) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("axis", "name"), [(0, "pan"), (1, "tilt"), (2, "zoom"), (3, "roll")])
def test_shot_type_names_the_move(axis, name):
    transform = torch.zeros(1, 40, 4)
    transform[..., axis] = 0.01
    confidence = camera.shot_type(velocity(transform))
    assert confidence[name].item() > 0.9
    assert sum(share.item() for share in confidence.values()) == pytest.approx(1.0, abs=1e-5)


def test_shot_type_tells_a_tripod_from_a_hand():
    assert camera.shot_type(velocity(torch.zeros(1, 40, 4)))["static"].item() > 0.9
    assert camera.shot_type(velocity(shaken(torch.zeros(1, 40, 4), 0.005)))["handheld"].item() > 0.9


def test_bands_are_strictly_monotone_far_outside():
    x = torch.logspace(-2, 2, 50)
    assert (rises(x, 1.0, 0.5).diff() > 0).all()
    assert (falls(x, 1.0, 0.5).diff() < 0).all()
    inside, low, high = band(torch.tensor([1.0, 0.05, 20.0]), 0.1, 10.0, 0.25)
    assert inside > 0.99 and low < 0.1 and high < 0.1
