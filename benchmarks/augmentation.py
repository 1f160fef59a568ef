"""What a network learns of clips that it never sees, from few videos: unchanged ones, and ones changed on purpose.

    python benchmarks/ucf101.py prepare --packed ucf101.npz                                 # where PyAV is
    python benchmarks/augmentation.py --packed ucf101.npz --out runs/augmentation           # one H200, minutes

The preset ucf101 on a fifth of its training videos, each of whose clips is seen about as often as in `ucf101.py`:
errors of the velocity on the 202 test clips, and on clips that were trained on, at three times, and how far these are
from the first arm's. All arms take as many steps, with one training seed.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ucf101 import told
from ucf101_clips import read_clips, unpack
from ucf101_tables import markdown

from baselines import pretrain, vae
from baselines.checkpoints import load_vae
from baselines.data import ClipStore, VideoClips, captioned
from baselines.model import VideoDiffusion
from baselines.objectives import add_noise, squared_error, velocity
from baselines.presets import find_preset
from baselines.pretrain import Denoising
from baselines.train import train
from baselines.views import CHANGES, COMBINATIONS, viewed
from evalkit.devices import choose_device
from evalkit.results import write_atomic
from evalkit.statistics import cluster_bootstrap

ONE_OF = 5  # videos
TIMES = (0.2, 0.5, 0.85)
WATCHED = 5  # of the clips that were trained on, every so many
SEEN = 64  # clips at a time
ARMS = {  # what the changed clips, three beside each unchanged one, are
    "alone and together": COMBINATIONS,
    "one at a time": CHANGES,
    "none": (),
}


class Watched(Denoising):
    """Pretraining that keeps the errors of single clips, part -> (times, clips), whenever it is evaluated."""

    def __init__(self, model: VideoDiffusion, clips: VideoClips, config: Any, parts: dict[str, tuple[Tensor, list[str]]]
                 ) -> None:
        super().__init__(model, clips, config)
        self.parts, self.errors = parts, {}

    def evaluate(self, step: int) -> dict[str, float]:
        self.errors = {part: np.stack([self._errors(t, *clips) for t in TIMES]) for part, clips in self.parts.items()}
        return {f"{part} {t}": float(row.mean()) for part, rows in self.errors.items()
                for t, row in zip(TIMES, rows, strict=True)}

    def _errors(self, time: float, frames: Tensor, prompts: list[str]) -> np.ndarray:
        """(N,) of uint8 (N, T, 3, H, W), with the same noise every time."""
        generator, model, found = torch.Generator().manual_seed(0), self.model, []
        for start in range(0, len(frames), SEEN):
            x = model.encode(frames[start: start + SEEN]).float()
            noise = torch.randn(x.shape, generator=generator).to(x.device)
            t = torch.full((len(x),), time, device=x.device)
            text = model.encode_prompts(prompts[start: start + SEEN])
            found.append(squared_error(model.velocity(add_noise(x, noise, t), t, text), velocity(x, noise)).cpu())
        return torch.cat(found).numpy()


def fifth(data: Path) -> Path:
    """A table of all clips of one video of ONE_OF."""
    rows = (data / "train.jsonl").read_text().splitlines()
    names = [json.loads(row)["path"].rpartition("-")[0] for row in rows]  # up to the place
    order = {name: k for k, name in enumerate(dict.fromkeys(names))}
    path = data / "fifth.jsonl"
    write_atomic(path, "".join(f"{row}\n" for row, name in zip(rows, names, strict=True)
                               if order[name] % ONE_OF == 0).encode())
    return path


def errors_of(arm: Sequence[str], out: Path, table: Path, autoencoder: Path, parts: dict[str, Any],
              args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Train with these changes; part -> errors (times, clips) of the averaged weights."""
    given = {"out": str(out), "preset": args.preset, "steps": args.steps, "eval_every": args.steps, "trackers": (),
             "save_every": 10**9, "device": args.device, "seed": args.seed, "overwrite": True}
    config = pretrain.Config(**pretrain.PRESETS["ucf101"] | given | ({"batch_size": args.batch} if args.batch else {}))
    model = VideoDiffusion.build(find_preset(args.preset), args.seed)
    load_vae(model, str(autoencoder))
    model.to(choose_device(args.device))
    store = ClipStore(model, list(viewed(captioned(str(table)), 1, True, arm)), out / "encoded")
    store.prepare(0)
    stage = Watched(model, VideoClips(store, args.seed), config, parts)
    train(stage, config, told(config.steps))
    return stage.errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, default=Path("ucf101.npz"))
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"))
    parser.add_argument("--preset", default="ucf101")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=0, help="0: the preset's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data, autoencoder = args.out / "data", args.out / "vae"
    if not (data / "test.jsonl").is_file():
        unpack(args.packed, data, 11)
    config = vae.Config(**vae.PRESETS["ucf101"] | {
        "out": str(autoencoder), "preset": args.preset, "data": str(data / "once.jsonl"), "device": args.device,
        "cache": str(args.out / "encoded"), "trackers": ()})
    train(vae.build(config), config)
    table = fifth(data)
    frames, prompts = read_clips(data, table.stem)
    parts = {"test": read_clips(data, "test"), "trained on": (frames[::WATCHED], prompts[::WATCHED])}
    groups = {"test": groups_of(data, "test"), "trained on": groups_of(data, table.stem)[::WATCHED]}
    found = {name: errors_of(arm, args.out / f"arm-{k}", table, autoencoder, parts, args)
             for k, (name, arm) in enumerate(ARMS.items())}
    before = next(iter(found.values()))
    print("\n".join(markdown(["changes", *(f"{part}, {t}" for part in parts for t in TIMES)], [
        [name, *(cell(errors[part][k], None if errors is before else before[part][k], groups[part])
                 for part in parts for k in range(len(TIMES)))]
        for name, errors in found.items()])))


def groups_of(data: Path, table: str) -> list[str]:
    """What UCF-101 filmed in one place, of each clip that `read_clips` gives: v_Archery_g01."""
    rows = sorted(map(json.loads, (data / f"{table}.jsonl").read_text().splitlines()), key=lambda row: row["prompt"])
    return [Path(row["path"]).name.rpartition("_c")[0] for row in rows]


def cell(errors: np.ndarray, before: np.ndarray | None, groups: Sequence[str]) -> str:
    """Their mean, and how far it is from the first arm's, with a 95 % interval over groups of the same clips."""
    if before is None:
        return f"{errors.mean():.4f}"
    low, high = cluster_bootstrap((errors - before).tolist(), groups)
    return f"{errors.mean():.4f} ({(errors - before).mean():+.4f} [{low:+.4f}, {high:+.4f}])"


if __name__ == "__main__":
    main()
