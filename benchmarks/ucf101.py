"""The ucf101 preset for real: 529 training clips of six classes, one H200, minutes; samples against the 202 test clips.

    python benchmarks/ucf101.py prepare --packed ucf101.npz                    # where PyAV is
    python benchmarks/ucf101.py train --packed ucf101.npz --out runs/ucf101    # one GPU, no PyAV
    python benchmarks/ucf101.py score --out runs/ucf101                        # anywhere, from what train left

`train` runs what `evalkit baseline vae, pretrain, sft, pairs, dpo, sample` run, and goes on where it was stopped. Every
set has as many clips of each class as the test set. Sets made of real clips are made of training clips, drawn anew from
the same ones. A clip is 17 frames at 8 a second; a video shorter than that gives all it has, spread over 17.
"""
from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from ucf101_clips import FPS, blur, comparisons, read_clips, unpack, write_packed
from ucf101_tables import METRICS, SPACES, measure, point_of, tables, verdict

from baselines import dpo, pairs, pretrain, sft, vae
from baselines.checkpoints import load_model
from baselines.ladder_rungs import kept_steps
from baselines.ladder_scores import Scores, keep_grid, score_frames
from baselines.sample import Config as SampleConfig
from baselines.sample import sample
from baselines.stage import Stage
from baselines.train import SUMMARY, train
from evalkit.devices import choose_device
from evalkit.results import write_atomic

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
KEPT, STRONGER = 8, 2.0  # checkpoints of pretraining that are sampled; guidance that the best is sampled with, too
NEW = 0.95  # share of samples that have to be farther from training clips than one in twenty test clips
JUDGED_IN = ("layout", "features")  # where they have to; in pixels, whatever is smooth is near to something
BLOCK = 8  # pixels
RECORD = "record.json"
Sets = dict[str, dict[str, dict[str, Any]]]  # set of clips -> set metric -> what `measure` says


class Job:
    """A run of `train`: its folder, its flags, and the record of what was found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.data = args, args.out, args.out / "data"
        self.device = choose_device(args.device)
        path = self.out / RECORD
        self.record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {
            "seconds": {}, "steps": {}, "samples": {}, "controls": {}}

    def save(self) -> None:
        write_atomic(self.out / RECORD, (json.dumps(self.record, indent=1) + "\n").encode())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        took = self.record["seconds"][name] = self.record["seconds"].get(name, 0) + time.perf_counter() - start
        print(f"[{name}: {took:.1f} s]", flush=True)
        self.save()

    def fit(self, name: str, module: Any, keep: int = 0, **given: Any) -> str:
        """Train a stage to its end, keeping so many checkpoints on the way; returns its folder."""
        folder = self.out / name
        if (folder / SUMMARY).is_file():
            return str(folder)
        common = {"out": str(folder), "device": self.args.device, "cache": str(self.out / "encoded"), "trackers": (),
                  "save_every": 10**9}
        config = module.Config(**module.PRESETS["ucf101"] | {"preset": self.args.preset} | common | given)
        if self.args.batch:
            config = replace(config, batch_size=self.args.batch, warmup=1)
        if self.args.steps:
            config = replace(config, steps=self.args.steps)
        if keep:
            config = replace(config, keep_every=-(-config.steps // keep))
        with self.timed(name):
            stage = module.build(config)
            if isinstance(stage, Stage):
                print(f"{name}: {config.steps} steps of {config.batch_size}, lr {config.lr:g}", flush=True)
            train(stage, config, told(config.steps))
            summary = json.loads((folder / SUMMARY).read_text())
            self.record["steps"][name] = summary["steps"]
        if not summary["steps"]:
            print(f"{name}: {summary['evaluations'][0]}", flush=True)
        return str(folder)

    def samples(self, name: str, source: str, guidance: float) -> tuple[Tensor, list[str]]:
        """As many of each class as the test set has, class by class."""
        counts = Counter(read_clips(self.data, "test")[1])
        folder = self.out / "samples" / name
        with self.timed("samples"):
            sample(SampleConfig(source=source, prompts=str(self.data / "classes.txt"), out=str(folder), format="npy",
                                samples=max(counts.values()), steps=self.args.sample_steps, guidance=guidance,
                                batch_size=self.args.sample_batch, device=self.args.device))
        paths = [(folder / f"{k:04d}-{n}.npy", prompt) for k, prompt in enumerate(sorted(counts))
                 for n in range(counts[prompt])]
        frames = torch.from_numpy(np.stack([np.load(path) for path, _ in paths])).permute(0, 1, 4, 2, 3).contiguous()
        return frames, [prompt for _, prompt in paths]

    def judge(self, name: str, frames: Tensor, prompts: Sequence[str]) -> Scores:
        """Scores of a set, kept in scores/NAME.npz, with a few of its clips in grids."""
        path = self.out / "scores" / f"{name}.npz"
        if not path.is_file():
            with self.timed("scoring"):
                keep_grid(self.out, name, frames, prompts, FPS)
                numbered = [f"{prompt} {k}" for k, prompt in enumerate(prompts)]  # classes differ in size: no groups
                score_frames(frames, numbered, FPS, self.device, METRICS).save(path)
        return Scores.load(path)

    def candidate(self, name: str, source: str, guidance: float, bank: Bank, sets: Sets) -> tuple[bool, float, float]:
        """Sample, judge and compare with the training clips; a key by which the better one is larger."""
        frames, prompts = self.samples(name, source, guidance)
        found = self.judge(name, frames, prompts)
        new, point = bank.novelty(frames, found), point_of("fvd_mini", found, bank.ref)
        mine = sets | {name: measure(found, bank.ref, False)}
        passed = sum(verdict(metric, mine, name)["passed"] for metric in sets["real"])
        self.record["samples"][name] = {"fvd_mini": point, "novelty": new, "source": source, "guidance": guidance,
                                        "passed": passed, "metrics": len(sets["real"]),
                                        "dynamic_degree": float(np.mean(found.values["dynamic_degree"]))}
        print(f"{name}: {self.record['samples'][name]}", flush=True)
        self.save()
        lowest = min(new[space] for space in JUDGED_IN)
        return lowest >= NEW, passed if lowest >= NEW else lowest, -point


class Bank:
    """All clips that were trained on, in every space, and how far test clips lie from them.

    Distances in pixels favour what is busy over what is smooth, copied or not: `controls` tells. Means of blocks do
    not, and copies that were blurred are still found.
    """

    def __init__(self, frames: Tensor, test: Tensor, ref: Scores, device: str) -> None:
        self.device, self.ref = device, ref
        features = score_frames(frames, [str(k) for k in range(len(frames))], FPS, device, ("fvd_mini",))
        self.clips = self.places(frames, features)
        self.limits = {space: float(np.quantile(far, 0.05)) for space, far in self.distances(test, ref).items()}

    def places(self, frames: Tensor, scores: Scores) -> dict[str, Tensor]:
        """Space -> (N, D) of uint8 (N, T, 3, H, W)."""
        blocks = [F.avg_pool2d(part.to(self.device).flatten(0, 1).float(), BLOCK).unflatten(0, part.shape[:2])
                  for part in frames.split(128)]
        return {"layout": torch.cat(blocks).flatten(1), "pixels": frames.to(self.device).flatten(1),
                "features": torch.from_numpy(scores.features["fvd_mini"]).double()}

    def distances(self, frames: Tensor, scores: Scores) -> dict[str, np.ndarray]:
        """Space -> (N,) distance to the nearest clip trained on; but for features root mean square, of 0 to 1."""
        found = {}
        for space, rows in self.places(frames, scores).items():
            if space == "features":
                found[space] = torch.cdist(rows, self.clips[space]).amin(1).numpy()
                continue
            nearest = torch.stack([torch.cdist(rows.float(), part.float()).amin(1) for part in
                                   self.clips[space].split(512)]).amin(0)
            found[space] = (nearest / 255 / rows.shape[1] ** 0.5).cpu().numpy()
        return found

    def novelty(self, frames: Tensor, scores: Scores) -> dict[str, float]:
        """Share of the clips that lie farther from all training clips than the 5th percentile of test clips."""
        found = self.distances(frames, scores)
        return {space: float((found[space] > self.limits[space]).mean()) for space in SPACES}

    def controls(self, test: Tensor, copied: Tensor) -> dict[str, dict[str, float]]:
        """The novelty of clips that copy nothing, though blurred, and of copies that were blurred or brightened."""
        bright = (1.1 * copied.float()).clamp_max(255).to(torch.uint8)
        sets = {f"test clips, blurred {BLOCK} x": blur(test, BLOCK), "copies, blurred 4 x": blur(copied, 4),
                "copies, a tenth brighter": bright}
        return {name: self.novelty(frames, score_frames(frames, [str(k) for k in range(len(frames))], FPS, self.device,
                                                        ("fvd_mini",))) for name, frames in sets.items()}


def told(steps: int) -> Callable[[str, int, int], None]:
    """Says now and then how fast it goes."""
    start = time.perf_counter()

    def tell(name: str, step: int, of: int) -> None:
        if step % max(1, steps // 10) == 0:
            print(f"  {name} {step}/{of}, {(time.perf_counter() - start) / step:.4f} s/step", flush=True)

    return tell


def run(args: argparse.Namespace) -> None:
    """The whole ladder. Of the checkpoints and guidances, the best that copies no more than test clips do goes on."""
    job = Job(args)
    if not (job.data / "classes.txt").is_file():
        with job.timed("unpack"):
            unpack(args.packed, job.data)
            test = read_clips(job.data, "test")[1]
            write_atomic(job.data / "classes.txt", "".join(f"{name}\n" for name in sorted(set(test))).encode())
    once = str(job.data / "once.jsonl")
    autoencoder = job.fit("vae", vae, data=once, whitening=args.whitening)
    base = job.fit("pretrain", pretrain, KEPT, data=str(job.data / "train.jsonl"), vae=autoencoder,
                   steps=args.pretrain_steps)
    test_frames, test = read_clips(job.data, "test")
    ref = job.judge("test", test_frames, test)
    sets: Sets = {}
    for name, frames, prompts in comparisons(job.data, test):
        sets[name] = measure(job.judge(name, frames, prompts), ref, False)
        if name == "real":
            job.judge("vae", through(job, base, frames), prompts)
            copied = frames
    bank = Bank(read_clips(job.data, "train")[0], test_frames, ref, job.device)
    job.record["controls"] = bank.controls(test_frames, copied)
    last = job.record["steps"]["pretrain"]
    sources = {Path(folder).name: folder for step, folder in kept_steps(base).items() if step < last} | {"end": base}
    keys = {name: job.candidate(name, source, args.guidance, bank, sets) for name, source in sources.items()}
    chosen = max(keys, key=keys.__getitem__)
    stronger = f"{chosen}-guidance-{STRONGER:g}"
    keys = {chosen: keys[chosen], stronger: job.candidate(stronger, sources[chosen], STRONGER, bank, sets)}
    best = max(keys, key=keys.__getitem__)
    job.record["chosen"] = {"samples": best, "limits": bank.limits}
    job.record["samples"]["pretrain"] = job.record["samples"][best]
    shutil.copyfile(job.out / "scores" / f"{best}.npz", job.out / "scores" / "pretrain.npz")
    align(job, job.record["samples"]["pretrain"], bank, sets)
    job.record["psnr"] = psnr(test_frames, through(job, base, test_frames))
    job.save()
    print(tables(job.out))


def align(job: Job, start: dict[str, Any], bank: Bank, sets: Sets) -> None:
    """SFT on the training clips that a reward likes best, then DPO on own samples that it ranks."""
    args, source, guidance = job.args, start["source"], start["guidance"]
    curated = job.fit("sft", sft, data=str(job.data / "once.jsonl"), source=source, reward=args.reward, select="top")
    folder = job.out / "pairs"
    if not (folder / pairs.FILE).is_file():
        with job.timed("pairs"):
            pairs.make_pairs(pairs.Config(
                source=curated, prompts=str(job.data / "classes.txt"), out=str(folder), format="npy", which="all",
                samples=args.pair_samples, seed=1000, steps=args.sample_steps, guidance=guidance, margin=args.margin,
                label=args.reward, batch_size=args.sample_batch, device=args.device))
    preferred = job.fit("dpo", dpo, pairs=str(folder / pairs.FILE), source=curated)
    for name, where in (("sft", curated), ("dpo", preferred)):
        job.candidate(name, where, guidance, bank, sets)


@torch.no_grad()
def through(job: Job, source: str, frames: Tensor) -> Tensor:
    """uint8 frames there and back through the latents of a checkpoint."""
    model = load_model(source).to(job.device)
    back = torch.cat([model.decode(model.encode(part)).cpu() for part in frames.split(job.args.sample_batch)])
    return (255 * back).round().to(torch.uint8)


def psnr(a: Tensor, b: Tensor) -> float:
    """Of uint8 frames, in dB."""
    return float(10 * (255**2 / (a.float() - b.float()).square().mean()).log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("prepare", "train", "score"))
    parser.add_argument("--packed", type=Path, default=Path("ucf101.npz"))
    parser.add_argument("--out", type=Path, default=Path("runs/ucf101"))
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--limit", type=int, default=0, help="videos of each class and part; 0: all")
    parser.add_argument("--preset", default="ucf101")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--whitening", type=float, default=vae.Config.whitening, help="of the codec's latents")
    parser.add_argument("--pretrain-steps", type=int, default=1600)
    parser.add_argument("--steps", type=int, default=0, help="of every stage, to see whether all runs")
    parser.add_argument("--batch", type=int, default=0, help="of every stage; 0: the preset's")
    parser.add_argument("--sample-steps", type=int, default=50)
    parser.add_argument("--sample-batch", type=int, default=128)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--pair-samples", type=int, default=24)
    parser.add_argument("--reward", default="guarded", help="what SFT's clips are chosen by, and DPO's pairs")
    parser.add_argument("--margin", type=float, default=0.01, help="of the reward, up to which a pair ties")
    args = parser.parse_args()
    if args.stage == "prepare":
        print(write_packed(args.assets / "data" / "ucf101" / "clips64", args.limit, args.packed))
    elif args.stage == "train":
        run(args)
    else:
        print(tables(args.out, intervals=True))


if __name__ == "__main__":
    main()
