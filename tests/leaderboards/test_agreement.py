"""Agreement of raters against published examples and closed forms."""
from __future__ import annotations

import numpy as np
import pytest

from leaderboards.agreement import cohen_kappa, krippendorff_alpha

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", part C: 4 observers, 12 units, missing values
OBSERVERS = ((1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None), (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
             (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None), (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None))
UNITS = [[answer for answer in unit if answer is not None] for unit in zip(*OBSERVERS, strict=True)]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("interval", 0.849)])
def test_alpha_is_that_of_krippendorffs_example(level, published):
    found = krippendorff_alpha(UNITS, level)
    assert found.value == pytest.approx(published, abs=5e-4)
    assert found.units == 11  # the twelfth has one answer
    assert found.ci95[0] < found.value <= found.ci95[1]


def test_alpha_of_two_raters_is_that_of_his_binary_example():
    # the same paper, part A: 2 observers, 10 units
    a, b = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)
    assert krippendorff_alpha(list(zip(a, b, strict=True))).value == pytest.approx(0.095, abs=5e-4)


def test_perfect_agreement_is_one_and_chance_is_about_zero():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"], ["tie", "tie"]]).value == 1.0
    random = np.random.default_rng(0).integers(0, 3, (4000, 2)).tolist()
    found = krippendorff_alpha(random)
    assert abs(found.value) < 0.05
    assert found.ci95[0] < 0 < found.ci95[1]


def test_alpha_is_silent_where_nothing_varies_or_nobody_shares_a_unit():
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]).value is None
    assert krippendorff_alpha([["a"], ["b"]]).value is None


def test_mirrored_it_does_not_matter_which_thing_is_called_the_first():
    rng = np.random.default_rng(0)
    units = [[1.0 if rng.random() < 0.9 else -1.0 for _ in range(2)] for _ in range(400)]  # most prefer the first
    turned = [[-answer for answer in unit] if k % 2 else unit for k, unit in enumerate(units)]
    found, of_turned = (krippendorff_alpha(each, "interval", mirrored=True) for each in (units, turned))
    assert found == of_turned
    assert abs(krippendorff_alpha(units, "interval").value) < 0.2  # all it sees is that most prefer the first
    assert found.value == pytest.approx(krippendorff_alpha(turned, "interval").value, abs=0.02)
    assert found.value == pytest.approx(1 - 0.18 / 0.5, abs=0.06)


def test_its_interval_covers_the_value_of_many_units():
    def draw(count: int, seed: int) -> list[list[float]]:
        rng = np.random.default_rng(seed)
        truth = rng.integers(-1, 2, count)
        answers = [np.where(rng.random(count) < 0.7, truth, rng.integers(-1, 2, count)) for _ in range(2)]
        return np.stack(answers, 1).astype(float).tolist()

    true = krippendorff_alpha(draw(100_000, 0), "interval", draws=10).value
    intervals = [krippendorff_alpha(draw(80, seed), "interval", draws=300).ci95 for seed in range(1, 101)]
    assert 88 <= sum(low <= true <= high for low, high in intervals) <= 100


def test_kappa_is_that_of_the_two_by_two_example():
    # 20 both yes, 5 only a, 10 only b, 15 both no: (0.7 - 0.5) / (1 - 0.5)
    a, b = ["y"] * 25 + ["n"] * 25, ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa(["y"] * 3, ["y"] * 3) is None
    assert cohen_kappa([], []) is None


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="expected one of nominal, interval"):
        krippendorff_alpha([[1, 2]], "ordinal")
    with pytest.raises(ValueError, match="got 1 and 2"):
        cohen_kappa([1], [1, 2])
