"""The example board that ships: the tiny ladder's checkpoints and trivial videos, from samples to the site.

    python benchmarks/example_board.py --work /tmp/example-board --root leaderboards      # 10 minutes on two cores

Every step is a command that anyone can run; this only says in which order. What is there already is kept.
"""
from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from evalkit.data.synthetic import WORLD_FILE
from evalkit.data.video import read_video, write_video

PROMPTS = 128  # fvd_mini asks for as many videos
RUNGS = ("pretrain", "sft", "dpo", "over-optimized")
TRIVIAL = ("frozen", "shuffled", "noise")
METRICS = "fvd_mini,clip_alignment_mini,preference,guarded,farm,temporal_flicker,artifacts,dynamic_degree"
WORLD = "--frames 16 --fps 8 --level simple"
SAMPLED = "--steps 20 --guidance 3"
HOW = f"--seeds 0 --prompts-rewritten no --sampler flow-match-euler {SAMPLED} --size 64x64 --fps 8 --frames 16"


def evalkit(command: str) -> None:
    print(f"\n$ evalkit {command}", flush=True)
    subprocess.run([sys.executable, "-W", "ignore", "-m", "evalkit", *shlex.split(command)], check=True)


def make_trivial(real: Path, kind: str, out: Path) -> None:
    """The real clips with one frame repeated, with their frames in another order, or nothing but noise."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (real / "prompts.jsonl").read_text().splitlines()]
    for k, row in enumerate(rows):
        frames, generator = read_video(real / row["path"]).frames, torch.Generator().manual_seed(k)
        if kind == "frozen":
            frames = frames[:1].expand_as(frames)
        elif kind == "shuffled":
            frames = frames[torch.randperm(len(frames), generator=generator)]
        else:
            frames = torch.randint(256, frames.shape, generator=generator, dtype=torch.uint8)
        write_video(out / row["path"], frames.contiguous(), row["fps"], **WORLD_FILE)
    lines = [json.dumps({key: row[key] for key in ("path", "prompt", "seed", "fps")}) for row in rows]
    (out / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/example-board"))
    parser.add_argument("--root", type=Path, default=Path("leaderboards"))
    args = parser.parse_args()
    work, board = args.work, args.root / "boards" / "tiny-world.json"
    real = work / "real"
    if not (real / "prompts.jsonl").exists():
        evalkit(f"world render --n {PROMPTS} --split test {WORLD} --out {real}")
    if not (work / "reference" / "prompts.jsonl").exists():
        evalkit(f"world render --n 256 --split train {WORLD} --out {work}/reference")
    for kind in TRIVIAL:
        if not (work / kind / "prompts.jsonl").exists():
            make_trivial(real, kind, work / kind)
    for rung in RUNGS:
        evalkit(f"baseline sample --from baselines/weights/tiny/{rung} --prompts {real}/prompts.jsonl "
                f"--out {work}/{rung} --batch-size 8 --samples 1 {SAMPLED}")
    for name in (*RUNGS, "real", *TRIVIAL):
        if not (work / "runs" / name / "results.json").exists():
            evalkit(f"run {work}/{name}/prompts.jsonl --reference {work}/reference --metrics {METRICS} "
                    f"--model tiny-{name} --out {work}/runs/{name}")
    if not board.exists():
        anchors = " ".join(str(work / "runs" / name) for name in ("real", "frozen", "shuffled", "pretrain"))
        evalkit(f"leaderboard init {board} --metrics {METRICS} --rank-by composite --like {work}/runs/real "
                f"--anchors {anchors} --title 'The made-up world, tiny models'")
    for name in RUNGS:
        card = json.loads(Path(f"baselines/weights/tiny/{name}/model.json").read_text())
        evalkit(f"leaderboard add {work}/runs/{name} --board {board} --name tiny-{name} {HOW} "
                f"--checkpoint tiny-{name}@{card['step']} --clips 3")
    for name in ("real", *TRIVIAL):
        clips = "" if name == "noise" else "--clips 3"  # noise does not compress
        evalkit(f"leaderboard add {work}/runs/{name} --board {board} --name {name} --reference-row {clips}")
    for name in RUNGS:
        evalkit(f"leaderboard verify tiny-{name} --board {board} --samples {work}/{name} --share 0.25 --by evalkit "
                f"--reference {work}/reference")
    evalkit(f"leaderboard rank --board {board}")
    evalkit(f"leaderboard build --board {board} --out {work}/site")


if __name__ == "__main__":
    main()
