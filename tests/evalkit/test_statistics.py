"""Intervals and paired tests against scipy, closed forms, brute force and simulation."""
import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from evalkit.statistics import (
    adjust,
    auc_paired,
    cluster_bootstrap,
    compare_paired,
    compare_unpaired,
    holm,
    prompts_needed,
    sign_flip_interval,
    sign_flip_p,
    spearman_with_interval,
)


def coverage(draw, truth, repeats=250):
    hits = 0
    for seed in range(repeats):
        values, clusters = draw(np.random.default_rng(seed))
        low, high = cluster_bootstrap(values, clusters, draws=1000, seed=seed)
        hits += low <= truth <= high
    return hits / repeats


@pytest.mark.parametrize("prompts", [5, 12, 40])
def test_interval_covers_when_seeds_of_a_prompt_are_alike(prompts):
    def draw(rng):
        level = rng.normal(size=(prompts, 1)) + 0.3 * rng.normal(size=(prompts, 4))
        return level.ravel(), np.repeat(np.arange(prompts), 4)

    assert 0.91 <= coverage(draw, 0.0) <= 0.99


def test_ignoring_prompts_would_undercover():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 8)
    by_prompt = cluster_bootstrap(values, np.repeat(np.arange(20), 8))
    by_video = cluster_bootstrap(values)
    assert np.ptp(by_prompt) > 2 * np.ptp(by_video)


def test_interval_of_skewed_values_covers():
    assert 0.90 <= coverage(lambda rng: (rng.exponential(size=20), None), 1.0) <= 0.99


def test_interval_approaches_the_t_interval():
    values = np.random.default_rng(3).normal(5, 2, 2000)
    low, high = stats.t.interval(0.95, 1999, values.mean(), stats.sem(values))
    assert cluster_bootstrap(values) == pytest.approx((low, high), rel=3e-3)


def test_few_clusters_give_the_t_interval_exactly():
    values = [1.0, 2.0, 4.0]
    assert cluster_bootstrap(values) == pytest.approx(stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)))


def test_interval_ignores_the_order_of_videos():
    rng = np.random.default_rng(1)
    values, clusters = rng.normal(size=200), rng.integers(0, 30, 200).astype(str)
    order = rng.permutation(200)
    assert cluster_bootstrap(values, clusters) == cluster_bootstrap(values[order], clusters[order])
    assert cluster_bootstrap(values) == cluster_bootstrap(values[order])


def test_interval_is_seeded_and_does_not_touch_the_global_generator():
    values = np.random.default_rng(1).normal(size=50)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert cluster_bootstrap(values, seed=1) == cluster_bootstrap(values, seed=1)
    assert cluster_bootstrap(values, seed=1) != cluster_bootstrap(values, seed=2)
    assert (np.random.get_state()[1] == before).all()


def test_one_cluster_has_no_interval_and_equal_values_have_no_width():
    assert cluster_bootstrap([1.0, 2.0], ["a", "a"]) is None
    assert cluster_bootstrap([0.5] * 20) == (0.5, 0.5)


def test_interval_refuses_nan_and_wrong_lengths():
    with pytest.raises(ValueError, match="finite"):
        cluster_bootstrap([1.0, float("nan")])
    with pytest.raises(ValueError, match="one key per value"):
        cluster_bootstrap([1.0, 2.0], ["a"])


def test_sign_flip_equals_brute_force():
    differences = np.random.default_rng(0).normal(0.4, 1, 9)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=9)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-12)


def test_sampled_sign_flip_equals_scipy():
    differences = np.random.default_rng(0).normal(0.3, 1, 30)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20000,
                                      random_state=0).pvalue
    assert sign_flip_p(differences) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("k", "shift"), [(8, 0.6), (12, 0.5), (30, 0.35), (30, 0.4)])
def test_interval_and_p_value_of_a_difference_agree(k, shift):
    for seed in range(20):
        differences = np.random.default_rng(seed).normal(shift, 1, k)
        low, high = sign_flip_interval(differences, draws=2000)
        assert (low <= 0 <= high) == (sign_flip_p(differences, draws=2000) >= 0.05)


def test_interval_of_a_difference_covers():
    hits = 0
    for seed in range(200):
        low, high = sign_flip_interval(np.random.default_rng(seed).normal(0.3, 1, 20), draws=500)
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_sampled_p_value_is_never_zero():
    assert sign_flip_p(np.ones(40) + np.arange(40) / 100, draws=1000) == pytest.approx(1 / 1001)


def test_p_values_are_uniform_without_an_effect():
    p = [sign_flip_p(np.random.default_rng(seed).normal(size=12)) for seed in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_needed_prompts_give_the_promised_power():
    needed, rng = prompts_needed(0.4), np.random.default_rng(0)
    p = stats.ttest_1samp(rng.normal(0.4, 1, (4000, needed)), 0, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.02)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_real_gain_is_better_and_its_mirror_worse():
    rng = np.random.default_rng(0)
    base, prompts = rng.normal(size=80), np.repeat(np.arange(40), 2)
    gained = base + 0.5 + 0.2 * rng.normal(size=80)
    up, down = compare_paired(base, gained, prompts), compare_paired(gained, base, prompts)
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert compare_paired(base, gained, prompts, higher_is_better=False).verdict == "worse"
    assert up.difference == pytest.approx(-down.difference)
    assert up.ci95[0] < 0.5 < up.ci95[1]
    assert (up.n_pairs, up.n_prompts) == (80, 40)
    per_prompt = (gained - base).reshape(40, 2).mean(1)
    assert up.effect_size == pytest.approx(per_prompt.mean() / per_prompt.std(ddof=1))


def test_pairing_sees_what_the_spread_between_prompts_hides():
    rng = np.random.default_rng(0)
    base = 10 * rng.normal(size=30)
    gained = base + 0.1 + 0.05 * rng.normal(size=30)
    assert stats.ttest_ind(base, gained).pvalue > 0.5
    assert compare_paired(base, gained).verdict == "better"


def test_verdict_says_how_many_prompts_would_tell():
    pattern = np.tile([1.0, -1.0], 20) + 0.22
    found = compare_paired(np.zeros(40), pattern)
    assert found.verdict == "not distinguishable with 40 prompts; about 170 would be needed"
    assert found.needed_prompts == prompts_needed(found.effect_size) == 169


def test_equal_scores_are_not_distinguishable():
    found = compare_paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.p_value, found.effect_size, found.needed_prompts) == (1.0, None, None)
    assert found.verdict == "not distinguishable with 3 prompts"


def test_unequal_numbers_of_seeds_are_compared_by_prompt():
    found = compare_paired([1.0, 3.0, 5.0], [4.0, 6.0, 9.0], ["a", "a", "b"], ["b", "a", "c"])
    assert found.n_prompts == 2
    assert found.difference == pytest.approx(((6 - 2) + (4 - 5)) / 2)
    with pytest.raises(ValueError, match="prompt"):
        compare_paired([1.0], [1.0], ["a"], ["b"])


def test_correction_over_metrics_changes_verdicts():
    differences = np.random.default_rng(4).normal(0.5, 1, 25)
    one = compare_paired(np.zeros(25), differences)
    assert one.p_value < 0.05 and one.verdict == "better"
    both = adjust({"a": one, "b": one, "c": one}, {"a": True, "b": True, "c": True})
    assert both["a"].p_adjusted == pytest.approx(min(1, 3 * one.p_value))
    assert both["a"].verdict.startswith("not distinguishable with 25 prompts")


def test_unpaired_comparison_by_intervals():
    assert compare_unpaired(10, (9, 11), 20, (19, 21), higher_is_better=False).verdict == "worse"
    near = compare_unpaired(10, (9, 11), 10.5, (9.5, 11.5))
    assert near.verdict.startswith("not distinguishable")
    assert near.ci95 == pytest.approx((0.5 - 2**0.5, 0.5 + 2**0.5))
    assert compare_unpaired(10, (9, 11), 20, (19, 21), n_a=128, n_b=256).p_value is None


def test_spearman_equals_scipy_and_its_interval_covers():
    hits = 0
    for seed in range(40):
        x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60).T
        rho, (low, high) = spearman_with_interval(x, y, draws=200)
        assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
        hits += low <= 6 / np.pi * np.arcsin(0.3) <= high  # population Spearman of a Gaussian pair
    assert hits >= 34
    assert spearman_with_interval([1, 1, 1], [1, 2, 3]) is None


def test_paired_auc_counts_ties_half_and_is_honest_at_one():
    assert auc_paired([1, 2, 3, 4], [0, 2, 4, 1])[0] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    share, (low, high) = auc_paired(np.ones(20), np.zeros(20))
    assert share == 1.0 and high == 1.0
    expected = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-6)
    _, (clustered, _) = auc_paired(np.ones(20), np.zeros(20), np.arange(20) // 4)
    assert clustered < low


def test_statistics_needs_no_torch():
    code = "import sys, evalkit.statistics as s; s.cluster_bootstrap([1., 2., 3.]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
