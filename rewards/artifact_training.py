"""Fitting the artifact detector to dialled defects over the made-up world and real clips, split by clip throughout."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.errors import UsageError
from evalkit.features.weights import sha256_of
from evalkit.mini.weights import load_weights, save_weights
from evalkit.results import write_atomic
from evalkit.workers import available_cores
from rewards.artifact_clips import Examples, Progress, joined, real_to_train, world_to_train
from rewards.artifact_detector import ANSWERS, CARD, WEIGHTS, ArtifactDetector, ArtifactNetwork
from rewards.detection import detection
from rewards.hack_clips import FIRST_JUDGING_SEED, real_videos
from rewards.injectors import HELD_OUT, INJECTORS, LABELS
from rewards.preference_clips import shuffled

BATCH, RATE, DECAY, MIX = 256, 2e-3, 0.05, 0.4
FEWEST = 20  # clips with and without a label from which its calibration can be fitted


@dataclass(frozen=True)
class Config:
    """What a run does; saved in its card."""

    out: str
    world: int = 9600  # scenes of the made-up world, from seed 0 on, one window of each
    clips: tuple[str, ...] = ()  # real videos, spelt as `evalkit.data.datasets.find_videos` has it; the tuning part
    draws: int = 20  # windows of each real video, with defects of their own
    epochs: int = 24
    held_out: float = 0.1  # of the clips, to be judged by; as many more calibrate
    seed: int = 0
    workers: int | None = None  # None: all cores
    features: str | None = None  # where measured clips are kept; None: the folder "features" in `out`


@dataclass(frozen=True)
class Trained:
    """The network as it was written, and its card."""

    network: ArtifactNetwork
    card: dict[str, Any]


def train(config: Config, progress: Progress = lambda *_: None, command: str = "") -> Trained:
    """Measure, fit, calibrate, judge, and write WEIGHTS and CARD to `config.out`.

    Real videos of the judging part (`rewards.hack_clips`) are left out. A run that was killed goes on from the clips it
    has measured, with the same result. UsageError for unusable numbers and videos.
    """
    begun = time.monotonic()
    out = Path(config.out)
    examples, videos = read_examples(config, progress)
    fitting, calibrating, judging = (examples[rows] for rows in split_by_clip(
        examples.sources, (1 - 2 * config.held_out, config.held_out, config.held_out), config.seed))
    network = fit(fitting.statistics, answers_of(fitting), config.epochs, config.seed,
                  lambda done, of: progress("epochs", done, of))
    calibrate(network, calibrating.statistics, answers_of(calibrating))
    save_weights(network, out / WEIGHTS)
    load_weights(network, out / WEIGHTS)  # half precision on disk: the card speaks of what was written
    card = {
        "kind": "video-evalkit artifact detector", "version": ArtifactDetector.version,
        "sha256": sha256_of(out / WEIGHTS), "command": command, "config": asdict(config),
        "backbone": f"{examples.statistics.shape[1]} weight-free statistics",
        "injectors": {label: list(names) for label, names in INJECTORS.items()}, "never trained on": HELD_OUT,
        "n": {"clips": len(examples.sources), "real videos": videos, "fitted": len(fitting.sources),
              "calibrated": len(calibrating.sources), "judged": len(judging.sources)},
        "held_out": judge(network, judging), "seconds": round(time.monotonic() - begun, 1),
    }
    write_atomic(out / CARD, (json.dumps(card, indent=1) + "\n").encode())
    return Trained(network, card)


def read_examples(config: Config, progress: Progress = lambda *_: None) -> tuple[Examples, int]:
    """The clips that `config` asks for, measured, and the number of real videos. UsageError where there are none."""
    if not 0 < config.world <= FIRST_JUDGING_SEED:
        raise UsageError(f"expected 1 to {FIRST_JUDGING_SEED} scenes of the world, got {config.world}")
    folder = Path(config.features) if config.features else Path(config.out) / "features"
    workers = config.workers or available_cores()
    try:
        videos = real_videos(config.clips, "tune") if config.clips else []
        if config.clips and not videos:
            raise ValueError(f"{', '.join(config.clips)}: all videos are of the judging part, see rewards.hack_clips")
        parts = [world_to_train(folder, 0, config.world, config.seed, workers, progress)]
        if videos:
            parts.append(real_to_train(folder, videos, config.draws, config.seed, workers, progress))
    except ValueError as error:
        raise UsageError(str(error)) from error
    return joined(parts), len(videos)


def split_by_clip(sources: np.ndarray, shares: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """Rows of each part, about `shares` of the sources each, so that no source is in two parts.

    UsageError where a part would be left without a source.
    """
    names = np.unique(sources)
    order = np.random.default_rng([seed, 43]).permutation(len(names))
    parts = np.split(order, np.round(np.cumsum(shares)[:-1] * len(names)).astype(int))
    if any(not len(part) for part in parts):
        raise UsageError(f"expected clips of more sources to split into {list(shares)}, got {len(names)}")
    return [np.isin(sources, names[part]).nonzero()[0] for part in parts]


def answers_of(examples: Examples) -> Tensor:
    """(N, 5) of zeros and ones, columns as ANSWERS."""
    return torch.cat([examples.labels, examples.labels.amax(1, keepdim=True)], dim=1)


def fit(statistics: Tensor, answers: Tensor, epochs: int, seed: int = 0,
        progress: Callable[[int, int], None] = lambda *_: None) -> ArtifactNetwork:
    """A network fitted by cross-entropy and mixup to (N, K) statistics and (N, answers) of zeros and ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ArtifactNetwork(statistics.shape[1], answers=answers.shape[1]).train()
        network.standardise(statistics)
        generator = torch.Generator().manual_seed(seed)
        steps = epochs * max(1, round(len(statistics) / BATCH))
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, max(1, steps))
        for epoch in range(epochs):
            for rows in shuffled(len(statistics), BATCH, generator):
                optimizer.zero_grad()
                mixed, told = mixup(statistics[rows], answers[rows])
                F.binary_cross_entropy_with_logits(network.raw(mixed), told).backward()
                optimizer.step()
                schedule.step()
            progress(epoch + 1, epochs)
    return network.eval()


def mixup(statistics: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Every row mixed with another by a random share of at most one half (Zhang et al., 2018); torch's own dice."""
    share = torch.distributions.Beta(MIX, MIX).sample((len(answers), 1))
    share, other = torch.maximum(share, 1 - share), torch.randperm(len(answers))
    return tuple(share * one + (1 - share) * one[other] for one in (statistics, answers))


@torch.no_grad()
def calibrate(network: ArtifactNetwork, statistics: Tensor, answers: Tensor) -> None:
    """Platt's (1999) slope and shift of every answer's log odds, by maximum likelihood on clips held out."""
    from scipy.optimize import minimize

    odds = network.raw(statistics).double().numpy()
    for k, truth in enumerate(answers.double().numpy().T):
        if min(truth.sum(), (1 - truth).sum()) < FEWEST:
            continue

        def loss(x: np.ndarray, column: np.ndarray = odds[:, k], truth: np.ndarray = truth) -> float:
            told = np.exp(x[0]) * column + x[1]
            return float(np.mean(np.logaddexp(0, told) - truth * told))

        slope, shift = minimize(loss, np.zeros(2), method="Nelder-Mead").x
        network.slope[k], network.shift[k] = float(np.exp(slope)), float(shift)


def judge(network: ArtifactNetwork, examples: Examples) -> dict[str, Any]:
    """AUROC, balanced accuracy and F1 of each answer that some clips give and some do not; JSON-ready."""
    with torch.no_grad():
        chances = network(examples.statistics).sigmoid().numpy()
    truth = answers_of(examples).bool().numpy()
    return {name: asdict(detection(chances[:, k], truth[:, k], examples.sources))
            for k, name in enumerate(ANSWERS) if 0 < truth[:, k].sum() < len(truth)}


def describe(card: dict[str, Any]) -> Sequence[str]:
    """The card's held-out figures, a line for each answer."""
    lines = [f"{'':10}{'AUROC':>7}  {'95 %':14} {'balanced':>9} {'F1':>6} {'n':>6} {'with it':>8}"]
    for name in (*LABELS, "any"):
        if name in card["held_out"]:
            one = card["held_out"][name]
            span = "[{:.3f}, {:.3f}]".format(*one["auroc"]["ci95"]) if one["auroc"]["ci95"] else ""
            lines.append(f"{name:10}{one['auroc']['value']:7.3f}  {span:14} {one['balanced_accuracy']['value']:9.3f} "
                         f"{one['f1']['value']:6.3f} {one['n']:6} {one['positives']:8}")
    return lines
