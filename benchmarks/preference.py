"""Does the learned preference find what is truly better? `python benchmarks/preference.py [--out DIR]`.

Trained on pairs of the made-up world whose labels are wrong with probability 0, 0.2 and 0.4; judged against the truth
on held-out worlds (`--first` and the seeds after it): none to two defects a side, severities drawn independently.
Wilson intervals. True ties (qualities that differ by 0.02 or less) are left out, save in "with ties", beside its floor,
the share of ties.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import tyro

GAPS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # of true overall quality


@dataclass(frozen=True)
class Config:
    n: int = 2100  # held-out pairs
    first: int = 1_000_000  # the seed of the first of them
    pairs: int = 4000  # to train with, of which a tenth calibrates
    noises: tuple[float, ...] = (0.0, 0.2, 0.4)
    synthetic: int = 9600
    seed: int = 0
    out: str = "preference-benchmark"  # trained folders and measured clips; a killed run goes on


def main(config: Config) -> None:
    from evalkit.data.truth import make_preference
    from evalkit.workers import available_cores
    from rewards.preference_clips import world_examples
    from rewards.train import Config as Training
    from rewards.train import judge, margins_of, train

    out = Path(config.out)
    trained = {noise: train(Training(str(out / f"noise-{noise:.0%}"), world=config.pairs, noise=noise,
                                     synthetic=config.synthetic, seed=config.seed, features=str(out / "features")),
                            command=f"evalkit rewards train --world {config.pairs} --noise {noise}")
               for noise in config.noises}
    first = config.first
    examples = world_examples(out / "held-out", first, config.n, 0.0, available_cores())
    pairs = [make_preference(first + k) for k in range(config.n)]
    gap = torch.tensor([pair.margins["overall"] for pair in pairs]).abs()
    margins = {noise: margins_of(one.network, examples) for noise, one in trained.items()}
    labels = examples.labels

    wrong = [f"{noise:.0%} wrong" for noise in trained]
    print(f"{config.n} held-out pairs, {config.pairs} to train with.\n")
    _head("labels wrong", "dimension", "accuracy", "95 %", "n", "with ties", "tie floor", "ECE")
    for noise, one in trained.items():
        calibrations = {name: type(each)(each.temperature, 0.0) for name, each in one.calibrations.items()}  # truth
        for name, found in judge(margins[noise], labels, calibrations, one.thresholds).items():
            share, ties = found["accuracy"], found["accuracy_with_ties"]
            print(f"| {noise:.0%} | {name} | {share['value']:.3f} | {_span(share['ci95'])} | {share['n']} | "
                  f"{ties['value']:.3f} {_span(ties['ci95'])} | {found['tie_floor']:.3f} | "
                  f"{found.get('ece', math.nan):.3f} |")
    print("\nOverall, by how far apart the true qualities are:\n")
    _head("gap", "n", *wrong)
    for low, high in pairwise(GAPS):
        _row(f"{low} to {high}", (gap > low) & (gap <= high), margins, labels)
    print("\nOverall, by how much the sums of the severities of either side's defects differ:\n")
    _head("severities apart", "n", *wrong)
    apart = torch.tensor([abs(_severity(pair.a) - _severity(pair.b)) for pair in pairs])
    for low, high in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 10)):
        name = f"{low}" if low == high else f"{low} to {high}"
        _row(name, (apart >= low) & (apart <= high), margins, labels)
    print("\nFitted share of wrong labels (overall): "
          + ", ".join(f"{noise:.0%}: {one.calibrations['overall'].flip:.3f}" for noise, one in trained.items())
          + "; seconds: " + ", ".join(str(one.card["seconds"]) for one in trained.values()))


def _severity(version) -> int:
    return sum(defect.severity for defect in version.defects)


def _head(*names: str) -> None:
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")


def _row(name: str, rows: torch.Tensor, margins: dict[float, torch.Tensor], labels: torch.Tensor) -> None:
    from rewards.losses import accuracy

    if bool(rows.any()):
        shares = [accuracy(margin[rows, 3], labels[rows, 3]) for margin in margins.values()]
        print(f"| {name} | {shares[0].n} | " + " | ".join(map(_share, shares)) + " |")


def _share(share) -> str:
    return f"{share.value:.3f} {_span(share.ci95)}" if share.n else "none"


def _span(ci95) -> str:
    return f"[{ci95[0]:.3f}, {ci95[1]:.3f}]" if ci95 else ""


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
