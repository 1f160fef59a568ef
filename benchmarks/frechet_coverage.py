"""How often the intervals of `fvd_inf` and `fvd` hold what they are about, on Gaussians whose distance is known.

Run `python benchmarks/frechet_coverage.py` (D=32, N=512, 1000 draws, a few minutes) or add
`--dim 400 --size 2048 --draws 60 --splits 10`.
"""
from __future__ import annotations

import argparse
import time

import numpy as np

from evalkit.metrics.frechet import frechet_distance, frechet_distance_from_features, frechet_infinity
from evalkit.metrics.subsets import splits_for

SCENES = ("equal", "near", "shifted", "far", "narrow", "rotated")


def make_pair(scene: str, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means and covariances of two Gaussians: from equal to far apart, from isotropic to a spectrum over e^4."""
    rng = np.random.default_rng(5)
    zero, one, identity = np.zeros(dim), np.ones(dim) / dim**0.5, np.eye(dim)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spectrum = np.exp(-4 * np.arange(dim) / dim)
    decaying = basis @ np.diag(spectrum) @ basis.T
    turned = 0.5 * decaying + 0.5 * basis @ np.diag(spectrum[::-1]) @ basis.T
    return {
        "equal": (zero, identity, zero, identity),
        "near": (zero, identity, 0.1**0.5 * one, 1.05 * identity),
        "shifted": (zero, identity, one, identity),
        "far": (zero, identity, 4 * one, identity),
        "narrow": (zero, identity, zero, 2 * decaying),
        "rotated": (zero, decaying, 0.3**0.5 * one, turned),
    }[scene]


def measure(scene: str, dim: int, size: int, draws: int, splits: int) -> str:
    """One line of the table."""
    start, (mean1, cov1, mean2, cov2) = time.perf_counter(), make_pair(scene, dim)
    truth = frechet_distance(mean1, cov1, mean2, cov2)
    root1, root2 = np.linalg.cholesky(cov1), np.linalg.cholesky(cov2)
    rng, limits, finite = np.random.default_rng(1), [], []
    for draw in range(draws):
        x = mean1 + rng.normal(size=(size, dim)) @ root1.T
        y = mean2 + rng.normal(size=(size, dim)) @ root2.T
        value, (low, high) = frechet_infinity(x, y, splits=splits, seed=draw)
        limits.append((value, low, high))
        finite.append(frechet_distance_from_features(x, y))
    value, low, high = np.array(limits).T
    covered = np.mean((low <= truth) & (truth <= high))
    biased = np.array(finite)  # the interval of `fvd` is as wide as that of `fvd_inf` but for the line's own noise
    covered_n = np.mean(np.abs(biased - biased.mean()) <= (high - low) / 2)
    return (f"| {scene} | {truth:.4f} | {biased.mean():.4f} | {value.mean():.4f} | {value.std(ddof=1):.4f} "
            f"| {np.mean(high - low) / 3.92:.4f} | **{covered:.3f}** | {covered_n:.3f} "
            f"| {time.perf_counter() - start:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--splits", type=int, default=None, help="random splits an interval (default: by size)")
    parser.add_argument("--scenes", default=",".join(SCENES))
    args = parser.parse_args()
    splits = args.splits or splits_for(args.size, args.size)
    print(f"D={args.dim}, N={args.size} a side, {args.draws} draws, {splits} splits an interval\n")
    print("| pair | true distance | mean FVD at N | mean FVD∞ | its std | mean standard error | FVD∞ covers truth "
          "| FVD covers its mean | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for scene in args.scenes.split(","):
        print(measure(scene, args.dim, args.size, args.draws, splits), flush=True)


if __name__ == "__main__":
    main()
