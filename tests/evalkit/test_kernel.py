"""MMD against loops and the exact kernel mean, JEDi's bias, and where one set lies on the other."""
import numpy as np
import pytest
import torch

from evalkit.metrics.base import available_metrics
from evalkit.metrics.kernel import Jedi, JediUnbiased, KernelVideoDistance, PolynomialKernel, mmd2, mmd2_of_subsets
from evalkit.metrics.manifold import Coverage, coverage, density, precision, recall
from evalkit.metrics.subsets import draw_splits


def sets(n, m, d=12, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), shift + rng.normal(size=(m, d))


def looped_mmd2(x, y, degree, coef0, unbiased):
    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + coef0) ** degree

    def mean(a, b, skip):
        values = [k(a[i], b[j]) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return sum(values) / len(values)

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(("degree", "coef0"), [(3, 1.0), (2, 0.0)])
def test_mmd_equals_the_sum_over_pairs(unbiased, degree, coef0):
    x, y = sets(17, 23, shift=0.3)
    expected = looped_mmd2(x, y, degree, coef0, unbiased)
    assert mmd2(x, y, PolynomialKernel(degree, coef0), unbiased) == pytest.approx(expected, rel=1e-10)


def test_quadratic_mmd_is_the_distance_of_second_moments():
    x, y = sets(30, 40, d=6, shift=0.5)
    moments = [rows.T @ rows / len(rows) / 6 for rows in (x, y)]
    expected = np.sum((moments[0] - moments[1]) ** 2)
    assert mmd2(x, y, PolynomialKernel(2, 0.0), unbiased=False) == pytest.approx(expected, rel=1e-10)


def test_many_subsets_in_one_pass_equal_each_alone():
    x, y = sets(700, 600)
    for parts in draw_splits(700, 600, 4, 3, seed=0):
        together = mmd2_of_subsets(x, y, parts)
        assert together == pytest.approx([mmd2(x[a.numpy()], y[b.numpy()]) for a, b in parts], rel=1e-9, abs=1e-12)


def test_mmd_is_unbiased_at_any_size_and_the_v_statistic_is_not():
    found = [mmd2(*sets(20, 20, seed=seed)) for seed in range(300)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 300**0.5
    biased = [mmd2(*sets(20, 20, seed=seed), unbiased=False) for seed in range(50)]
    assert np.mean(biased) > 10 * np.std(found) / 300**0.5


def test_unusable_features_are_refused():
    with pytest.raises(ValueError, match="at least 2 samples"):
        mmd2(np.ones((1, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="one size"):
        mmd2(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="finite"):
        mmd2(np.full((4, 3), np.nan), np.ones((4, 3)))


def tensors(n, m, shift=0.0, seed=0):
    return [torch.from_numpy(rows) for rows in sets(n, m, shift=shift, seed=seed)]


def test_kvd_of_small_sets_is_the_mmd_of_everything():
    x, y = tensors(150, 150, shift=0.3)
    score = KernelVideoDistance().compute(x, y, None, seed=0)
    assert score.value == pytest.approx(mmd2(x, y))
    assert score.details["subset_std"] is None  # every subset would be the whole set
    assert score.ci95[0] < score.value < score.ci95[1] and score.floor < score.ci95[0]


def test_kvd_averages_subsets_without_replacement():
    x, y = tensors(400, 300, shift=0.3)
    metric = KernelVideoDistance(subset_size=200, subsets=30)
    score = metric.compute(x, y, None, seed=0)
    assert score.details["subset_std"] > 0
    assert score.value == pytest.approx(mmd2(x, y), abs=4 * score.details["subset_std"] / 30**0.5)
    assert score == metric.compute(x, y, None, seed=0)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_interval_is_as_wide_as_the_kvd_scatters(shift):
    scores = [KernelVideoDistance().compute(*tensors(128, 128, shift=shift, seed=seed), None, seed=seed)
              for seed in range(40)]
    width = np.mean([score.ci95[1] - score.ci95[0] for score in scores]) / 3.92
    assert width == pytest.approx(np.std([score.value for score in scores]), rel=0.35)


def test_jedi_as_published_stays_above_zero_and_its_sibling_does_not():
    x, y = tensors(200, 200)
    biased, unbiased = (cls().compute(x, y, None, seed=0) for cls in (Jedi, JediUnbiased))
    assert biased.value == pytest.approx(100 * mmd2(x, y, PolynomialKernel(2, 0.0), unbiased=False))
    assert biased.value > 3 * abs(unbiased.value)


@pytest.mark.parametrize("name", ["kvd", "jedi", "jedi_unbiased"])
def test_kernel_metrics_rise_with_the_shift(name):
    metric = available_metrics()[name]()
    found = [metric.compute(*tensors(150, 150, shift=shift), None, seed=0).value for shift in (0.0, 0.5, 1.0, 2.0)]
    assert found == sorted(found) and not metric.higher_is_better


@pytest.mark.parametrize("name", ["kvd", "jedi", "precision", "recall", "density", "coverage"])
def test_too_few_clips_give_a_reason(name):
    score = available_metrics()[name]().compute(*tensors(127, 300), None, seed=0)
    assert score.value is None and "at least 128" in score.reason


def test_neighbours_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])  # with k = 1 every ball has radius 1
    fake = np.array([[0.5], [0.6], [9.0]])
    assert precision(fake, real, k=1) == pytest.approx(2 / 3)
    assert density(fake, real, k=1) == pytest.approx(4 / 3)  # 0.5 and 0.6 lie in two balls each
    assert coverage(fake, real, k=1) == pytest.approx(2 / 4)
    # generated radii: .1, .1, 8.4: only the outlier's ball reaches real samples, those from 0.6 on
    assert recall(fake, real, k=1) == pytest.approx(3 / 4)


def test_dropped_modes_cost_recall_and_coverage_but_not_precision():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 8)), 20 + rng.normal(size=(200, 8))])
    fake = rng.normal(size=(400, 8))
    assert precision(fake, real) > 0.8 and 0.35 < recall(fake, real) <= 0.5
    assert coverage(fake, real) == pytest.approx(0.5, abs=0.06)


def test_coverage_metric_has_interval_and_floor_in_range():
    score = Coverage().compute(*tensors(150, 400, shift=0.8), None, seed=0)
    assert 0 <= score.ci95[0] <= score.value <= score.ci95[1] <= 1
    assert score.value < score.floor
    with pytest.raises(ValueError, match="more than k"):
        coverage(np.ones((3, 2)), np.ones((5, 2)))
