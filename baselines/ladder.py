"""The whole story, measured: a model pretrained, fine-tuned and aligned, every rung sampled and scored alike."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.checkpoints import load_model, read_card
from baselines.ladder_rungs import MATCHED, Config, Progress, Rung, kept_steps, train_betas, train_rungs
from baselines.ladder_sampling import COMPARED, HeldOutSamples, distance, matching_scale
from baselines.ladder_scores import Scores, keep_grid, score_frames
from baselines.ladder_summary import PLAN, SCORES, TIMES, write_summary
from baselines.model import VideoDiffusion
from evalkit.devices import choose_device
from evalkit.results import write_atomic

LORA_SCALES, GUIDANCES, STEPS = (0.5, 1.5, 2.0), (1.0, 2.0, 5.0), (5, 10)


def climb(config: Config, progress: Progress = lambda *_: None) -> Path:
    """Train, sample and score what is missing in `config.out`; returns its ladder.json. Errors as the stages."""
    ladder = _Ladder(config, progress)
    with ladder.timed("training"):
        rungs = train_rungs(config, progress)
        betas = train_betas(config, rungs[1].folder, progress)
    ladder.open(rungs)
    with ladder.timed("rungs"):
        ladder.real_clips()
        rungs = ladder.matched(rungs)
        for done, rung in enumerate(rungs, 1):
            ladder.measure(rung)
            progress("rungs", done, len(rungs))
    with ladder.timed("points"):
        points = list(points_between(config, rungs, betas))
        for done, point in enumerate(points, 1):
            ladder.measure(point)
            progress("points between them", done, len(points))
    write_atomic(Path(config.out) / PLAN, _json({"config": asdict(config), "rungs": [asdict(rung) for rung in rungs],
                                                 "points": [asdict(point) for point in points]}))
    return write_summary([Path(config.out)], Path(config.out))


def points_between(config: Config, rungs: list[Rung], betas: dict[float, str]) -> Iterator[Rung]:
    """What is swept: scale of an adapter, guidance and sampling steps, for which nothing is trained; beta; training."""
    by_name = {rung.name: rung for rung in rungs}

    def point(rung: Rung, axis: str, at: float, **changes: Any) -> Rung:
        return replace(rung, name=f"{rung.name}@{axis}={at:g}", parent=rung.name, axis=axis, at=at, **changes)

    for name in ("dpo", "dpo-unguarded"):
        rung = by_name[name]
        yield from (point(rung, "lora_scale", at, lora_scale=at) for at in LORA_SCALES)
    for name in ("sft", "dpo"):
        yield from (point(by_name[name], "guidance", at, guidance=at) for at in GUIDANCES)
    yield from (point(by_name["dpo"], "sampling_steps", at, steps=at) for at in STEPS)
    yield from (point(by_name["dpo"], "beta", at, folder=folder) for at, folder in betas.items())
    for name in ("dpo", *MATCHED, "over-optimized"):
        rung = by_name[name]
        kept, last = kept_steps(rung.folder), read_card(rung.folder).step
        kept[last] = rung.folder
        yield from (point(rung, "training", at, folder=folder, lora_scale=1.0)
                    for at, folder in kept.items() if at != last or name in MATCHED)


class _Ladder:
    """What scoring a rung needs, and what it leaves: scores/NAME.npz and, written last, scores/NAME.json."""

    def __init__(self, config: Config, progress: Progress) -> None:
        self.config, self.progress, self.out = config, progress, Path(config.out)
        self.device = torch.device(choose_device(config.device))

    def open(self, rungs: list[Rung]) -> None:
        self.ref_model = self._load(rungs[1].folder)
        self.reference = rungs[1].name
        self.held = HeldOutSamples(self.config, self.ref_model)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds to seconds.json: a ladder may take several calls."""
        start, path = time.perf_counter(), self.out / TIMES
        try:
            yield
        finally:
            spent = json.loads(path.read_text()) if path.is_file() else {}
            spent[what] = round(spent.get(what, 0.0) + time.perf_counter() - start, 1)
            write_atomic(path, _json(spent))

    def measure(self, rung: Rung) -> None:
        """Sample and score, unless that was done of this very checkpoint and in this very way."""
        card = read_card(rung.folder)
        facts = self._settings() | asdict(rung) | {"checkpoint": card.identity, "step": card.step}
        if self._is_done(rung.name, facts):
            return
        model = self._load(rung.folder, rung.lora_scale)
        count = self.config.swept * self.config.samples if rung.axis else len(self.held.prompts)
        frames = self.held(model, count, rung.guidance, rung.steps)
        if rung.name not in ("pretrain", self.reference):
            facts |= distance(model, self.ref_model, frames, self.held.text)
        self._keep(rung.name, frames, facts, model.preset.fps)

    def real_clips(self) -> None:
        """The ceiling: real clips of the same prompts, and their VAE round trip where there is one."""
        model = self.ref_model
        wanted = {"reference": self.held.reference, "real": self.held.real}
        if model.vae is not None:
            wanted["real-vae"] = lambda: _round_trip(model, self.held.real())
        for name, make in wanted.items():
            if not self._is_done(name, self._settings()):
                self._keep(name, make(), self._settings(), model.preset.fps)

    def matched(self, rungs: list[Rung]) -> list[Rung]:
        """With the farther one of the two reward-labelled DPO rungs scaled down to the nearer one's distance."""
        pair = [rung for rung in rungs if rung.name in MATCHED]
        path = self.out / SCORES / "matched.json"
        identities = [read_card(rung.folder).identity for rung in pair]
        found = json.loads(path.read_text()) if path.is_file() else {}
        if found.get("checkpoints") != identities:
            kls = [self._distance_of(rung.folder) for rung in pair]
            far, near = (pair[k].folder for k in (int(kls[1] > kls[0]), int(kls[1] <= kls[0])))
            scale = matching_scale(far, min(kls), self.held, self.ref_model) if min(kls) > 0 else 1.0
            found = {"checkpoints": identities, "scales": {Path(far).name: scale, Path(near).name: 1.0},
                     "kl before": dict(zip((rung.name for rung in pair), kls, strict=True))}
            write_atomic(path, _json(found))
        return [replace(rung, lora_scale=found["scales"].get(rung.name, rung.lora_scale)) for rung in rungs]

    def _distance_of(self, folder: str) -> float:
        model = self._load(folder)
        frames = self.held(model, COMPARED)
        return distance(model, self.ref_model, frames, self.held.text)["kl"]

    def _load(self, folder: str, lora_scale: float = 1.0) -> VideoDiffusion:
        model = load_model(folder, lora_scale).to(self.device)
        model.transformer.eval()
        model.compile()
        return model

    def _settings(self) -> dict[str, Any]:
        names = ("prompts", "samples", "swept", "sample_steps", "guidance")
        return {f"ladder_{name}": getattr(self.config, name) for name in names}

    def _is_done(self, name: str, facts: dict[str, Any]) -> bool:
        path = self.out / SCORES / f"{name}.json"
        if not path.is_file():
            return False
        kept = json.loads(path.read_text())
        return all(kept.get(key) == value for key, value in json.loads(_json(facts)).items())

    def _keep(self, name: str, frames: Tensor, facts: dict[str, Any], fps: float) -> None:
        folder = self.out / SCORES
        found: Scores = score_frames(frames, self.held.prompts[: len(frames)], fps, self.device)
        found.save(folder / f"{name}.npz")
        if not facts.get("axis"):
            keep_grid(self.out, name, frames, self.held.prompts, fps)
        write_atomic(folder / f"{name}.json", _json(facts | {"fps": fps}))


@torch.no_grad()
def _round_trip(model: VideoDiffusion, frames: Tensor) -> Tensor:
    return torch.cat([(255 * model.decode(model.encode(part))).round().to(torch.uint8) for part in frames.split(64)])


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
