"""Intervals and paired tests for scores of videos that share prompts; numpy and scipy only, so tables need no torch."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite, sqrt

import numpy as np

Interval = tuple[float, float]
FEW_CLUSTERS = 10  # below this a bootstrap undercovers whatever the flavour: Student's t instead
EXACT_SIGN_FLIPS = 14  # prompts up to which all 2^n sign patterns are enumerated
_ROWS = 4_000_000  # numbers held at once while resampling


def cluster_bootstrap(values: Sequence[float], clusters: Sequence | None = None, *, level: float = 0.95,
                      draws: int = 5000, seed: int = 0) -> Interval | None:
    """Interval of the mean over videos when whole clusters (prompts) vary, not single videos; None below 2 clusters.

    values (N,) finite; clusters (N,) keys, None where every video stands alone. BCa bootstrap over clusters (Efron,
    1987), its levels widened by Student's t (Hesterberg, 2015); with fewer than 10 clusters the t interval of the
    same ratio mean. Covers .93-.97 for 10-40 and .89-.95 for 5 clusters, normal to exponential, where plain
    percentiles give .85-.95 and .80-.85. Neither the order of the videos nor other scores change it.
    """
    from scipy.special import ndtr, ndtri, stdtrit  # scipy.stats takes seconds to import

    sums, counts = _cluster_sums(values, clusters)
    k = len(sums)
    if k < 2:
        return None
    mean = sums.sum() / counts.sum()
    if k < FEW_CLUSTERS:
        error = sqrt(k / (k - 1) * np.sum((sums - mean * counts) ** 2)) / counts.sum()
        half = float(stdtrit(k - 1, (1 + level) / 2)) * error
        return float(mean - half), float(mean + half)
    means = _resampled_means(sums, counts, draws, np.random.default_rng(seed))
    if np.ptp(means) == 0:
        return float(mean), float(mean)
    near = 1e-9 * np.ptp(means)  # sums in another order differ in the last digit, and must still tie
    below = (np.mean(means < mean - near) + np.mean(means <= mean + near)) / 2
    below = np.clip(below, 1 / draws, 1 - 1 / draws)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    pull = left_out.mean() - left_out
    spread = np.sum(pull**2)
    skew = np.sum(pull**3) / (6 * spread**1.5) if spread > 0 else 0.0
    wide = sqrt(k / (k - 1)) * stdtrit(k - 1, np.array([(1 - level) / 2, (1 + level) / 2]))
    shifted = ndtri(below) + wide
    levels = ndtr(ndtri(below) + shifted / np.maximum(1 - skew * shifted, 0.1))
    low, high = np.quantile(means, levels)
    return float(min(low, mean)), float(max(high, mean))


def _cluster_sums(values: Sequence[float], clusters: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of values per cluster, in the order of the keys, bit-equal for any order of the input."""
    values = _finite(values, "values")
    if clusters is None:
        return np.sort(values), np.ones(len(values))
    keys, member = _members(clusters, len(values))
    order = np.lexsort((values, member))
    sums = np.bincount(member[order], weights=values[order], minlength=len(keys))
    return sums, np.bincount(member, minlength=len(keys)).astype(float)


def _members(clusters: Sequence, count: int) -> tuple[np.ndarray, np.ndarray]:
    if len(clusters) != count:
        raise ValueError(f"clusters: expected one key per value ({count}), got {len(clusters)}")
    return np.unique(np.asarray(clusters), return_inverse=True)


def _finite(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected a non-empty list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {int((~np.isfinite(array)).sum())} that are not")
    return array


def _resampled_means(sums: np.ndarray, counts: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    k, means = len(sums), []
    for start in range(0, draws, step := max(1, _ROWS // k)):
        index = rng.integers(0, k, (min(step, draws - start), k))
        means.append(sums[index].sum(1) / counts[index].sum(1))
    return np.concatenate(means)


@dataclass(frozen=True)
class PairedComparison:
    """B against A on the same prompts, in A's and B's own unit; `difference` is B minus A, a mean over prompts."""

    difference: float
    ci95: Interval | None  # of the difference; None with one prompt
    p_value: float  # two-sided sign-flip permutation test over prompts
    effect_size: float | None  # Cohen's d_z: difference / standard deviation over prompts; None where that is 0
    n_pairs: int
    n_prompts: int
    needed_prompts: int | None  # for 80 % power at this effect and level .05; None where no effect was seen
    verdict: str  # "better", "worse" (B, by the score's direction), or how many prompts would tell
    p_adjusted: float | None = None  # after Holm's correction over the metrics compared together


def compare_paired(a: Sequence[float], b: Sequence[float], clusters: Sequence | None = None,
                   clusters_b: Sequence | None = None, *, higher_is_better: bool = True, draws: int = 10_000,
                   seed: int = 0) -> PairedComparison:
    """Is B better than A? Scores are averaged per prompt, then compared prompt by prompt.

    a (N,), b (M,); clusters: the prompt of every value of a (None: pair by position), clusters_b of b (None: the
    same). Prompts that only one side has are left out. Raises ValueError where no prompt is shared.
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    if clusters is None:
        clusters = range(len(a))
    if clusters_b is None:
        if len(a) != len(b):
            raise ValueError(f"expected as many values of b as of a without clusters_b, got {len(b)} and {len(a)}")
        clusters_b = clusters
    mean_a, mean_b = _prompt_means(a, clusters), _prompt_means(b, clusters_b)
    shared = sorted(mean_a.keys() & mean_b.keys())
    if not shared:
        raise ValueError("expected at least one prompt that both sides have, got none")
    differences = np.array([mean_b[key] - mean_a[key] for key in shared])
    spread = float(differences.std(ddof=1)) if len(shared) > 1 else 0.0
    difference = float(differences.mean())
    effect = difference / spread if spread > 0 and isfinite(difference / spread) else None
    p_value = sign_flip_p(differences, draws=draws, seed=seed)
    needed = prompts_needed(effect)
    pairs = int(min(np.isin(list(clusters), shared).sum(), np.isin(list(clusters_b), shared).sum()))
    return PairedComparison(
        difference, sign_flip_interval(differences, draws=draws, seed=seed), p_value, effect, pairs, len(shared),
        needed, verdict(difference, p_value, len(shared), needed, higher_is_better))


def _prompt_means(values: np.ndarray, clusters: Sequence) -> dict:
    sums, counts = _cluster_sums(values, list(clusters))
    return dict(zip(np.unique(np.asarray(list(clusters))).tolist(), sums / counts, strict=True))


def sign_flip_p(differences: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that the differences (K,) are symmetric about 0: all 2^K signs up to K = 14, else sampled."""
    return _p_value(0.0, *_sign_flips(_finite(differences, "differences"), draws, seed))


def sign_flip_interval(differences: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> Interval | None:
    """The shifts that `sign_flip_p` does not reject at .05, so that interval and p-value never disagree.

    Below 6 prompts no sign-flip test can reject: Student's t interval there, None for a single prompt.
    """
    differences = _finite(differences, "differences")
    if len(differences) < 6 or np.ptp(differences) == 0:
        return cluster_bootstrap(differences)
    flips = _sign_flips(differences, draws, seed)
    mean, reach = float(differences.mean()), float(np.ptp(differences))
    low, high = (_last_accepted(mean, side * reach, flips) for side in (-1, 1))
    return low, high


def _sign_flips(differences: np.ndarray, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Flipped sums (S,) and the sums of their signs (S,).

    The first row flips nothing: it is what was seen, and counts among the sampled ones (Phipson & Smyth, 2010).
    """
    values = np.sort(differences)
    k = len(values)
    if k <= EXACT_SIGN_FLIPS:
        signs = 1 - 2.0 * ((np.arange(2**k)[:, None] >> np.arange(k)) & 1)
        return signs @ values, signs.sum(1)
    rng, sums, totals = np.random.default_rng(seed), [np.array([values.sum()])], [np.array([float(k)])]
    for start in range(0, draws, step := max(1, _ROWS // k)):
        signs = 1 - 2.0 * rng.integers(0, 2, (min(step, draws - start), k))
        sums.append(signs @ values)
        totals.append(signs.sum(1))
    return np.concatenate(sums), np.concatenate(totals)


def _p_value(shift: float, sums: np.ndarray, totals: np.ndarray) -> float:
    flipped = np.abs(sums - shift * totals)
    tie = 1e-12 * (np.abs(sums).max() + abs(shift) * totals[0])
    return float(np.mean(flipped >= flipped[0] - tie))


def _last_accepted(mean: float, reach: float, flips: tuple[np.ndarray, np.ndarray]) -> float:
    inside, outside = mean, mean + reach
    while _p_value(outside, *flips) >= 0.05:
        outside += reach
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if _p_value(middle, *flips) >= 0.05 else (inside, middle)
    return inside


def prompts_needed(effect_size: float | None, *, power: float = 0.8, level: float = 0.05) -> int | None:
    """Prompts at which a paired test sees d_z `effect_size` with `power`; Guenther's (1981) correction for t."""
    from scipy.special import ndtri

    if effect_size is None or effect_size == 0:
        return None
    alpha, beta = ndtri(1 - level / 2), ndtri(power)
    return ceil(((alpha + beta) / effect_size) ** 2 + alpha**2 / 2)


def verdict(difference: float, p_value: float, n_prompts: int, needed: int | None, higher_is_better: bool,
            level: float = 0.05) -> str:
    """One plain sentence part about B against A."""
    if p_value < level and difference != 0:
        return "better" if (difference > 0) == higher_is_better else "worse"
    text = f"not distinguishable with {n_prompts} prompt{'s' if n_prompts != 1 else ''}"
    if needed is None or needed <= n_prompts:
        return text
    return f"{text}; about {_two_digits(needed)} would be needed"


def _two_digits(count: int) -> int:
    scale = 10 ** max(0, len(str(count)) - 2)
    return ceil(count / scale) * scale


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def adjust(comparisons: Mapping[str, PairedComparison],
           higher_is_better: Mapping[str, bool]) -> dict[str, PairedComparison]:
    """The comparisons of several metrics with Holm-adjusted p-values, and verdicts that follow these."""
    adjusted = holm([comparison.p_value for comparison in comparisons.values()])
    return {
        name: replace(one, p_adjusted=p, verdict=verdict(one.difference, p, one.n_prompts, one.needed_prompts,
                                                         higher_is_better[name]))
        for (name, one), p in zip(comparisons.items(), adjusted, strict=True)
    }


@dataclass(frozen=True)
class UnpairedComparison:
    """B against A where each is one number for a whole set; `difference` is B minus A."""

    difference: float
    ci95: Interval | None
    p_value: float | None
    verdict: str


def compare_unpaired(a: float, ci_a: Interval | None, b: float, ci_b: Interval | None, *, n_a: int | None = None,
                     n_b: int | None = None, higher_is_better: bool = True) -> UnpairedComparison:
    """Is B better than A, from the two numbers and their 95 % intervals, taken as independent and normal?

    Two sets scored against one reference share its noise, so the true interval of the difference is narrower; use
    `evalkit.metrics.frechet.frechet_difference` where the features are at hand. A Fréchet distance depends on the
    number of clips: where n_a and n_b are given and differ, no verdict.
    """
    from scipy.special import ndtr, ndtri

    difference = b - a
    if n_a != n_b and None not in (n_a, n_b):
        return UnpairedComparison(difference, None, None, f"not comparable: {n_a} against {n_b} clips")
    if ci_a is None or ci_b is None:
        return UnpairedComparison(difference, None, None, "not comparable: an interval is missing")
    half = sqrt((ci_a[1] - ci_a[0]) ** 2 + (ci_b[1] - ci_b[0]) ** 2) / 2
    ci95 = (difference - half, difference + half)
    certain = float(difference == 0)
    p_value = float(2 * ndtr(-abs(difference) / half * ndtri(0.975))) if half > 0 else certain
    if p_value < 0.05:
        word = verdict(difference, p_value, 0, None, higher_is_better)
        return UnpairedComparison(difference, ci95, p_value, word)
    return UnpairedComparison(difference, ci95, p_value, "not distinguishable: the interval holds 0")


def spearman_with_interval(x: Sequence[float], y: Sequence[float], clusters: Sequence | None = None, *,
                           draws: int = 2000, seed: int = 0) -> tuple[float, Interval | None] | None:
    """Rank correlation of (N,) and (N,) with a 95 % bootstrap interval over clusters; None below 3 or if one is flat.

    The interval is None where fewer than 3 clusters vary.
    """
    x, y = _finite(x, "x"), _finite(y, "y")
    if len(x) != len(y):
        raise ValueError(f"expected as many y as x, got {len(y)} and {len(x)}")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    keys, member = _members(range(len(x)) if clusters is None else clusters, len(x))
    if len(keys) < 3:
        return _spearman(x, y), None
    order = np.lexsort((y, x, member))
    groups = np.split(order, np.cumsum(np.bincount(member))[:-1])
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        found.append(_spearman(x[rows], y[rows]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return _spearman(x, y), (float(low), float(high))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    rx, ry = rankdata(x) - (len(x) + 1) / 2, rankdata(y) - (len(y) + 1) / 2
    norm = sqrt((rx @ rx) * (ry @ ry))
    return float(rx @ ry / norm) if norm > 0 else float("nan")  # a resample may be flat; quantiles skip it


def auc_paired(good: Sequence[float], bad: Sequence[float],
               clusters: Sequence | None = None) -> tuple[float, Interval | None]:
    """Share of pairs in which good > bad, ties half, with Wilson's 95 % interval; pairs of a cluster count as one.

    good, bad (N,), paired by position. The interval is honest at 0 and 1, where a bootstrap has no width.
    """
    good, bad = _finite(good, "good"), _finite(bad, "bad")
    if len(good) != len(bad):
        raise ValueError(f"expected as many bad as good, got {len(bad)} and {len(good)}")
    sums, counts = _cluster_sums((good > bad) + 0.5 * (good == bad), clusters)
    share = float(sums.sum() / counts.sum())
    return share, wilson_interval(share, len(sums))


def wilson_interval(share: float, n: int) -> Interval:
    """Wilson's (1927) 95 % interval of a share of n independent cases, honest at 0 and 1 too."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # to the last digit at 0 and 1
