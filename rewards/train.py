"""Fitting a preference reward to pairs: dialled defects first, then Bradley-Terry with ties, then a temperature."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.errors import UsageError
from evalkit.features.weights import sha256_of
from evalkit.mini.weights import load_weights, save_weights
from evalkit.results import write_atomic
from evalkit.workers import available_cores
from rewards.data import Pair, read_pairs, split_pairs
from rewards.fitting import fit_pairs, step
from rewards.losses import (
    Calibration,
    accuracy,
    accuracy_with_ties,
    best_tie_threshold,
    expected_calibration_error,
    fit_calibration,
    tie_floor,
)
from rewards.preference import CARD, WEIGHTS, Preference, PreferenceNetwork
from rewards.preference_clips import (
    DIMENSIONS,
    Examples,
    Labelled,
    Progress,
    file_examples,
    shuffled,
    synthetic_defects,
    world_examples,
)

Found = TypeVar("Found", bound=Labelled)
BATCH, RATE, TRUNK_RATE = 128, 3e-3, 3e-4
PRETRAIN_BATCH, PRETRAIN_RATE, PRETRAIN_DECAY = 256, 2e-3, 0.02
FEWEST = 20  # pairs that are no ties from which a temperature can be fitted


@dataclass(frozen=True)
class Config:
    """What a run does; saved in its card."""

    out: str
    pairs: str | None = None  # a JSONL file, see `rewards.data`
    world: int | None = None  # or this many pairs of the made-up world
    noise: float = 0.0  # of the world's annotator
    first: int = 0  # the world's first seed: below 500 000, where scenes of dialled defects begin
    synthetic: int = 9600  # clips with dialled defects
    pretrain_epochs: int = 24
    epochs: int = 24
    ties: bool = True  # False: the plain Bradley-Terry loss, a tie counting as half a win of each side
    held_out: float = 0.1  # of the pairs, to be judged by; as many more calibrate
    seed: int = 0
    max_failures: int = 0
    backbone: str | None = None  # LoRA on this CLIP (see `rewards.lora.open_backbone`); None: the embedded networks
    lora_rank: int = 16
    device: str = "cpu"  # with a backbone: "auto", "cuda", ...
    workers: int | None = None  # None: all cores
    features: str | None = None  # where measured clips are kept; None: the folder "features" in `out`


@dataclass(frozen=True)
class Trained:
    """The network, each dimension's calibration and tie threshold, and the card that was written."""

    network: nn.Module
    calibrations: dict[str, Calibration]
    thresholds: dict[str, float]
    card: dict[str, Any]


def train(config: Config, progress: Progress = lambda *_: None, say: Callable[[str], None] = lambda _: None,
          command: str = "") -> Trained:
    """Measure, fit, calibrate, judge, and write WEIGHTS and CARD to `config.out`.

    A run that was killed goes on from the clips it has measured, with the same result. UsageError for unusable pairs.
    """
    if config.backbone is not None:
        from rewards.train_lora import train_lora

        return train_lora(config, progress, say, command)
    begun = time.monotonic()
    out = Path(config.out)
    examples = read_examples(config, progress, say)
    statistics, severities = synthetic_defects(features_folder(config), config.synthetic, config.seed,
                                               config.workers or available_cores(), progress)
    parts = divide(examples.pairs, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PreferenceNetwork(statistics.shape[1])
        network.standardise(torch.cat([statistics, examples.statistics]))
        for told in pretrain(network, statistics, severities, config) if len(statistics) else ():
            progress("dialled defects", told["epoch"], config.pretrain_epochs)
        for told in fit(network, examples, parts[0], config):
            progress("preferences", told["epoch"], config.epochs)
    save_weights(network, out / WEIGHTS)
    load_weights(network, out / WEIGHTS)  # half precision on disk: the card speaks of what was written
    backbone = {"backbone": f"{statistics.shape[1]} weight-free statistics, mini_clip"}
    return finish(config, network, margins_of(network, examples), examples, parts, backbone, begun, command)


def divide(pairs: Sequence[Pair], config: Config) -> list[Tensor]:
    """Rows of the pairs to fit, to calibrate and to judge by; UsageError where there are too few."""
    try:
        parts = split_pairs(pairs, (1 - 2 * config.held_out, config.held_out, config.held_out), config.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return [torch.tensor(part) for part in parts]


def finish(config: Config, network: nn.Module, margins: Tensor, examples: Labelled, parts: Sequence[Tensor],
           backbone: dict[str, Any], begun: float, command: str) -> Trained:
    """Calibrate and judge the network, whose weights are written, by its margins (N, 4); write its card."""
    out = Path(config.out)
    fitting, calibrating, judging = parts
    calibrations, thresholds = calibrate(margins[calibrating], examples.labels[calibrating])
    card = {
        "kind": "video-evalkit preference", "version": Preference.version, "sha256": sha256_of(out / WEIGHTS),
        "command": command, "config": asdict(config), **backbone,
        "n": {"pairs": len(examples.pairs), "fitted": len(fitting), "calibrated": len(calibrating),
              "judged": len(judging), "videos left out": len(examples.failures)},
        "failures": examples.failures,
        "calibration": {name: asdict(one) for name, one in calibrations.items()}, "tie_thresholds": thresholds,
        "held_out": judge(margins[judging], examples.labels[judging], calibrations, thresholds),
        "shares": dict(zip(DIMENSIONS, network.shares.softmax(0).tolist(), strict=False)),
        "seconds": round(time.monotonic() - begun, 1),
    }
    write_atomic(out / CARD, (json.dumps(card, indent=1) + "\n").encode())
    return Trained(network, calibrations, thresholds, card)


def read_examples(config: Config, progress: Progress = lambda *_: None,
                  say: Callable[[str], None] = lambda _: None) -> Examples:
    """The pairs that `config` asks for, measured; UsageError where there are none or too many are bad."""
    folder, workers = features_folder(config), config.workers or available_cores()
    return read_with(config, say, lambda: world_examples(folder, config.first, config.world, config.noise, workers,
                                                         progress),
                     lambda pairs: file_examples(folder, pairs, Preference.spec, workers, progress))


def read_with(config: Config, say: Callable[[str], None], of_world: Callable[[], Found],
              of_files: Callable[[list[Pair]], Found]) -> Found:
    """What one of the two readers makes of the pairs that `config` asks for; UsageError as `read_examples`."""
    if (config.pairs is None) == (config.world is None):
        raise UsageError("expected either pairs (a JSONL file) or a number of pairs of the world")
    if config.world is not None:
        if config.world < 1:
            raise UsageError(f"expected at least 1 pair of the world, got {config.world}")
        try:
            return of_world()
        except ValueError as error:
            raise UsageError(str(error)) from error
    found = read_pairs(config.pairs, config.max_failures)
    for row in found.bad:
        say(f"left out: {row}")
    try:
        examples = of_files(found.pairs)
    except ValueError as error:
        raise UsageError(f"{config.pairs}: {error}") from error
    for failure in examples.failures:
        say(f"left out: {failure}")
    failed = len(found.bad) + len(examples.failures)
    if failed > config.max_failures or not examples.pairs:
        raise UsageError(f"{config.pairs}: {failed} rows and videos cannot be used, more than --max-failures "
                         f"{config.max_failures} allows; the first: {(examples.failures or found.bad)[0]}")
    return examples


def features_folder(config: Config) -> Path:
    """Where measured clips are kept."""
    return Path(config.features) if config.features else Path(config.out) / "features"


def pretrain(network: PreferenceNetwork, statistics: Tensor, severities: Tensor,
             config: Config) -> Iterator[dict[str, Any]]:
    """Teach the trunk which dialled defects a clip has and how severe: cross-entropy and squared error."""
    trunk = [*network.body.parameters(), *network.defects.parameters()]
    generator = torch.Generator().manual_seed(config.seed)
    steps = config.pretrain_epochs * max(1, round(len(statistics) / PRETRAIN_BATCH))
    optimizer = torch.optim.AdamW(trunk, weight_decay=PRETRAIN_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PRETRAIN_RATE, max(1, steps))
    network.train()
    for epoch in range(config.pretrain_epochs):
        total = 0.0
        for rows in shuffled(len(statistics), PRETRAIN_BATCH, generator):
            loss = defect_loss(*network.read_defects(statistics[rows]), severities[rows])
            step(optimizer, schedule, loss)
            total += loss.item() * len(rows) / len(statistics)
        yield {"epoch": epoch + 1, "loss": total}
    network.eval()


def defect_loss(presence: Tensor, severity: Tensor, truth: Tensor) -> Tensor:
    """Of logits and severities (B, defects) against true severities, 0 where absent: a mean over the batch."""
    present = (truth > 0).float()
    error = (severity - truth).square() * present
    return 10 * F.binary_cross_entropy_with_logits(presence, present) + error.sum() / present.sum().clamp_min(1)


def fit(network: PreferenceNetwork, examples: Examples, rows: Tensor, config: Config) -> Iterator[dict[str, Any]]:
    """Fit heads, and the trunk a little, to the labels of `rows`."""
    trunk = [*network.body.parameters(), *network.defects.parameters()]
    mine = {id(parameter) for parameter in trunk}
    heads = [parameter for parameter in network.parameters() if id(parameter) not in mine]
    return fit_pairs(network, lambda chosen: _margins(network, examples, chosen), examples.labels, rows, config,
                     [(heads, RATE), (trunk, TRUNK_RATE)], RATE, BATCH)


def _margins(network: PreferenceNetwork, examples: Examples, rows: Tensor) -> Tensor:
    """(B, 4) of DIMENSIONS."""
    first, second, prompt = examples.rows[rows].unbind(1)
    both = torch.cat([first, second])
    values = network(examples.statistics[both], examples.clips[both], examples.prompts[torch.cat([prompt, prompt])])
    values = values | {"overall": network.overall(values)}
    a, b = torch.stack([values[name] for name in DIMENSIONS], dim=1).tensor_split(2)
    return a - b


@torch.no_grad()
def margins_of(network: PreferenceNetwork, examples: Examples) -> Tensor:
    """(N, 4) margins of all pairs, columns as DIMENSIONS."""
    network.eval()
    return torch.cat([_margins(network, examples, rows) for rows in torch.arange(len(examples.rows)).split(1024)])


def calibrate(margins: Tensor, labels: Tensor) -> tuple[dict[str, Calibration], dict[str, float]]:
    """Temperature and share of wrong labels, and tie threshold, of each dimension that has enough labels."""
    calibrations, thresholds = {}, {}
    for k, name in enumerate(DIMENSIONS):
        told = labels[:, k].isfinite()
        if int((labels[told, k] != 0).sum()) >= FEWEST:
            calibrations[name] = fit_calibration(margins[told, k], labels[told, k])
        if bool(told.any()):
            thresholds[name] = best_tie_threshold(margins[told, k], labels[told, k])
    return calibrations, thresholds


def judge(margins: Tensor, labels: Tensor, calibrations: dict[str, Calibration],
          thresholds: dict[str, float]) -> dict[str, Any]:
    """Each dimension's accuracy with and without ties, tie floor and ECE against `labels`; JSON-ready."""
    found: dict[str, Any] = {}
    for k, name in enumerate(DIMENSIONS):
        told = labels[:, k].isfinite()
        if not bool(told.any()):
            continue
        margin, label = margins[told, k], labels[told, k]
        found[name] = {"accuracy": asdict(accuracy(margin, label)), "tie_floor": tie_floor(label)}
        if name in thresholds:
            found[name]["accuracy_with_ties"] = asdict(accuracy_with_ties(margin, label, thresholds[name]))
        if name in calibrations:
            one = calibrations[name]
            # what is judged are labels: the chance that an annotator names a is not that of a being better
            said = one.flip + (1 - 2 * one.flip) * one.probabilities(margin)
            found[name]["ece"] = expected_calibration_error(said, label)
    return found


def describe(card: dict[str, Any]) -> Sequence[str]:
    """The card's held-out figures, a line for each dimension."""
    lines = [f"{'':10}{'accuracy':>9}  {'95 %':14} {'n':>6}  {'with ties':>9}  {'floor':>6}  {'ECE':>6}"]
    for name, one in card["held_out"].items():
        share, ties = one["accuracy"], one.get("accuracy_with_ties")
        span = "[{:.3f}, {:.3f}]".format(*share["ci95"]) if share["ci95"] else ""
        with_ties = f"{ties['value']:9.3f}" if ties else " " * 9
        ece = f"{one['ece']:6.3f}" if "ece" in one else " " * 6
        lines.append(f"{name:10}{share['value']:9.3f}  {span:14} {share['n']:6}  {with_ties}  {one['tie_floor']:6.3f}  "
                     f"{ece}")
    return lines
