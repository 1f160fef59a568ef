"""Preference losses against closed forms, scipy and simulation."""
import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import binomtest

from rewards.losses import (
    Calibration,
    accuracy,
    accuracy_with_ties,
    best_tie_threshold,
    bradley_terry,
    bradley_terry_with_ties,
    expected_calibration_error,
    fit_calibration,
    tie_floor,
)

LABELS = torch.tensor([1.0, -1.0, 0.0])


def noisy_world(n=4000, temperature=0.25, flip=0.2, seed=0):
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=n)
    better = rng.random(n) < expit(margins / temperature)
    observed = better ^ (rng.random(n) < flip)
    return torch.from_numpy(margins), torch.from_numpy(2.0 * better - 1), torch.from_numpy(2.0 * observed - 1)


@pytest.mark.parametrize("k", [1.5, 5.0])
@pytest.mark.parametrize("r", [(0.3, -1.2), (2.0, 2.0), (-3.0, 1.0)])
def test_the_three_outcomes_are_those_of_rao_and_kupper(r, k):
    a, b = map(math.exp, r)
    expected = [a / (a + k * b), b / (b + k * a), (k * k - 1) * a * b / ((a + k * b) * (k * a + b))]
    margins = torch.full((3,), r[0] - r[1], dtype=torch.float64)
    found = torch.exp(-bradley_terry_with_ties(margins, LABELS, k))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_the_plain_form_is_the_log_sigmoid_and_a_tie_half_a_win_of_each():
    margin = 0.7
    found = bradley_terry(torch.full((3,), margin, dtype=torch.float64), LABELS)
    wins, losses = -np.log(expit(margin)), -np.log(expit(-margin))
    np.testing.assert_allclose(found, [wins, losses, (wins + losses) / 2], rtol=1e-12)


def test_flipped_labels_mix_the_two_sides_and_leave_ties_alone():
    margins = torch.full((3,), 1.3, dtype=torch.float64)
    clean, noisy = (torch.exp(-bradley_terry_with_ties(margins, LABELS, flip=flip)) for flip in (0.0, 0.2))
    np.testing.assert_allclose(noisy, [0.8 * clean[0] + 0.2 * clean[1], 0.8 * clean[1] + 0.2 * clean[0], clean[2]])


@pytest.mark.parametrize("loss", [bradley_terry, bradley_terry_with_ties])
def test_losses_and_gradients_stay_finite_far_out(loss):
    margins = torch.tensor([500.0, -500.0, 500.0], requires_grad=True)
    value = loss(margins, LABELS, flip=0.1).sum()
    value.backward()
    assert value.isfinite() and bool(margins.grad.isfinite().all())


def test_gradients_are_those_of_finite_differences():
    margins = torch.tensor([0.4, -0.8, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: bradley_terry_with_ties(m, LABELS, 5.0, 0.1), (margins,))
    assert torch.autograd.gradcheck(lambda m: bradley_terry(m, LABELS, 0.1), (margins,))


@pytest.mark.parametrize(("margins", "labels", "options", "message"), [
    (torch.zeros(2), torch.zeros(3), {}, "margins and labels"),
    (torch.zeros(1), torch.tensor([2.0]), {}, "labels"),
    (torch.zeros(1), torch.zeros(1), {"k": 1.0}, "k: expected more than 1"),
    (torch.zeros(1), torch.zeros(1), {"flip": 0.5}, "flip"),
])
def test_wrong_arguments_are_refused(margins, labels, options, message):
    with pytest.raises(ValueError, match=message):
        bradley_terry_with_ties(margins, labels, **options)


def test_calibration_recovers_the_temperature_and_the_share_of_wrong_labels():
    margins, better, observed = noisy_world()
    found = fit_calibration(margins, observed)
    assert found.temperature == pytest.approx(0.25, rel=0.25) and found.flip == pytest.approx(0.2, abs=0.04)
    assert expected_calibration_error(found.probabilities(margins), better) < 0.03


def test_calibration_does_not_depend_on_the_unit_of_margins():
    margins, _, observed = noisy_world(1000)
    one, thousand = fit_calibration(margins, observed), fit_calibration(1000 * margins, observed)
    assert thousand.temperature == pytest.approx(1000 * one.temperature, rel=1e-3)


def test_calibration_needs_twenty_labels():
    with pytest.raises(ValueError, match="at least 20"):
        fit_calibration(torch.ones(30), torch.cat([torch.ones(19), torch.zeros(11)]))


def test_ece_is_that_of_bins_counted_one_by_one():
    rng = np.random.default_rng(1)
    p, label = rng.random(500), rng.choice([-1.0, 1.0], 500)
    confidence, right, expected = np.maximum(p, 1 - p), (p > 0.5) == (label > 0), 0.0
    for low in np.linspace(0.5, 1, 16)[:-1]:
        inside = (confidence >= low) & (confidence < low + 0.5 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = expected_calibration_error(torch.from_numpy(p), torch.from_numpy(label))
    assert found == pytest.approx(expected, abs=1e-9)


def test_sure_and_always_wrong_is_the_worst_calibration():
    assert expected_calibration_error(torch.ones(9), -torch.ones(9)) == 1.0
    assert math.isnan(expected_calibration_error(torch.ones(2), torch.zeros(2)))


def test_accuracy_leaves_ties_out_and_has_wilsons_interval():
    margins = torch.tensor([1.0] * 7 + [-1.0] * 3 + [0.0, 5.0])
    labels = torch.tensor([1.0] * 10 + [0.0, 0.0])
    found = accuracy(margins, labels)
    expected = binomtest(7, 10).proportion_ci(method="wilson")
    assert (found.value, found.n) == (0.7, 10)
    np.testing.assert_allclose(found.ci95, (expected.low, expected.high), rtol=1e-5)


def test_equal_rewards_count_half():
    assert accuracy(torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0])).value == 0.5


def test_a_scorer_without_an_opinion_sits_on_the_tie_floor():
    labels = torch.tensor([0.0, 0.0, 0.0, 1.0, -1.0])
    assert accuracy_with_ties(torch.zeros(5), labels, 0.0).value == tie_floor(labels) == 0.6


def test_the_best_threshold_is_that_of_a_search():
    rng = np.random.default_rng(2)
    margins, labels = torch.from_numpy(rng.normal(size=200)), torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], 200))
    labels = torch.where(margins.abs() < 0.4, labels * 0, labels)
    tried = max(accuracy_with_ties(margins, labels, float(t)).value for t in [-1.0, *margins.abs()])
    found = accuracy_with_ties(margins, labels, best_tie_threshold(margins, labels)).value
    assert found == pytest.approx(tried) and found > tie_floor(labels)


def test_probabilities_are_symmetric():
    margins = torch.linspace(-2, 2, 9)
    p = Calibration(0.5, 0.1).probabilities(margins)
    torch.testing.assert_close(p + p.flip(0), torch.ones(9, dtype=torch.float64))
