"""The ucf101 preset for real: 529 training clips of six classes, one H200, minutes; samples against the 202 test clips.

    python benchmarks/ucf101.py prepare --packed ucf101.npz                    # where PyAV is
    python benchmarks/ucf101.py train --packed ucf101.npz --out runs/ucf101    # one GPU, no PyAV
    python benchmarks/ucf101.py score --out runs/ucf101                        # anywhere, from what train left
    python benchmarks/ucf101.py redraw --out runs/ucf101                       # how much other real clips would change

`train` runs what `evalkit baseline vae, pretrain, sft, pairs, dpo, sample` run, and goes on where it was stopped. Every
set has as many clips of each class as the test set. Sets made of real clips are made of training clips, drawn anew from
the same ones. A clip is 17 frames at 8 a second; a video shorter than that gives all it has, spread over 17.
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ucf101_clips import FPS, VIEWS, blur, comparisons, draw_like, read_clips, trained_on, unpack, write_packed
from ucf101_copies import Bank
from ucf101_tables import COMPARED, DISTANCES, METRICS, markdown, measure, point_of, tables, verdict

from baselines import dpo, pairs, pretrain, sft, vae
from baselines.checkpoints import load_model
from baselines.ladder_rungs import kept_steps
from baselines.ladder_scores import Scores, keep_grid, score_frames
from baselines.model import VideoDiffusion
from baselines.stage import Stage
from baselines.train import SUMMARY, train
from evalkit.devices import choose_device
from evalkit.results import write_atomic

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
KEPT = 11  # checkpoints of pretraining; guidance leads from the first to the last
# Up to what each clip's guidance is drawn, and times that it acts on what moves: there is too much contrast before
# there is enough motion.
WAYS = ((1.5, 4.0), (2.0, 1.5), (2.0, 2.25), (2.0, 3.0), (2.5, 1.5), (2.5, 2.25), (3.0, 1.0), (3.0, 1.5))
GUIDED_ABOVE = 0.3  # time: below it the weaker network would be asked for nothing that shows
FINALISTS, FRESH = 3, 16  # ways to sample that are compared to the end; draws of the best
FIRST_FRESH = 100  # of draws that nothing was chosen by
REDRAWN = 40  # draws of real clips
# What is chosen should do a little better than asked: of many candidates the best one's numbers are lucky.
NEW = 0.955  # share of samples farther from training clips than one in twenty test clips; .95 is asked
MARGIN = 0.02  # of a damaged set's value
JUDGED_IN = ("layout", "features")  # where they have to; in pixels, whatever is smooth is near to something
RECORD = "record.json"
Sets = dict[str, dict[str, dict[str, Any]]]  # set of clips -> set metric -> what `measure` says


@dataclass(frozen=True)
class Way:
    """How a set is sampled: guided away from a weaker checkpoint, by 1 to `guidance_to`, more or less in motion."""

    source: str
    weaker: str
    guidance_to: float
    motion: float

    @property
    def name(self) -> str:
        return f"guidance 1 to {self.guidance_to:g}, {self.motion:g} times in motion"


def numbered(prompts: Sequence[str]) -> list[str]:
    """Prompts that differ: classes differ in size, so that their samples are no groups."""
    return [f"{prompt} {k}" for k, prompt in enumerate(prompts)]


class Job:
    """A run of `train`: its folder, its flags, and the record of what was found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.data = args, args.out, args.out / "data"
        self.device = choose_device(args.device)
        self.samplers: dict[tuple[str, str], VideoDiffusion] = {}
        path = self.out / RECORD
        self.record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {
            "seconds": {}, "steps": {}, "samples": {}, "ladder": {}, "controls": {}}

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
                  "save_every": 10**9, "seed": self.args.seed}
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

    def sampler(self, way: Way) -> VideoDiffusion:
        """Loaded and compiled once."""
        if (way.source, way.weaker) not in self.samplers:
            model = load_model(way.source).to(self.device)
            model.guide_away_from(load_model(way.weaker).to(self.device))
            model.compile()
            self.samplers[way.source, way.weaker] = model
        return self.samplers[way.source, way.weaker]

    def draw(self, way: Way, draw: int, test: Sequence[str]) -> Tensor:
        """uint8 (N, T, 3, H, W): as many of each class as the test set has, in its order."""
        model = self.sampler(way)
        seeds = [draw * 10_000 + k for k in range(len(test))]
        frames = []
        for start in range(0, len(test), self.args.sample_batch):
            here = slice(start, start + self.args.sample_batch)
            with torch.no_grad():
                made = model.sample(test[here], seeds[here], self.args.sample_steps, 1.0,
                                    guidance_to=way.guidance_to, guided_above=GUIDED_ABOVE,
                                    motion=way.motion)
            frames.append((255 * made).round().to(torch.uint8).cpu())
        return torch.cat(frames)

    def judge(self, name: str, frames: Tensor, prompts: Sequence[str]) -> Scores:
        """Scores of a set, kept in scores/NAME.npz, with a few of its clips in grids."""
        path = self.out / "scores" / f"{name}.npz"
        if not path.is_file():
            with self.timed("scoring"):
                keep_grid(self.out, name, frames, prompts, FPS)
                score_frames(frames, numbered(prompts), FPS, self.device, METRICS).save(path)
        return Scores.load(path)

    def candidate(self, way: Way, draw: int, compared: Compared) -> dict[str, Any]:
        """Draw a set and compare it, once."""
        name = f"{way.name}, draw {draw}"
        if name not in self.record["samples"]:
            with self.timed("candidates"):
                frames = self.draw(way, draw, compared.prompts)
                found = score_frames(frames, numbered(compared.prompts), FPS, self.device, COMPARED)
                self.record["samples"][name] = asdict(way) | {"draw": draw} | compared.of(frames, found)
            print(f"{name}: {self.record['samples'][name]}", flush=True)
        return self.record["samples"][name]

    def stage(self, name: str, way: Way, compared: Compared) -> None:
        """The first fresh set of a stage of the ladder, judged by all."""
        if name not in self.record["ladder"]:
            frames = self.draw(way, FIRST_FRESH, compared.prompts)
            found = self.judge(name, frames, compared.prompts)
            self.record["ladder"][name] = asdict(way) | {"draw": FIRST_FRESH} | compared.of(frames, found)
            self.save()


@dataclass
class Compared:
    """What a set of samples is compared with: the clips trained on, the sets made of real clips, the test prompts."""

    bank: Bank
    sets: Sets
    prompts: list[str]

    @cached_property
    def bars(self) -> dict[str, dict[str, Any]]:
        """Metric -> the best value of the damaged sets that it has to beat, and whether lower is better."""
        found = {}
        for metric, real in self.sets["real"].items():
            seen = verdict(metric, self.sets | {"mine": self.sets["real"]}, "mine")
            values = [self.sets[name][metric]["value"] for name in seen["beaten"] if name not in seen["blind"]]
            found[metric] = {"value": (min if real["lower"] else max)(values), "lower": real["lower"]}
        return found

    def of(self, frames: Tensor, found: Scores) -> dict[str, Any]:
        """JSON-ready: what it is worth, and which set metrics it does not beat the damaged sets on."""
        mine = self.sets | {"mine": measure(found, self.bank.ref, False)}
        fails = [metric for metric in self.sets["real"] if not verdict(metric, mine, "mine")["passed"]]
        return {"values": {metric: one["value"] for metric, one in mine["mine"].items()}, "fails": fails,
                "fvd_mini": point_of("fvd_mini", found, self.bank.ref), "passed": len(self.sets["real"]) - len(fails),
                "metrics": len(self.sets["real"]), "novelty": self.bank.novelty(frames, found),
                "dynamic_degree": float(np.mean(found.values["dynamic_degree"]))}


def told(steps: int) -> Callable[[str, int, int], None]:
    """Says now and then how fast it goes."""
    start = time.perf_counter()

    def tell(name: str, step: int, of: int) -> None:
        if step % max(1, steps // 10) == 0:
            print(f"  {name} {step}/{of}, {(time.perf_counter() - start) / step:.4f} s/step", flush=True)

    return tell


def run(args: argparse.Namespace) -> None:
    """The whole ladder. Of the ways to sample, the best that copies no more than test clips do goes on."""
    job = Job(args)
    if not (job.data / "classes.txt").is_file():
        with job.timed("unpack"):
            unpack(args.packed, job.data, args.places)
            test = read_clips(job.data, "test")[1]
            write_atomic(job.data / "classes.txt", "".join(f"{name}\n" for name in sorted(set(test))).encode())
    once = str(job.data / "once.jsonl")
    autoencoder = job.fit("vae", vae, data=once, whitening=args.whitening)
    base = job.fit("pretrain", pretrain, KEPT, data=str(job.data / "train.jsonl"), vae=autoencoder,
                   steps=args.pretrain_steps, **VIEWS)
    test_frames, test = read_clips(job.data, "test")
    ref = job.judge("test", test_frames, test)
    sets: Sets = {}
    for name, frames, prompts in comparisons(job.data, test):
        sets[name] = measure(job.judge(name, frames, prompts), ref, False)
        if name == "real":
            job.judge("vae", through(job, base, frames), prompts)
            copied = frames
    bank = Bank(trained_on(job.data), test_frames, ref, job.device)
    job.record["controls"] = bank.controls(test_frames, copied)
    job.record["psnr"] = psnr(test_frames, through(job, base, test_frames))
    compared = Compared(bank, sets, test)
    kept = [folder for _, folder in sorted(kept_steps(base).items())]
    best = choose(job, [Way(kept[-1], kept[0], *one) for one in WAYS], compared)
    job.record["chosen"] = asdict(best) | {"limits": bank.limits}
    job.record["fresh"] = [job.candidate(best, FIRST_FRESH + k, compared) for k in range(FRESH)]
    job.stage("pretrain", best, compared)
    align(job, best, compared)
    print(tables(job.out))


def choose(job: Job, ways: list[Way], compared: Compared) -> Way:
    """The least short of what is asked on average, then of least fvd_mini.

    The better half goes on, with twice as many draws each (successive halving; Jamieson & Talwalkar, 2016).
    """
    drawn: dict[Way, list[dict[str, Any]]] = {way: [] for way in ways}
    draws = 1
    while True:
        for way in ways:
            drawn[way] += [job.candidate(way, k, compared) for k in range(len(drawn[way]), draws)]
        ways.sort(key=lambda way: worth(drawn[way], compared))
        if len(ways) <= FINALISTS:
            return ways[0]
        ways, draws = ways[:-(-len(ways) // 2)], 2 * draws


def worth(draws: Sequence[dict[str, Any]], compared: Compared) -> tuple[float, float]:
    """The better way to sample has the smaller: how far its means fall short, in all, and `fvd_mini`."""
    short = [NEW - np.mean([draw["novelty"][space] for draw in draws]) for space in JUDGED_IN]
    for metric, bar in compared.bars.items():
        value, needed = np.mean([draw["values"][metric] for draw in draws]), bar["value"]
        short.append(value / needed - 1 + MARGIN if bar["lower"] else 1 + MARGIN - value / needed)
    return sum(max(0.0, float(one)) for one in short), float(np.mean([draw["fvd_mini"] for draw in draws]))


def align(job: Job, best: Way, compared: Compared) -> None:
    """SFT on the training clips that a reward likes best, then DPO on own samples that it ranks."""
    args = job.args
    curated = job.fit("sft", sft, data=str(job.data / "once.jsonl"), source=best.source, reward=args.reward,
                      select="top")
    folder = job.out / "pairs"
    if not (folder / pairs.FILE).is_file():
        with job.timed("pairs"):
            pairs.make_pairs(pairs.Config(
                source=curated, prompts=str(job.data / "classes.txt"), out=str(folder), format="npy", which="all",
                samples=args.pair_samples, seed=1000, steps=args.sample_steps, guidance=1.0,
                guidance_to=best.guidance_to, weaker=best.weaker, guided_above=GUIDED_ABOVE,
                motion=best.motion, margin=args.margin, label=args.reward, batch_size=args.sample_batch,
                device=args.device))
    preferred = job.fit("dpo", dpo, pairs=str(folder / pairs.FILE), source=curated)
    for name, source in (("sft", curated), ("dpo", preferred)):
        job.stage(name, replace(best, source=source), compared)


@torch.no_grad()
def through(job: Job, source: str, frames: Tensor) -> Tensor:
    """uint8 frames there and back through the latents of a checkpoint."""
    model = load_model(source).to(job.device)
    back = torch.cat([model.decode(model.encode(part)).cpu() for part in frames.split(job.args.sample_batch)])
    return (255 * back).round().to(torch.uint8)


def redraw(args: argparse.Namespace) -> Iterator[str]:
    """What the set metrics are of other draws of training clips, as they are and blurred."""
    data, device = args.out / "data", choose_device(args.device)
    if not (data / "once.jsonl").is_file():
        unpack(args.packed, data, args.places)
    test_frames, test = read_clips(data, "test")
    frames, prompts = read_clips(data, "once")
    ref, real, blurred = (score_frames(one, [str(k) for k in range(len(one))], FPS, device, DISTANCES)
                          for one in (test_frames, frames, blur(frames, 2)))
    found: dict[str, list[tuple[float, float, bool]]] = {}
    for k in range(REDRAWN):
        rows = draw_like(prompts, test, torch.Generator().manual_seed(k))
        whole, worse = (measure(replace(one, features={name: x[rows] for name, x in one.features.items()}), ref, False)
                        for one in (real, blurred))
        for metric, one in whole.items():
            a, b = one["value"], worse[metric]["value"]
            found.setdefault(metric, []).append((a, b, a < b if one["lower"] else a > b))
    rows = []
    for metric, values in found.items():
        *sides, better = zip(*values, strict=True)
        rows.append([metric, *(f"{np.mean(side):.4g} ± {np.std(side, ddof=1):.2g}" for side in sides),
                     f"{np.mean(better):.2f}"])
    yield from markdown(["set metric", "real", "blurred", "draws in which real clips are better"], rows)


def psnr(a: Tensor, b: Tensor) -> float:
    """Of uint8 frames, in dB."""
    return float(10 * (255**2 / (a.float() - b.float()).square().mean()).log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("prepare", "train", "score", "redraw"))
    parser.add_argument("--packed", type=Path, default=Path("ucf101.npz"))
    parser.add_argument("--out", type=Path, default=Path("runs/ucf101"))
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--limit", type=int, default=0, help="videos of each class and part; 0: all")
    parser.add_argument("--preset", default="ucf101")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--whitening", type=float, default=vae.Config.whitening, help="of the codec's latents")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--places", type=int, default=11, help="of a training video from which clips are taken")
    parser.add_argument("--pretrain-steps", type=int, default=pretrain.PRESETS["ucf101"]["steps"])
    parser.add_argument("--steps", type=int, default=0, help="of every stage, to see whether all runs")
    parser.add_argument("--batch", type=int, default=0, help="of every stage; 0: the preset's")
    parser.add_argument("--sample-steps", type=int, default=50)
    parser.add_argument("--sample-batch", type=int, default=256)
    parser.add_argument("--pair-samples", type=int, default=24)
    parser.add_argument("--reward", default="guarded", help="what SFT's clips are chosen by, and DPO's pairs")
    parser.add_argument("--margin", type=float, default=0.01, help="of the reward, up to which a pair ties")
    args = parser.parse_args()
    if args.stage == "prepare":
        print(write_packed(args.assets / "data" / "ucf101" / "clips64", args.limit, args.packed))
    elif args.stage == "train":
        run(args)
    elif args.stage == "redraw":
        print("\n".join(redraw(args)))
    else:
        print(tables(args.out, intervals=True))


if __name__ == "__main__":
    main()
