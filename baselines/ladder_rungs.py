"""The models of a ladder, each in a folder of its own, and what it is trained on; what is there is kept."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from baselines import dpo, pretrain, reward_gradient, sft
from baselines.pairs import Config as PairConfig
from baselines.pairs import label_samples
from baselines.sample import MANIFEST, sample
from baselines.sample import Config as SampleConfig
from baselines.train import SUMMARY, settle_folder, train
from evalkit.results import write_atomic
from rewards.data import read_pairs

Progress = Callable[[str, int, int], None]
PROXY, GUARDED, HELD_OUT = "farm", "guarded", "preference"  # climbed, climbed with a guard, and never in a loss
MATCHED = ("dpo-unguarded", "dpo-guarded")  # compared at one distance from sft: the farther one is scaled down
SWEPT_BETAS = (0.1,)  # times `beta`; beside it, and sft, where beta is without bound


@dataclass(frozen=True)
class Config:
    """`evalkit baseline ladder`; the defaults are those of the preset tiny: one GPU, minutes."""

    preset: str = "tiny"
    source: str = ""  # a pretrained checkpoint; default: pretrain one
    out: str = "runs/ladder"
    seed: int = 0  # of training; all ladders sample the same prompts and seeds
    device: str = "auto"
    rounds: int = 1  # of pairs and preference optimization
    pretrain_steps: int = 2600  # 0: as many as evalkit baseline pretrain
    prompts: int = 512  # held out, of the world's test split
    samples: int = 2  # of each prompt
    swept: int = 128  # of these prompts, for the points between the rungs
    sample_steps: int = 20
    guidance: float = 3.0
    sample_batch: int = 256
    rank: int = 32  # of all adapters
    sft_steps: int = 500
    sft_batch: int = 128
    sft_lr: float = 1e-3
    pair_prompts: int = 2048  # of the train split
    pair_samples: int = 6  # of each, which are compared, and of which best-of-n takes the best
    noise: float = 0.0  # share of the truth's labels that are turned
    dpo_steps: int = 120
    dpo_batch: int = 64  # pairs
    dpo_lr: float = 2e-4
    beta: float = 2000.0
    best_steps: int = 100  # of fine-tuning on the best of n
    climb_steps: int = 20  # along a reward's gradient, and twice as many without anchor
    climb_batch: int = 32
    climb_lr: float = 3e-4
    climb_sampling: int = 8  # sampling steps of a climb


SMOKE = {"pretrain_steps": 4, "prompts": 4, "swept": 2, "sample_steps": 2, "sample_batch": 8, "rank": 4,
         "sft_steps": 2, "sft_batch": 4, "pair_prompts": 4, "pair_samples": 2, "dpo_steps": 2, "dpo_batch": 2,
         "best_steps": 2, "climb_steps": 2, "climb_batch": 2, "climb_sampling": 2}
PRESETS: dict[str, dict[str, Any]] = {"tiny": {}, "smoke": SMOKE}
# Two CPU cores, to see whether all runs: too few steps and prompts for any claim.
FAST = {"prompts": 16, "swept": 4, "sample_steps": 10, "sample_batch": 8, "sft_steps": 30, "sft_batch": 16,
        "pair_prompts": 16, "pair_samples": 3, "dpo_steps": 20, "dpo_batch": 8, "best_steps": 20, "climb_steps": 10,
        "climb_batch": 4, "climb_sampling": 4}


@dataclass(frozen=True)
class Rung:
    """A model as it is sampled. axis, at: what is swept, and its value, of a point between the rungs.

    parent: the rung that it is compared with; proxy: the reward that it was trained on, if any.
    """

    name: str
    folder: str
    about: str
    parent: str = ""
    proxy: str = ""
    lora_scale: float = 1.0
    guidance: float = 0.0  # 0: the ladder's
    steps: int = 0
    axis: str = ""
    at: float = 0.0


def train_rungs(config: Config, progress: Progress = lambda *_: None) -> list[Rung]:
    """Train what is missing, from the bottom up. Errors as the stages."""
    base = config.source or _trained(pretrain, config, "pretrain", {
        "device": config.device, "steps": config.pretrain_steps} if config.pretrain_steps else {}, progress)
    curated = _trained(sft, config, "sft", _adapter(config, base) | {
        "steps": config.sft_steps, "batch_size": config.sft_batch, "lr": config.sft_lr}, progress)
    rungs = [Rung("pretrain", base, "pretrained on the world, two in five clips of it damaged"),
             Rung("sft", curated, "fine-tuned on clean clips of the world", "pretrain")]
    pairs = _sampled_pairs(config, "pairs", curated, progress)
    for label, name in (("truth", "dpo"), (PROXY, "dpo-unguarded"), (GUARDED, "dpo-guarded")):
        folder = _optimized(config, name, curated, pairs, label, config.beta, progress)
        rungs.append(Rung(name, folder, f"DPO on pairs labelled by {_told(label)}", "sft",
                          "" if label == "truth" else label))
    best = _trained(sft, config, "best-of-n", _adapter(config, curated) | {
        "data": str(_chosen(pairs, GUARDED)), "cache": str(pairs / "encoded"), "steps": config.best_steps,
        "batch_size": config.sft_batch, "lr": config.sft_lr / 2}, progress)
    rungs.insert(2, Rung("best-of-n", best, f"fine-tuned on the best of {config.pair_samples} own samples by {GUARDED}",
                         "sft", GUARDED))
    rungs += _climbs(config, curated, progress)
    truth = next(rung.folder for rung in rungs if rung.name == "dpo")
    return rungs + _rounds(config, truth, progress)


def train_betas(config: Config, curated: str, progress: Progress = lambda *_: None) -> dict[float, str]:
    """Beta -> a folder of DPO on the pairs that the truth labelled, beside the ladder's own beta."""
    betas = [config.beta * factor for factor in SWEPT_BETAS]
    return {beta: _optimized(config, f"dpo-beta-{beta:g}", curated, Path(config.out) / "pairs", "truth", beta, progress)
            for beta in betas}


def kept_steps(folder: str) -> dict[int, str]:
    """Step -> a checkpoint that training left on its way."""
    return {int(path.name.partition("-")[2]): str(path) for path in sorted(Path(folder).glob("step-*"))
            if (path / "model.json").is_file()}


def _climbs(config: Config, curated: str, progress: Progress) -> list[Rung]:
    common = _adapter(config, curated) | {
        "batch_size": config.climb_batch, "sample_steps": config.climb_sampling, "guidance": config.guidance}
    anchored = _trained(reward_gradient, config, "reward-gradient", common | {
        "reward": GUARDED, "steps": config.climb_steps, "lr": config.climb_lr}, progress)
    steps = 2 * config.climb_steps
    over = _trained(reward_gradient, config, "over-optimized", common | {
        "reward": PROXY, "steps": steps, "lr": 3 * config.climb_lr, "anchor": 0.0,
        "keep_every": -(-steps // 4)}, progress)
    return [Rung("reward-gradient", anchored, f"along the gradient of {GUARDED}, held near sft", "sft", GUARDED),
            Rung("over-optimized", over, f"far along the gradient of {PROXY}, held by nothing: a warning", "sft",
                 PROXY)]


def _rounds(config: Config, start: str, progress: Progress) -> list[Rung]:
    """What is sampled, labelled by the truth and optimized again, on top of the round before."""
    rungs, below, parent = [], start, "dpo"
    for number in range(2, config.rounds + 1):
        pairs = _sampled_pairs(config, f"pairs-{number}", below, progress)
        below = _optimized(config, f"dpo-{number}", below, pairs, "truth", config.beta, progress)
        rungs.append(Rung(f"dpo-{number}", below, f"round {number} of pairs and DPO", parent))
        parent = f"dpo-{number}"
    return rungs


def _optimized(config: Config, name: str, below: str, pairs: Path, label: str, beta: float, progress: Progress) -> str:
    file = pairs / f"{label}.jsonl"
    if not file.is_file():
        margin = PairConfig.margin if label == "truth" else 0.0  # rewards have other units
        label_samples(replace(_pair_config(config, pairs, below), label=label, margin=margin), file, progress)
    return _trained(dpo, config, name, _adapter(config, below) | {
        "pairs": str(file), "cache": str(pairs / "encoded"), "beta": beta, "steps": config.dpo_steps,
        "batch_size": config.dpo_batch, "lr": config.dpo_lr, "keep_every": -(-config.dpo_steps // 3)}, progress)


def _sampled_pairs(config: Config, name: str, below: str, progress: Progress) -> Path:
    """The folder in which the samples of `below` lie, to be labelled."""
    out = Path(config.out) / name
    if not (out / "samples" / MANIFEST).is_file():
        settings = _pair_config(config, out, below)
        own = {field.name: getattr(settings, field.name) for field in fields(SampleConfig)}
        sample(SampleConfig(**own | {"out": str(out / "samples")}), progress)
    return out


def _chosen(pairs: Path, label: str) -> Path:
    """A manifest of the samples that a label's pairs chose: each prompt's best."""
    chosen = {(pairs / pair.chosen).resolve() for pair in read_pairs(pairs / f"{label}.jsonl").pairs}
    samples = pairs / "samples"
    rows = [row for row in (samples / MANIFEST).read_text().splitlines()
            if (samples / json.loads(row)["path"]).resolve() in chosen]
    return write_atomic(samples / f"best-by-{label}.jsonl", "".join(f"{row}\n" for row in rows).encode())


def _pair_config(config: Config, out: Path, below: str) -> PairConfig:
    return PairConfig(source=below, out=str(out), prompts=f"world:{config.pair_prompts}:train",
                      samples=config.pair_samples, steps=config.sample_steps, guidance=config.guidance,
                      batch_size=config.sample_batch, seed=config.seed * 1_000_000, noise=config.noise, format="npy",
                      device=config.device)


def _adapter(config: Config, below: str) -> dict[str, Any]:
    return {"source": below, "rank": config.rank}


def _trained(module: ModuleType, config: Config, name: str, settings: Mapping[str, Any], progress: Progress) -> str:
    """The folder of the stage's checkpoint. UsageError where it holds another run."""
    wanted = module.Config(**module.PRESETS[config.preset] | {
        "preset": config.preset, "out": str(Path(config.out) / name), "seed": config.seed, "device": config.device,
        "eval_every": 0, "log_every": 50, "trackers": ()} | settings)
    settle_folder(Path(wanted.out), wanted)
    if not (Path(wanted.out) / SUMMARY).is_file():
        train(module.build(wanted), wanted, lambda _, done, of: progress(f"training {name}", done, of))
    return wanted.out


def _told(label: str) -> str:
    return "the truth" if label == "truth" else label
