"""The one training loop of all stages. What a stage trains on, and its loss, is in the module of its name."""
from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from baselines.checkpoints import CARD, Checkpoint
from baselines.loop_state import Ema, Guard, has_diverged, rate_at, read_state, write_state
from baselines.muon import Muon
from baselines.sharding import check_sharding, gathered, optimizer_pieces, piece, shard_transformer, whole
from baselines.stage import Batch, ClosedForm, Draws, Shard, Stage
from baselines.tracking import LOG, open_trackers
from evalkit.commands.run import check_writable
from evalkit.errors import UsageError
from evalkit.results import write_atomic

BETAS = (0.9, 0.98)
STATE, CONFIG, SUMMARY = "state.pt", "config.json", "summary.json"
MAY_CHANGE = (  # between a stopped run and its resumption
    "out", "cache", "max_failures", "log_every", "save_every", "eval_every", "accumulate", "workers", "device",
    "compile", "attention", "checkpointing", "shard", "trackers", "keep_every", "overwrite")
ADVISED = ("lr", "clip", "spike")  # where a run diverged, too, but not once it has ended


@dataclass(frozen=True)
class LoopConfig:
    """What every stage has: saved in the run's folder. Steps and batches are those of all processes together."""

    out: str = ""
    steps: int = 1000
    batch_size: int = 16  # clips, or pairs
    accumulate: int = 1  # parts in which a process computes its share of the batch
    optimizer: str = "adamw"  # or muon: faster where the whole transformer learns
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 50
    decay: str = "constant"  # or cosine
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.99
    seed: int = 0
    spike: float = 20.0  # times the recent median loss at which training stops
    log_every: int = 10
    save_every: int = 200
    keep_every: int = 0  # steps between checkpoints that are kept; 0: only the last
    eval_every: int = 0  # 0: never
    patience: int = 3  # evaluations of a rising proxy and a falling held-out value; 0: go on
    device: str = "auto"
    compile: bool = False  # of the blocks, on a GPU
    attention: str = ""  # on a GPU: a backend of diffusers, such as _native_cudnn, or fa4; default: what torch takes
    checkpointing: float = 0.0  # share of the blocks that compute their activations twice: less memory, more time
    shard: bool = False  # parameters, gradients and optimizer over all processes (FSDP): for what one GPU cannot hold
    trackers: tuple[str, ...] = ("tensorboard",)  # of accelerate; log.jsonl is always written
    overwrite: bool = False  # start anew in a folder that holds another run


def train(stage: Stage | ClosedForm, config: LoopConfig,
          progress: Callable[[str, int, int], None] = lambda *_: None) -> Checkpoint:
    """Train to the end and write the averaged weights to `config.out`; a run that was stopped goes on where it was.

    Diverged where a loss is no number or a spike, UsageError where the folder holds another run.
    """
    if isinstance(stage, ClosedForm):
        return solve(stage, config)
    run = _Run(stage, config)
    batches = stage.batches(run.step, run.shard)
    with interrupts() as is_interrupted:
        while run.step < config.steps and not run.stopped:
            batch = next(batches)
            run.advance(batch)
            progress(stage.name, run.step, config.steps)
            if run.is_due(config.log_every):
                run.log()
            if run.is_due(config.eval_every):
                run.evaluate()
            if run.is_due(config.save_every) and run.step < config.steps:
                run.save()
            if config.keep_every and run.step % config.keep_every == 0:
                run.write_model(run.out / f"step-{run.step:06d}")
            if is_interrupted():
                run.save()
                raise KeyboardInterrupt
    return run.finish()


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, so that the step can be ended and saved; pressed again, it stops at once.

    Not where there are several processes, which may be at different steps.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    alone = os.environ.get("WORLD_SIZE", "1") == "1" and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if alone:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        if alone:
            signal.signal(signal.SIGINT, before)


def solve(stage: ClosedForm, config: LoopConfig) -> Checkpoint:
    """Write what is learned at once, on the first process alone. UsageError where the folder holds another run."""
    begun, out = time.perf_counter(), Path(config.out)
    settle_folder(out, config)
    if os.environ.get("RANK", "0") != "0":
        return Checkpoint(stage.name, 0, stage.model.preset, "")
    card, found = stage.solve(out)
    _write_summary(out, {"steps": 0, "stopped": "", "evaluations": [found],
                         "seconds": round(time.perf_counter() - begun, 1), "checkpoint": card.identity})
    return card


class _Run:
    """One run: model and optimizer under accelerate, averaged weights, guard, logs, and where it stands."""

    def __init__(self, stage: Stage, config: LoopConfig) -> None:
        from accelerate import Accelerator

        self.stage, self.config, self.out = stage, config, Path(config.out)
        if config.batch_size < 1 or config.accumulate < 1 or config.steps < 1:
            raise UsageError("--steps, --batch-size and --accumulate: expected at least 1 each")
        settle_folder(self.out, config)
        cpu = stage.model.device.type == "cpu"
        self.accelerator = Accelerator(cpu=cpu, gradient_accumulation_steps=config.accumulate,
                                       log_with=open_trackers(self.out, config.trackers), project_dir=str(self.out))
        self.accelerator.wait_for_everyone()  # the first process may just have removed another run's state
        self.shard = Shard(self.accelerator.process_index, self.accelerator.num_processes)
        if config.batch_size < self.shard.world * config.accumulate:
            raise UsageError(f"--batch-size {config.batch_size}: expected at least {self.shard.world} processes x "
                             f"{config.accumulate} parts")
        self._wrap()
        self.ema, self.guard = Ema(self.parameters, config.ema), Guard(config.spike)
        self.step, self.stopped, self.history, self._waiting = 0, "", [], []
        self._begun = time.perf_counter()
        self._resume()
        self.accelerator.init_trackers("run", init_kwargs={})

    def _wrap(self) -> None:
        config, model, module = self.config, self.stage.model, self.stage.module().train()
        on_gpu = model.device.type == "cuda"
        if config.checkpointing:
            checkpoint_blocks(module, config.checkpointing)
        if config.attention and on_gpu:
            model.set_attention(config.attention)
        if config.compile:
            model.compile(dynamic=False if self.stage.one_shape else None)  # None: after two shapes
        if config.shard:
            shard_transformer(module, model.device, model.dtype)
        self.network = module if config.shard else self.accelerator.prepare(module)
        self.parameters = self.stage.parameters()
        self.optimizer = self.accelerator.prepare(build_optimizer(self.parameters, config, fused=on_gpu))
        self.stage.install(self.network)

    def advance(self, batch: Batch) -> None:
        """One step of the optimizer."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_at(self.step, config.steps, config.warmup, config.decay)
        batch.draws = Draws(config.seed, self.step, config.batch_size, self.stage.model.device)
        edges = [round(k * len(batch) / config.accumulate) for k in range(config.accumulate + 1)]
        found: list[dict[str, Tensor]] = []
        norm = torch.zeros(())
        for start, stop in pairwise(edges):
            with self.accelerator.accumulate(self.network):  # FSDP reduces each part: whole gradients would be large
                losses = self.stage.loss(batch.part(start, stop))
                share = (stop - start) * config.accumulate * self.shard.world / config.batch_size
                self.accelerator.backward(losses["loss"] * share)  # uneven parts count by their rows
                if self.accelerator.sync_gradients:
                    norm = whole(self.accelerator.clip_grad_norm_(list(self.parameters.values()), config.clip))
                self.optimizer.step()
                self.optimizer.zero_grad()
                found.append({name: value.detach() * share for name, value in losses.items()})
        self.ema.update(self.step)
        means = {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}
        self._waiting.append((self.step, means, norm, batch.names))
        self.step += 1

    def is_due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.config.steps)

    def log(self) -> None:
        """Check and record the steps since the last time; Diverged where one was bad."""
        if not self._waiting:
            return
        steps, means, norms, names = zip(*self._waiting, strict=True)
        keys = list(means[0])
        table = torch.stack([torch.stack([one[key].float() for key in keys]) for one in means])  # (steps, keys)
        table = self.accelerator.reduce(table, "mean").cpu()
        gradients = torch.stack([norm.float().to(self.stage.model.device) for norm in norms]).cpu()
        self.guard.check(steps, table[:, keys.index("loss")], gradients, names, self.out)
        rate = self.optimizer.param_groups[-1]["lr"]
        self.accelerator.log(dict(zip(keys, table.mean(0).tolist(), strict=True)) | {
            "gradient": gradients.mean().item(), "lr": rate, "seconds": time.perf_counter() - self._begun}, self.step)
        self._waiting.clear()

    def evaluate(self) -> None:
        """Held-out numbers of the averaged weights; sets `stopped` where proxy and held-out part."""
        self.log()
        with self.ema.applied(), torch.no_grad(), torch.compiler.set_stance("force_eager"):  # other batches, few calls
            found = self.stage.evaluate(self.step)
        if not found:
            return
        self.history.append({"step": self.step} | found)
        self.accelerator.log({f"held-out/{name}": value for name, value in found.items()}, self.step)
        judged = [row for row in self.history if {"proxy", "held_out"} <= set(row)]
        if has_diverged([row["proxy"] for row in judged], [row["held_out"] for row in judged], self.config.patience):
            self.stopped = (f"step {self.step}: for {self.config.patience} evaluations the reward that is optimized "
                            "has risen while the held-out one has fallen")

    def save(self) -> None:
        self.log()
        main = self.accelerator.is_main_process
        state = gathered({
            "step": self.step, "weights": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(), "ema": self.ema.values,
            "guard": [self.guard.start, *self.guard.recent], "seconds": time.perf_counter() - self._begun,
            "history": self.history, "stage": self.stage.state()}, keep=main)
        if main:
            write_state(self.out / STATE, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = read_state(self.out / STATE, mapped=self.config.shard)
        if state is None:
            return
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(piece(state["weights"][name], parameter))
                self.ema.values[name].copy_(piece(state["ema"][name], parameter))
        rates = [group["initial_lr"] for group in self.optimizer.param_groups]  # may be others than before
        self.optimizer.load_state_dict(optimizer_pieces(state["optimizer"], self.optimizer))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"] = rate
        self.stage.load_state({name: piece(value, self.parameters.get(name))
                               for name, value in state["stage"].items()})
        self.guard.start, *self.guard.recent = state["guard"]
        self.step, self.history = state["step"], state["history"]
        self._begun -= state.get("seconds", 0.0)  # of the run before it was stopped

    def write_model(self, folder: Path) -> Checkpoint:
        """The averaged weights as a checkpoint of their own."""
        self.log()
        card, weights = None, gathered(self.ema.values, keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            card = self.stage.save(folder, self.step, weights)
        self.accelerator.wait_for_everyone()
        return card or Checkpoint(self.stage.name, self.step, self.stage.model.preset, "")

    def finish(self) -> Checkpoint:
        self.save()
        card = self.write_model(self.out)
        if self.accelerator.is_main_process:
            _write_summary(self.out, {
                "steps": self.step, "stopped": self.stopped, "evaluations": self.history,
                "seconds": round(time.perf_counter() - self._begun, 1), "checkpoint": card.identity})
        self.stage.install(self.stage.module())
        self.accelerator.end_training()
        return card


def _write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    write_atomic(out / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: LoopConfig, fused: bool) -> torch.optim.Optimizer:
    """AdamW, without decay of vectors, or Muon. UsageError for another name."""
    if config.optimizer == "muon":
        optimizer: torch.optim.Optimizer = Muon(parameters, config.lr, config.weight_decay, betas=BETAS, fused=fused)
    elif config.optimizer == "adamw":
        groups = [{"params": [p for p in parameters.values() if (p.ndim > 1) == matrices], "weight_decay": decay}
                  for matrices, decay in ((True, config.weight_decay), (False, 0.0))]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=BETAS,
                                      fused=fused)
    else:
        raise UsageError(f"--optimizer: expected adamw or muon, got {config.optimizer!r}")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def checkpoint_blocks(transformer: nn.Module, share: float) -> None:
    """Compute the activations of this share of the blocks, spread evenly, again on the way back, and keep the others'.

    UsageError for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"--checkpointing: expected a share from 0 to 1, got {share}")
    blocks = list(transformer.blocks)
    chosen = {id(block) for k, block in enumerate(blocks) if int((k + 1) * share) > int(k * share)}

    def run(block: nn.Module, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if id(block) in chosen else block(*inputs)

    transformer.enable_gradient_checkpointing(run)


def is_begun(out: Path) -> bool:
    """Whether the folder holds anything that was learned, or steps of a run that may still go on."""
    return any((out / name).exists() for name in (STATE, SUMMARY, CARD, LOG)) or any(out.glob("step-*"))


def settle_folder(out: Path, config: LoopConfig) -> None:
    """Save the configuration, on the first process; UsageError where `out` holds a run with another one, or is a file.
    """
    if not config.out:
        raise UsageError("--out: expected a folder for the run")
    if config.shard:
        check_sharding()
    if os.environ.get("RANK", "0") != "0":
        return
    check_writable(out)
    wanted = json.loads(json.dumps(asdict(config)))
    path = out / CONFIG
    if path.is_file() and not config.overwrite and is_begun(out):
        before = json.loads(json.dumps(asdict(type(config)()))) | json.loads(path.read_text())  # flags may be newer
        free = MAY_CHANGE if (out / SUMMARY).is_file() else (*MAY_CHANGE, *ADVISED)
        differ = [f"{name}: {before.get(name)!r}, now {value!r}" for name, value in wanted.items()
                  if before.get(name) != value and name not in free]
        if differ:
            raise UsageError(f"{out} holds a run with {'; '.join(differ)}. Give another --out, or --overwrite to start "
                             "anew there")
    elif config.overwrite:
        for name in (STATE, SUMMARY, LOG):
            (out / name).unlink(missing_ok=True)
    write_atomic(path, (json.dumps(wanted | {"overwrite": False}, indent=1) + "\n").encode())
