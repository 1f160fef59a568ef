"""Fréchet distances against an independent formula, closed forms, peers' known bugs, and simulation."""
import numpy as np
import pytest
import scipy.linalg
import torch

from evalkit.metrics.base import available_metrics
from evalkit.metrics.frechet import (
    FrechetSqueezeNetDistance,
    FrechetVideoDistance,
    FrechetVideoDistance2048,
    FrechetVideoDistanceInfinity,
    frechet_difference,
    frechet_distance,
    frechet_distance_from_features,
    frechet_infinity,
    frechet_with_interval,
)
from evalkit.metrics.moments import Moments


def features(n, d=400, seed=0, shift=0.0, scale=1.0):
    """Correlated features with a spectrum that decays, as real ones do; always the same distribution for one d."""
    mix = np.random.default_rng(99).normal(size=(d, d)) * np.exp(-np.arange(d) / d * 3)
    return shift + scale * np.random.default_rng(seed).normal(size=(n, d)) @ mix.T / d**0.5


def independent_distance(x, y, ddof=1):
    """By the eigenvalues of the product Σ1 Σ2, through Cholesky's factor or LAPACK's geev: not the code's route.

    Where N < D the product is singular, and square roots of its rounded zeros would lose half the digits; both sets
    then are first written in one orthonormal basis of their joint span, in which the smaller Gram product is regular.
    """
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    cx, cy = (x - x.mean(0)) / np.sqrt(len(x) - ddof), (y - y.mean(0)) / np.sqrt(len(y) - ddof)
    traces = np.trace(cx @ cx.T) + np.trace(cy @ cy.T)
    if len(x) <= x.shape[1]:
        bx, by = (scipy.linalg.qr(c.T, mode="economic", pivoting=True)[0][:, :len(c) - 1] for c in (cx, cy))
        sx, sy, turn = (cx @ bx).T @ (cx @ bx), (cy @ by).T @ (cy @ by), bx.T @ by
        values = scipy.linalg.eigvals(sx @ turn @ sy @ turn.T)  # of Σ1 Σ2 restricted to the span of x
    else:
        lower = scipy.linalg.cholesky(cx.T @ cx, lower=True)
        values = scipy.linalg.eigvalsh(lower.T @ (cy.T @ cy) @ lower).astype(complex)  # similar to Σ1 Σ2
    assert np.abs(values.imag).max() <= 1e-9 * np.abs(values).max()
    return mean + traces - 2 * np.sqrt(np.abs(values.real)).sum()


@pytest.mark.parametrize("n", [16, 64, 256, 2048])
@pytest.mark.parametrize("ddof", [0, 1])
def test_distance_equals_an_independent_reference(n, ddof):
    x, y = features(n), features(n, seed=1, shift=0.05, scale=1.1)
    assert frechet_distance_from_features(x, y, ddof) == pytest.approx(independent_distance(x, y, ddof), rel=1e-9)


def test_distance_equals_fifty_digit_arithmetic():
    mpmath = pytest.importorskip("mpmath")
    x, y = features(40, 12), features(40, 12, seed=1, shift=0.1)
    with mpmath.workdps(50):
        covs = []
        for rows in (x, y):
            centred = mpmath.matrix(rows.tolist())
            means = [sum(centred[:, j]) / 40 for j in range(12)]
            for j in range(12):
                for i in range(40):
                    centred[i, j] -= means[j]
            covs.append((centred.T * centred / 39, means))
        (s1, m1), (s2, m2) = covs
        values = mpmath.eig(s1 * s2, left=False, right=False)
        truth = sum((a - b) ** 2 for a, b in zip(m1, m2, strict=True)) + sum(s1[i, i] + s2[i, i] for i in range(12))
        truth = float(mpmath.re(truth - 2 * sum(mpmath.sqrt(value) for value in values)))
    assert frechet_distance_from_features(x, y) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(100, 300), (500, 100), (700, 450)])
def test_sides_of_unequal_length_are_exact_too(n, m):
    x, y = features(n), features(m, seed=1, shift=0.05)
    by_moments = frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert frechet_distance_from_features(x, y) == pytest.approx(by_moments, rel=1e-9)
    assert frechet_distance_from_features(y, x) == pytest.approx(by_moments, rel=1e-9)


@pytest.mark.parametrize("n", [2, 16, 256, 1024])
def test_identical_sets_are_at_zero_and_never_below(n):
    x = 100 * features(n)
    found = frechet_distance_from_features(x, x.copy())
    assert 0 <= found < 1e-8 and not np.signbit(found)
    cov = np.cov(x.T)
    found = frechet_distance(x.mean(0), cov, x.mean(0), cov)
    assert 0 <= found < 1e-8 and not np.signbit(found)


def test_distance_has_its_closed_forms():
    identity, zero, step = np.eye(5), np.zeros(5), np.arange(5.0)
    assert frechet_distance(zero, identity, step, identity) == pytest.approx(30.0)
    assert frechet_distance(zero, 4 * identity, zero, 9 * identity) == pytest.approx(5 * (3 - 2) ** 2)
    point = np.zeros((5, 5))
    assert frechet_distance(zero, point, step, 4 * identity) == pytest.approx(30 + 20)


def test_dead_and_duplicated_dimensions_do_no_harm():
    x, y = features(300, 20), features(300, 20, seed=1, shift=0.3)
    padded = [np.concatenate([one, one, np.zeros((300, 50))], axis=1) for one in (x, y)]
    assert frechet_distance_from_features(*padded) == pytest.approx(2 * frechet_distance_from_features(x, y), rel=1e-9)


def test_distance_does_not_depend_on_rotation_or_order_and_scales_squared():
    x, y = features(200, 30), features(200, 30, seed=1, shift=0.2)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    expected = frechet_distance_from_features(x, y)
    assert frechet_distance_from_features(x @ turn, y @ turn) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance_from_features(x[::-1].copy(), y) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance_from_features(3 * x, 3 * y) == pytest.approx(9 * expected, rel=1e-10)


def test_divisor_of_the_covariance_shifts_the_distance_as_published():
    x, y = features(256), features(256, seed=1)
    low, high = (frechet_distance_from_features(x, y, ddof) for ddof in (0, 1))
    assert low / high == pytest.approx(255 / 256, rel=1e-4)


def test_float32_features_far_from_zero_keep_their_distance():
    x = (1000 + features(600, 64)).astype(np.float32)
    assert frechet_distance_from_features(x, x) < 1e-8


@pytest.mark.parametrize(("x", "y", "match"), [
    (np.ones((1, 4)), np.ones((5, 4)), "at least 2 samples"),
    (np.ones((5, 4)), np.ones((5, 3)), "one size"),
    (np.full((5, 4), np.nan), np.ones((5, 4)), "finite"),
    (np.ones((5, 4)), np.full((5, 4), np.inf), "finite"),
    (np.ones((5, 4, 2)), np.ones((5, 4)), r"\(N, D\)"),
    (np.zeros((0, 4)), np.ones((5, 4)), r"\(N, D\)"),
])
def test_unusable_features_are_refused(x, y, match):
    with pytest.raises(ValueError, match=match):
        frechet_distance_from_features(x, y)


def test_moments_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="one D"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(np.zeros(3), np.eye(3) * np.nan, np.zeros(3), np.eye(3))


def test_streamed_moments_equal_numpy_in_any_order():
    rows = (50 + features(501, 20)).astype(np.float32)
    chunks = np.array_split(rows, 7)
    forward, backward = Moments(), Moments()
    for chunk in chunks:
        forward.update(chunk)
    for chunk in chunks[::-1]:
        backward.merge(Moments().update(torch.from_numpy(chunk)))
    backward.merge(Moments())
    exact = rows.astype(np.float64)
    for moments in (forward, backward):
        assert moments.count == 501
        np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-12)
        for ddof in (0, 1):
            np.testing.assert_allclose(moments.covariance(ddof), np.cov(exact.T, ddof=ddof), rtol=1e-12, atol=1e-12)


def test_moments_refuse_what_they_cannot_use():
    with pytest.raises(ValueError, match="at least 2 rows"):
        Moments().update(np.ones((1, 3))).covariance()
    with pytest.raises(ValueError, match="3 columns"):
        Moments().update(np.ones((2, 3))).update(np.ones((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        Moments().update(np.array([[np.nan]]))


def test_infinity_interval_covers_the_true_distance_and_the_finite_one_does_not():
    rng, d, n = np.random.default_rng(0), 6, 256
    shift, hits, finite_hits, values = np.full(d, 0.25), 0, 0, []
    truth = d * 0.25**2 + d * (1.3 - 1) ** 2
    for seed in range(100):
        x, y = rng.normal(size=(n, d)), shift + 1.3 * rng.normal(size=(n, d))
        value, (low, high) = frechet_infinity(x, y, splits=25, seed=seed)
        values.append(value)
        hits += low <= truth <= high
        finite = frechet_distance_from_features(x, y)
        finite_hits += finite + low - value <= truth <= finite + high - value
    assert 0.88 <= hits / 100 <= 0.99
    assert finite_hits < hits
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / 100**0.5)


def test_interval_is_as_wide_as_the_distance_scatters():
    rng, found = np.random.default_rng(0), []
    for seed in range(40):
        x, y = rng.normal(size=(200, 10)), 0.3 + rng.normal(size=(200, 10))
        value, (low, high) = frechet_with_interval(x, y, splits=10, seed=seed)
        found.append((value, (high - low) / 3.92))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.3)


def test_a_bootstrap_would_be_wrong():
    rng = np.random.default_rng(0)
    x, y = features(256, 64), features(256, 64, seed=1)
    _, (_, high) = frechet_with_interval(x, y, splits=10)
    resampled = frechet_distance_from_features(x[rng.integers(0, 256, 256)], y[rng.integers(0, 256, 256)])
    assert resampled > high


def test_difference_of_two_models_is_seen_through_the_shared_reference():
    rng = np.random.default_rng(0)
    reference, seeds = rng.normal(size=(300, 16)), rng.normal(size=(300, 16))
    base, tuned = 0.5 + seeds, 0.35 + seeds
    found = frechet_difference(base, tuned, reference, splits=10)
    assert found.verdict == "better" and found.ci95[1] < 0
    alone = [frechet_with_interval(one, reference, splits=10)[1] for one in (base, tuned)]
    assert found.ci95[1] - found.ci95[0] < 0.7 * np.hypot(*(high - low for low, high in alone))
    assert frechet_difference(base, base, reference, splits=10).verdict.startswith("not distinguishable")
    with pytest.raises(ValueError, match="one size"):
        frechet_difference(base, tuned[:100], reference)


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def test_metric_gives_value_interval_floor_and_sizes():
    x, y = tensors(features(150, 24, shift=0.4), features(400, 24, seed=1))
    score = FrechetVideoDistance().compute(x, y, None, seed=0)
    assert score.value == pytest.approx(frechet_distance_from_features(x, y))
    assert score.ci95[0] < score.value < score.ci95[1]
    assert score.floor < score.ci95[0]
    assert score.n == 150 and score.details["floor_n"] == [150, 250]
    assert score == FrechetVideoDistance().compute(x, y, None, seed=0)


def test_floor_shrinks_to_half_the_reference_where_there_is_no_more():
    x, y = tensors(features(200, 24), features(200, 24, seed=1))
    assert FrechetVideoDistance().compute(x, y, None, seed=0).details["floor_n"] == [100, 100]


@pytest.mark.parametrize("n", [1, 64, 127])
def test_too_few_clips_give_no_number_but_a_reason(n):
    x, y = tensors(features(n, 8), features(300, 8))
    for sides in ((x, y), (y, x)):
        score = FrechetVideoDistance().compute(*sides, None, seed=0)
        assert score.value is None and score.ci95 is None
        assert "at least 128 clips a side" in score.reason and str(n) in score.reason
    assert FrechetVideoDistance().compute(y, None, None, seed=0).value is None


def test_a_sample_size_is_met_exactly_or_not_at_all():
    x, y = tensors(features(256, 8), features(256, 8, seed=1))
    enough = FrechetVideoDistance2048(sample_size=256).compute(x, y, None, seed=0)
    assert enough.value == pytest.approx(frechet_distance_from_features(x, y)) and enough.n == 256
    short = FrechetVideoDistance2048(sample_size=257).compute(x, y, None, seed=0)
    assert short.value is None and "257" in short.reason
    assert "2048" in FrechetVideoDistance2048().compute(x, y, None, seed=0).reason


def test_repeats_are_seeded_draws_with_their_spread():
    x, y = tensors(features(400, 8, shift=0.3), features(400, 8, seed=1))
    metric = FrechetVideoDistance(sample_size=200, repeats=5)
    score = metric.compute(x, y, None, seed=0)
    assert len(score.details["repeats"]) == 5 and score.details["std"] > 0
    assert score.value == pytest.approx(np.mean(score.details["repeats"]))
    assert score == metric.compute(x, y, None, seed=0)
    assert score.value != metric.compute(x, y, None, seed=1).value


def test_a_second_computation_does_not_remember_the_first():
    metric = FrechetVideoDistance()
    x, y, z = tensors(features(128, 8), features(128, 8, seed=1), features(128, 8, seed=2, shift=9))
    alone = metric.compute(x, y, None, seed=0)
    metric.compute(x, z, None, seed=0)
    assert metric.compute(x, y, None, seed=0) == alone


def test_infinity_is_lower_than_the_finite_distance_and_ranks_as_it_does():
    reference = features(400, 16, seed=1)
    found = []
    for shift in (0.0, 0.2, 0.4):
        x, y = tensors(features(200, 16, shift=shift), reference)
        infinite = FrechetVideoDistanceInfinity().compute(x, y, None, seed=0)
        assert infinite.value < FrechetVideoDistance().compute(x, y, None, seed=0).value
        assert abs(infinite.floor) < 0.2
        found.append(infinite.value)
    assert found == sorted(found)


def test_nan_features_raise_instead_of_scoring():
    x, y = tensors(features(128, 8), features(128, 8, seed=1))
    x[3, 2] = float("nan")
    with pytest.raises(ValueError, match="1 of 128 rows"):
        FrechetVideoDistance().compute(x, y, None, seed=0)


def test_frame_features_are_averaged_over_time():
    frames = torch.rand(3, 16, 512)
    assert torch.equal(FrechetSqueezeNetDistance().pool({"squeezenet": frames}), frames.mean(1))


def test_every_variant_is_registered_with_its_own_protocol():
    known = available_metrics()
    names = ["fvd", "fvd_inf", "fvd2048_16f", "fvd2048_16f_ddof0", "fvd_videomae", "frechet_squeezenet"]
    protocols = {str((name == "fvd_inf", known[name].extractor_keys, known[name].spec,
                      known[name]().parameters_of_protocol())) for name in names}
    assert len(protocols) == len(names)
    assert all(not known[name].higher_is_better for name in names)
