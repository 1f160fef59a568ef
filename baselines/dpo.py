"""Preference optimization without a reward: Flow-DPO (Wallace et al., 2023; Liu et al., 2025) and its relatives."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import objectives
from baselines.alignment import LARGE, WAN, AlignConfig, held_out_of, open_model, placed
from baselines.data import FAILURES, ClipStore, epoch_rows
from baselines.evaluation import HeldOut
from baselines.model import VideoDiffusion
from baselines.objectives import PairErrors
from baselines.stage import Batch, Shard, Stage, drop_text
from evalkit.data.items import VideoItem
from evalkit.errors import UsageError
from rewards.data import Pair, read_pairs

LOSSES = ("dpo", "sdpo", "ipo", "segments", "reference-free")
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "smoke": {"steps": 4, "batch_size": 4, "warmup": 1, "eval_every": 4, "eval_prompts": 2,
              "sample_steps": 2, "rank": 4, "trackers": ()},
    "ucf101": LARGE | {"steps": 100, "batch_size": 32, "beta": 2000.0, "lr": 2e-4},
    "webvid": LARGE | {"steps": 500, "batch_size": 16, "beta": 500.0, "lr": 5e-5},
    "wan2.1-1.3b": WAN | {"steps": 500, "batch_size": 4, "beta": 500.0, "lr": 2e-5, "accumulate": 4},
}


@dataclass(frozen=True)
class Config(AlignConfig):
    """`evalkit baseline dpo`; the defaults are those of the preset tiny."""

    out: str = "runs/dpo"
    pairs: str = ""  # pairs.jsonl
    loss: str = "dpo"  # dpo, sdpo (loser scaled), ipo, segments, reference-free (the ablation)
    beta: float = 2000.0
    convention: str = "diffusion-dpo"  # of beta: diffusion-dpo (half, mean), diffusers (no half), sum (half, no mean)
    schedule: str = "constant"  # of beta in t, or (1-t)^2
    segments: int = 4  # stretches of time, for --loss segments
    rank: int = 32
    steps: int = 120
    batch_size: int = 64  # pairs
    lr: float = 2e-4
    warmup: int = 20
    ema: float = 0.95
    no_text: float = 0.0
    eval_every: int = 60


class Preference(Stage):
    """Pairs of one prompt, both noised alike; ref_model is the transformer with its adapter off."""

    name = "dpo"

    def __init__(self, model: VideoDiffusion, store: ClipStore, pairs: Sequence[tuple[int, int]], config: Config,
                 held_out: HeldOut | None = None) -> None:
        self.model, self.store, self.pairs, self.config, self.held_out = model, store, pairs, config, held_out
        self._nothing = model.encode_prompts([""])
        self.beta = objectives.canonical_beta(config.beta, config.convention, math.prod(model.latent_shape))

    def batches(self, start: int, shard: Shard) -> Iterator[Batch]:
        step, rows = start, shard.rows(self.config.batch_size)
        while True:
            index = epoch_rows(len(self.pairs), step, self.config.batch_size, self.config.seed)
            mine = [self.pairs[index[row]] for row in rows]
            chosen, rejected = (self.store.rows([pair[k] for pair in mine]) for k in (0, 1))
            tensors = {"text": chosen.pop("text")} | {f"chosen {name}": value for name, value in chosen.items()}
            rejected.pop("text")
            tensors |= {f"rejected {name}": value for name, value in rejected.items()}
            yield Batch(tensors, [self._name(pair) for pair in mine], rows)
            step += 1

    def _name(self, pair: tuple[int, int]) -> str:
        return " over ".join(self.store.items[k].name for k in pair)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        chosen, rejected = (self._latents(batch, side) for side in ("chosen", "rejected"))
        text = drop_text(batch["text"], self._nothing, batch, config.no_text)
        noised = [self.noised(x, batch) for x in (chosen, rejected)]  # by the same draws
        x_t, target = (torch.cat([side[k] for side in noised]) for k in (0, 2))
        t, both = noised[0][1].repeat(2), text.repeat(2, 1, 1)
        ref = self.ref_velocity(x_t, t, both)  # first: switching adapters must not come between forward and backward
        predicted = self.model.velocity(x_t, t, both)
        if config.loss == "sdpo":
            predicted = self._scale_losers(predicted, target)
        count = config.segments if config.loss == "segments" else 1
        errors = PairErrors(*(half for one in (predicted, ref)
                              for half in objectives.segment_errors(one, target, count).chunk(2)))
        weight = objectives.schedule_weight(noised[0][1], config.schedule)
        logit = objectives.dpo_logit(errors, self.beta, weight[:, None])
        return {"loss": self._losses(errors, weight).mean(), "logit": logit.mean(),
                "logit_std": logit.std(correction=0), "agree": (logit > 0).float().mean(),
                "chosen": (errors.chosen - errors.ref_chosen).mean(),
                "rejected": (errors.rejected - errors.ref_rejected).mean(),
                "drift": objectives.squared_error(predicted, ref).mean()}

    def _losses(self, errors: PairErrors, weight: Tensor) -> Tensor:
        """(B,); one label for the whole pair counts for all of its segments."""
        config = self.config
        if config.loss == "segments":
            return objectives.segment_dpo_loss(errors, torch.ones_like(errors.chosen), self.beta, weight)
        flat = PairErrors(*(getattr(errors, name)[:, 0] for name in ("chosen", "rejected", "ref_chosen",
                                                                    "ref_rejected")))
        if config.loss == "ipo":
            return objectives.ipo_loss(flat, self.beta)
        if config.loss == "reference-free":
            return objectives.reference_free_loss(flat.chosen, flat.rejected, self.beta)
        return objectives.dpo_loss(flat, self.beta, weight)

    def _scale_losers(self, predicted: Tensor, target: Tensor) -> Tensor:
        (winner, loser), (won, lost) = predicted.chunk(2), target.chunk(2)
        scale = objectives.loser_scale(winner.detach() - won, loser.detach() - lost)
        return torch.cat([winner, objectives.scale_gradient(loser, scale.reshape(-1, 1, 1, 1, 1))])

    def _latents(self, batch: Batch, side: str) -> Tensor:
        name = f"{side} latents"
        return (batch[name] if name in batch.tensors else self.model.encode(batch[f"{side} frames"])).float()

    def evaluate(self, step: int) -> dict[str, float]:
        return {} if self.held_out is None else self.held_out(self.model)


def build(config: Config, progress: Callable[[str, int, int], None] = lambda *_: None) -> Preference:
    """The stage that a configuration asks for. UsageError for no pairs, ties alone, or a loss that is not known."""
    if config.loss not in LOSSES:
        raise UsageError(f"--loss: expected one of {', '.join(LOSSES)}, got {config.loss!r}")
    if config.schedule not in objectives.SCHEDULES:
        raise UsageError(f"--schedule: expected one of {', '.join(objectives.SCHEDULES)}, got {config.schedule!r}")
    if not config.pairs:
        raise UsageError("expected --pairs FILE; `evalkit baseline pairs` and `evalkit rewards label` make one")
    if config.rank < 1:
        raise UsageError("--rank: expected at least 1: with the adapter off, the model is its own reference")
    pairs = decided_pairs(config.pairs, config.max_failures)
    model, lora = open_model(config, config.rank)
    store, index = open_pairs(model, pairs, config, progress)
    return placed(Preference(model, store, index, config, held_out_of(config, model)), config, lora)


def decided_pairs(path: str, max_failures: int = 0) -> list[Pair]:
    """The overall answers of a file of pairs that are no ties; UsageError where there are none."""
    found = read_pairs(path, max_failures).pairs
    overall = [pair for pair in found if pair.dimension == "overall"]
    decided = [pair for pair in overall if not pair.tie]
    if not decided:
        ties = f"{len(overall)} are ties" if overall else "none is of the dimension overall"
        raise UsageError(f"{path}: expected at least one pair with a winner; of its {len(found)} pairs {ties}")
    return decided


def open_pairs(model: VideoDiffusion, pairs: Sequence[Pair], config: Config,
               progress: Callable[[str, int, int], None]) -> tuple[ClipStore, list[tuple[int, int]]]:
    """The clips of the pairs, and the pairs as rows of them; pairs with a clip that cannot be read are left out."""
    cache = config.cache or f"{config.out}/encoded"
    items = {pair_side: VideoItem(pair_side, pair_side, pair.prompt) for pair in pairs
             for pair_side in (pair.chosen, pair.rejected)}
    store = ClipStore(model, list(items.values()), cache)
    store.prepare(config.max_failures, Path(cache) / FAILURES, progress)
    rows = {item.name: k for k, item in enumerate(store.items)}
    kept = [(rows[pair.chosen], rows[pair.rejected]) for pair in pairs if {pair.chosen, pair.rejected} <= set(rows)]
    if not kept:
        raise UsageError(f"{config.pairs}: no pair is left: {len(store.failures)} of its videos cannot be used")
    return store, kept
