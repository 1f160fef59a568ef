"""evalkit world: render the made-up world, show a scene, read clips back with the oracle, train the small networks."""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError

EXAMPLES = """examples:
  evalkit world render --n 1000 --out world/ --split train
  evalkit world show --seed 7 --out scene.png
  evalkit world read samples/ --prompts prompts.jsonl
  evalkit world train video --out weights/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="render|show|read|train")
    render = actions.add_parser("render", help="clips, captions and the whole state of scenes")
    render.add_argument("--n", type=int, default=1000, metavar="N", help="clips (default 1000)")
    render.add_argument("--out", type=Path, required=True, metavar="DIR")
    render.add_argument("--split", default="train", help="train, test or compositional (default train)")
    render.add_argument("--first", type=int, default=0, metavar="K", help="skip the split's first K scenes")
    render.add_argument("--frames", type=int, default=16)
    render.add_argument("--fps", type=float, default=8.0)
    render.add_argument("--size", type=int, default=64, help="pixels a side (default 64)")
    render.add_argument("--level", choices=["simple", "full"], default="full")
    render.add_argument("--workers", type=int, metavar="N")
    show = actions.add_parser("show", help="a contact sheet with the state written beside it")
    show.add_argument("--seed", type=int, required=True)
    show.add_argument("--out", type=Path, metavar="PNG", help="default: world-SEED.png")
    show.add_argument("--defect", metavar="NAME:SEVERITY", help="damage the clip first, e.g. blur:3")
    read = actions.add_parser("read", help="the oracle: what is in these clips, does it match, what is broken")
    read.add_argument("samples", help="folder, glob or manifest of videos of the world")
    read.add_argument("--prompts", metavar="FILE", help="JSONL / CSV / Parquet / TXT of prompts")
    read.add_argument("--fps", type=float, help="frame rate of videos that carry none")
    read.add_argument("--json", type=Path, metavar="FILE", help="write every reading")
    train = actions.add_parser("train", help="train the small networks; --help tells how long")
    train.add_argument("names", nargs="+", metavar="NAME", help="oracle, video, clip: side by side on one stream")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="NAME.safetensors go there")
    train.add_argument("--minutes", type=float, default=8.0, help="the learning rate falls to 0 by then (default 8)")
    train.add_argument("--steps", type=int, default=12_000, help="at most")
    train.add_argument("--batch-size", type=int, default=192)
    train.add_argument("--scenes", type=int, default=100_000, help="rendered once, damaged anew in every batch")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--workers", type=int, metavar="N", help="processes that damage clips (default: cores - 1)")


def main(args: argparse.Namespace) -> int:
    return {"render": _render, "show": _show, "read": _read, "train": _train}[args.action](args)


def _render(args: argparse.Namespace) -> int:
    from rich.progress import track

    from evalkit.commands.run import check_writable
    from evalkit.data.scene import SPLITS
    from evalkit.data.synthetic import write_world
    from evalkit.workers import available_cores

    if args.split not in SPLITS:
        raise UsageError(f"--split: expected one of {', '.join(SPLITS)}, got {args.split!r}")
    if min(args.n, args.frames, args.fps, args.size) <= 0 or args.first < 0:
        raise UsageError(f"expected a positive --n, --frames, --fps and --size and a --first of 0 or more, "
                         f"got {args.n}, {args.frames}, {args.fps}, {args.size} and {args.first}")
    check_writable(args.out)
    _check_settings(args)
    rows = write_world(args.out, args.n, args.split, first=args.first, num_frames=args.frames, fps=args.fps,
                       size=args.size, level=args.level, workers=args.workers or available_cores())
    made = sum(1 for _ in track(rows, "clips", total=args.n, transient=True))
    print(f"{made} clips rendered, {args.n - made} were there already\n{args.out / 'prompts.jsonl'}")
    return 0


def _check_settings(args: argparse.Namespace) -> None:
    """Keep how the folder is made beside it; UsageError where it was made another way before."""
    wanted = {name: getattr(args, name) for name in ("split", "frames", "fps", "size", "level")}
    path = args.out / "world.json"
    if not path.exists():
        path.write_text(json.dumps(wanted) + "\n")
        return
    held = json.loads(path.read_text())
    other = [f"{name} {held.get(name)} there, {value} asked for" for name, value in wanted.items()
             if held.get(name) != value]
    if other:
        raise UsageError(f"{args.out} was rendered otherwise ({'; '.join(other)}): give another --out")


def _show(args: argparse.Namespace) -> int:
    from evalkit.data.captions import REGISTERS, caption
    from evalkit.data.contact_sheet import draw_scene
    from evalkit.data.corruptions import SEVERITIES, available_corruptions
    from evalkit.data.scene import make_scene

    if args.seed < 0:
        raise UsageError(f"--seed: expected 0 or more, got {args.seed}")
    name, _, severity = (args.defect or "").partition(":")
    if args.defect and (name not in available_corruptions() or severity not in map(str, SEVERITIES)):
        raise UsageError(f"--defect: expected NAME:1 to NAME:5, got {args.defect!r}; names: "
                         f"{', '.join(available_corruptions())}")
    scene = make_scene(args.seed)
    path = args.out or Path(f"world-{args.seed}.png")
    draw_scene(scene, (name, int(severity)) if args.defect else None).save(path)
    for register in REGISTERS:
        print(f"{register}: {caption(scene, register)}")
    print(path)
    return 0


def _read(args: argparse.Namespace) -> int:
    from rich.progress import track

    from evalkit.cli import EXIT_FAILURES
    from evalkit.data.oracle import read_video_file
    from evalkit.data.video import VideoError
    from evalkit.plan import find_items

    items = find_items(args.samples, args.prompts, args.fps)
    rows: list[dict[str, Any]] = []
    for item in track(items, "videos", transient=True):
        row: dict[str, Any] = {"path": item.name, "prompt": item.prompt}
        try:
            reading = read_video_file(str(item.source), fps=item.fps)
            row |= {"factors": reading.factors, "confidence": reading.confidence, "speed": reading.speed,
                    "defects": reading.defects, "broken": reading.broken(),
                    "claims": reading.agrees(item.prompt) if item.prompt else None}
        except (VideoError, ValueError) as error:  # a prompt outside the world's language is a ValueError
            row["error"] = str(error)
        rows.append(row)
        print(_line(row), flush=True)
    if args.json:
        args.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for line in _summary(rows):
        print(line)
    return EXIT_FAILURES if any("error" in row for row in rows) else 0


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['path']}: cannot be read: {row['error']}"
    seen = row["factors"]
    parts = [f"{row['path']}: a {seen['size']} {seen['colour']} {seen['shape']}, {seen['path']}, {seen['direction']}, "
             f"over {seen['ground']}, camera {seen['camera']}"]
    if row["broken"]:
        parts.append("broken: " + ", ".join(row["broken"]))
    wrong = [factor for factor, holds in (row["claims"] or {}).items() if not holds]
    if row["claims"]:
        parts.append("does not hold: " + ", ".join(wrong) if wrong else "as told")
    return "; ".join(parts)


def _summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    from scipy.stats import binomtest

    judged = [row["claims"] for row in rows if row.get("claims")]
    failed = sum("error" in row for row in rows)
    yield f"\n{len(rows)} videos, {failed} could not be read"

    def share(name: str, held: list[bool]) -> str:
        low, high = binomtest(sum(held), len(held)).proportion_ci(method="wilson")
        return f"{name:<14} {sum(held) / len(held):.3f}  [{low:.3f}, {high:.3f}]  n = {len(held)}"

    if judged:
        yield "share of clips that show what their prompt claims, 95 % interval:"
        yield share("everything", [all(claims.values()) for claims in judged])
        for factor in dict.fromkeys(factor for claims in judged for factor in claims):
            yield share(factor, [claims[factor] for claims in judged if factor in claims])


def _train(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.features.weights import sha256_of
    from evalkit.mini.tasks import TASKS
    from evalkit.mini.training import Config, available_workers, train
    from evalkit.runner import choose_device

    unknown = [name for name in args.names if name not in TASKS]
    if unknown:
        raise UsageError(f"unknown network {', '.join(unknown)}; there are: {', '.join(TASKS)}")
    if min(args.minutes, args.steps, args.batch_size, args.scenes) <= 0:
        raise UsageError("expected a positive --minutes, --steps, --batch-size and --scenes")
    check_writable(args.out)
    config = Config(steps=args.steps, batch_size=args.batch_size, scenes=args.scenes, seed=args.seed,
                    minutes=args.minutes)
    names = list(dict.fromkeys(args.names))
    workers = available_workers() if args.workers is None else args.workers
    for told in train(names, args.out, config, choose_device(args.device), workers):
        losses = "  ".join(f"{name} {value:.3f}" for name, value in told.items() if "." in name)
        print(f"step {told['step']}, {told['seconds']:.0f} s: {losses}", flush=True)
    for name in names:
        path = args.out / f"{name}.safetensors"
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, sha256 {sha256_of(path)}")
    return 0
