from itertools import pairwise

import pytest
import torch

from evalkit.data.corruptions import corrupt
from rewards.photographic import colourfulness, photographic


def picture(seed=0, size=96):
    """(1, 3, H, W) uint8: three coloured fields of 1/f texture."""
    generator = torch.Generator().manual_seed(seed)
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)).clamp_min(1 / size)
    spectrum = torch.fft.rfft2(torch.randn(3, size, size, generator=generator)) / radius * torch.exp(-20 * radius**2)
    texture = torch.fft.irfft2(spectrum, s=(size, size))
    texture = texture / texture.std((1, 2), keepdim=True) * 0.18 + 0.4
    return (texture.clamp(0, 1) * 255).round().to(torch.uint8)[None]


def score(frames):
    return photographic(frames[None].float() / 255)[0].mean().item()


@pytest.mark.parametrize("defect", ["blur", "noise", "over_exposure", "under_exposure", "contrast_loss"])
def test_every_severity_of_a_photographic_fault_costs_more(defect):
    scores = [score(corrupt(picture(), defect, severity)) for severity in range(6)]
    assert all(worse < better for better, worse in pairwise(scores[1:]))
    assert scores[3] < scores[0]


def test_colour_is_a_band_that_is_left_at_either_end():
    costs = [photographic(corrupt(picture(), name, severity)[None] / 255.0)[1]["colourfulness"].item()
             for name, severity in (("desaturation", 5), ("desaturation", 3), ("over_saturation", 2),
                                    ("over_saturation", 5))]
    assert costs[0] > costs[1]
    assert costs[3] > costs[2]


def test_colourfulness_is_hasler_and_suesstrunks():
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    red, green, blue = (frames[:, k].numpy() * 255 for k in range(3))
    rg, yb = red - green, (red + green) / 2 - blue
    wanted = [(rg[k].std() ** 2 + yb[k].std() ** 2) ** 0.5 + 0.3 * (rg[k].mean() ** 2 + yb[k].mean() ** 2) ** 0.5
              for k in range(2)]
    assert (colourfulness(frames) * 255).tolist() == pytest.approx(wanted, rel=1e-3)


def test_score_is_exp_of_minus_the_costs_and_lies_between_0_and_1():
    value, costs = photographic(picture()[None] / 255.0)
    assert value.item() == pytest.approx(torch.exp(-torch.stack(list(costs.values())).sum()).item(), rel=1e-6)
    assert 0 < value.item() < 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_frames_have_finite_scores_and_gradients(value):
    frames = torch.full((1, 2, 3, 32, 40), value, requires_grad=True)
    photographic(frames)[0].sum().backward()
    assert frames.grad.isfinite().all()


def test_frames_are_scored_one_by_one():
    frames = torch.cat([picture(seed) for seed in range(3)])[None] / 255.0
    together = photographic(frames)[0][0]
    assert together.tolist() == pytest.approx([photographic(frames[:, k:k + 1])[0].item() for k in range(3)], abs=1e-6)
