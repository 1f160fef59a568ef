import math

import pytest
import torch

from evalkit.data.corruptions import corrupt
from evalkit.features.base import extract, make_extractor
from rewards.coherence import LIMIT, PRICES, UNSTEADY, USUAL, coherence, cost_of, jerk, midpoint
from rewards.frames import to_luma
from rewards.temporal_artifacts import colour_flicker, detail_spikes, evenly_lit, persistence, spikes

FPS = 24.0


def glide(num_frames=32, size=64, speed=0.7, seed=0):
    """(T, 3, H, W) uint8 of a 1/f texture that glides evenly, `speed` pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(4 * size)
    radius = torch.hypot(fy, fx)
    spectrum = torch.fft.rfft2(torch.randn(3, size, 4 * size, generator=generator))
    spectrum = spectrum / radius.clamp_min(1 / size) * torch.exp(-3 * radius**2)
    frames = torch.stack([torch.fft.irfft2(spectrum * torch.exp(-2j * torch.pi * fx * speed * t), s=(size, 4 * size))
                          for t in range(num_frames)])[..., :size]
    return ((frames / frames.std() * 0.15 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def score(frames):
    motion = extract(make_extractor("motion"), frames[None].float() / 255)
    value, parts = coherence(motion, torch.tensor([FPS]))
    return value.item(), {name: part.item() for name, part in parts.items()}


@pytest.mark.parametrize("hack", ["static", "repeat", "crossfade", "temporal_blur", "luma_flicker", "noise",
                                  "camera_jitter", "shuffle", "freeze", "dropped_frames"])
def test_coherence_falls_under_every_hack_of_adjacency(hack):
    clean = glide()
    assert score(corrupt(clean, hack, 3))[0] < score(clean)[0]


def test_a_still_clip_has_no_coherence_to_sell():
    value, parts = score(glide(1).repeat(16, 1, 1, 1))
    assert value < 0.01
    assert parts["duplicates"] > 2.5
    assert parts["dynamic_floor"] < 0.05


def test_midpoint_of_random_order_is_the_ratio_of_white_frames():
    luma = torch.randn(1, 400, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.5
    # standard deviations are sqrt(1 + 4 + 1) and sqrt(2) / 2
    ratio = 6**0.5 / (2**0.5 / 2)
    assert midpoint(luma, torch.ones(1, 399)).item() == pytest.approx(ratio - USUAL["midpoint"], rel=0.02)


def test_jerk_is_blind_to_even_acceleration_and_sees_trembling():
    even = torch.arange(20.0)[None, :, None] * torch.tensor([0.01, -0.004, 0.001, 0.002])
    trembling = even + 0.01 * torch.tensor([1.0, -1.0]).repeat(10)[None, :, None]
    whole = torch.ones(1, 20)
    assert jerk(even, whole).item() == pytest.approx(0, abs=1e-5)
    assert jerk(trembling, whole).item() > 0.03


def test_what_happens_across_a_cut_does_not_count():
    pan, other = glide(16), glide(16, seed=1)
    cut = score(torch.cat([pan, other]))[0]
    assert cut == pytest.approx((score(pan)[0] + score(other)[0]) / 2, abs=0.06)


def test_colour_flicker_is_blind_to_light_and_sees_a_hue_that_jumps():
    grey = torch.full((1, 12, 3, 8, 8), 0.5)
    jumps = 0.1 * torch.tensor([1.0, -1.0]).repeat(6)[None, :, None, None, None]
    whole = torch.ones(1, 11)
    assert colour_flicker(grey + jumps, whole).item() == pytest.approx(0, abs=1e-6)
    red = torch.tensor([1.0, 0.0, 0.0])[None, None, :, None, None]
    # second differences of +-0.4 in red alone: less their mean they are (2/3, -1/3, -1/3) of it
    assert colour_flicker(grey + jumps * red, whole).item() == pytest.approx(0.4 * (2 / 3) ** 0.5, rel=1e-3)


def test_a_still_picture_that_brightens_changes_nowhere_once_evenly_lit():
    light = torch.linspace(0.4, 0.9, 10)[None, :, None, None]
    picture = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before, after = picture * light, evenly_lit(picture * light)
    assert after.diff(dim=1).abs().mean() < 0.1 * before.diff(dim=1).abs().mean()


def test_mixed_frames_drag_on_and_moving_ones_do_not_at_any_rate():
    for fps in (24, 48):
        mixed_over = fps // 4  # frames: a quarter of a second
        luma = to_luma(glide(48, speed=33.6 / fps)[None].float() / 255)
        whole, rate = torch.ones(1, 47), torch.tensor([float(fps)])
        mixed = sum(luma.roll(k, 1) for k in range(mixed_over))[:, mixed_over:] / mixed_over
        assert persistence(mixed, whole[:, mixed_over:], rate).item() > persistence(luma, whole, rate).item() + 0.1
    assert persistence(luma[:, :4], whole[:, :3], rate).item() == 0


def test_an_echo_an_eighth_of_a_second_late_comes_back_in_every_cell():
    for fps in (8.0, 24.0):
        luma, whole = to_luma(glide(48, speed=3.0)[None].float() / 255), torch.ones(1, 47)
        late = round(fps / 8)
        echoed = torch.lerp(luma, luma.roll(late, 1), 0.3)[:, late:]
        rate = torch.tensor([fps])
        assert persistence(echoed, whole[:, late:], rate).item() > persistence(luma, whole, rate).item() + 0.2


def test_one_place_that_fades_does_not_make_the_picture_persistent():
    luma, whole, rate = to_luma(glide(32, speed=3.0)[None].float() / 255), torch.ones(1, 31), torch.tensor([FPS])
    fading = luma.clone()
    fading[..., :16, :16] = torch.linspace(0, 1, 32)[None, :, None, None]
    assert persistence(fading, whole, rate).item() < persistence(luma, whole, rate).item() + 0.15


def test_halving_the_rate_costs_the_same_whatever_the_rate_was():
    clean = glide(64, speed=1.5)
    index = torch.arange(64)
    held = [score(clean[index - index % times])[1]["duplicates"] for times in (1, 2, 4)]
    first, second = held[1] - held[0], held[2] - held[1]
    assert first == pytest.approx(second, rel=0.15)
    assert first == pytest.approx(math.log(2), rel=0.15)


def test_duplicates_are_seen_through_flicker():
    held = glide(32, speed=1.5)[torch.arange(32) // 2]
    flickering = corrupt(held, "luma_flicker", 3)
    assert score(flickering)[1]["duplicates"] > 0.5 * score(held)[1]["duplicates"]


def test_what_a_clip_that_trembles_much_saves_by_trembling_less_is_limited():
    for name in UNSTEADY:
        costs = cost_of(name, torch.tensor([0.0, 1.0, 10.0, 20.0]) * LIMIT / PRICES[name])
        assert 0 < costs[3] - costs[2] < costs[1] - costs[0] < LIMIT
    part = torch.tensor([0.2, 0.9])
    assert cost_of("persistence", part).tolist() == pytest.approx((PRICES["persistence"] * part).tolist())


def test_spikes_need_neighbours_and_find_the_one_place_that_jumps():
    change = torch.full((1, 9, 6, 6), 0.01)
    whole = torch.ones(1, 9)
    assert spikes(change, whole).item() < 1e-3
    change[0, 4, 2, 3] = 0.5
    assert spikes(change, whole).item() > 0.05
    assert spikes(change[:, :2], whole[:, :2]).item() == 0


def test_a_thing_that_goes_at_once_is_a_spike_of_detail_and_one_that_leaves_is_not():
    clean = glide(24)
    gone = corrupt(clean, "vanish", 3)
    whole = torch.ones(1, 23)
    still_there, spiked = (detail_spikes(to_luma(clip[None].float() / 255), whole).item() for clip in (clean, gone))
    assert spiked > 2 * still_there
    assert detail_spikes(torch.zeros(1, 3, 6, 6), whole[:, :2]).item() == 0  # fewer than four frames tell nothing


def test_coherence_falls_where_a_thing_vanishes():
    clean = glide()
    assert score(corrupt(clean, "vanish", 3))[0] < score(clean)[0] - 0.05


def test_light_does_not_count_as_motion():
    dim = (glide().float() * 0.4).round().to(torch.uint8)
    assert score(glide())[1]["dynamic_floor"] == pytest.approx(score(dim)[1]["dynamic_floor"], abs=0.01)
