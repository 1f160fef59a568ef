"""evalkit world: render the made-up world, show a scene, read clips back with the oracle, train the small networks."""
from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

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
    show.add_argument("--frames", type=int, default=8, metavar="N", help="of the clip's 16 (default 8)")
    show.add_argument("--size", type=int, default=192, help="pixels a side of each frame (default 192)")
    show.add_argument("--defect", metavar="NAME:SEVERITY", help="damage the clip first, e.g. blur:3")
    read = actions.add_parser("read", help="the oracle: what is in these clips, does it match, what is broken")
    read.add_argument("samples", help="folder, glob or manifest of videos of the world")
    read.add_argument("--prompts", metavar="FILE", help="JSONL / CSV / Parquet / TXT of prompts")
    read.add_argument("--fps", type=float, help="frame rate of videos that carry none")
    read.add_argument("--json", type=Path, metavar="FILE", help="write every reading and the shares")
    train = actions.add_parser("train", help="train the small networks; --help tells how long")
    train.add_argument("names", nargs="+", metavar="NAME",
                       help="oracle, video, clip: 7 minutes each on a GPU; defects: 7 minutes on two cores")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="NAME.safetensors go there")
    train.add_argument("--minutes", type=float, default=7.0, help="the learning rate falls to 0 by then (default 7)")
    train.add_argument("--steps", type=int, default=20_000, help="at most")
    train.add_argument("--batch-size", type=int, default=256)
    train.add_argument("--remember", type=int, default=65_536, metavar="N",
                       help="clips kept on the device, 192 KiB each (default 65536)")
    train.add_argument("--clips", type=int, metavar="N", help="for defects: clips to measure (default 46000)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--workers", type=int, metavar="N", help="processes that damage clips (default: cores - 1)")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.world_read import read

    return {"render": _render, "show": _show, "read": read, "train": _train}[args.action](args)


def _render(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.data.scene import SPLITS, split_of
    from evalkit.data.synthetic import seeds_written, write_world
    from evalkit.progress import shown_progress
    from evalkit.workers import available_cores

    if args.split not in SPLITS:
        raise UsageError(f"--split: expected one of {', '.join(SPLITS)}, got {args.split!r}")
    if not all(0 < value < math.inf for value in (args.n, args.frames, args.fps, args.size)) or args.first < 0:
        raise UsageError(f"expected a positive --n, --frames, --fps and --size and a --first of 0 or more, "
                         f"got {args.n}, {args.frames}, {args.fps:g}, {args.size} and {args.first}")
    seeds = range(SPLITS[args.split] + args.first, SPLITS[args.split] + args.first + args.n)
    if split_of(seeds[-1]) != args.split:
        raise UsageError(f"--first {args.first} --n {args.n}: the {args.split} split has {SPLITS['test']} scenes")
    check_writable(args.out)
    _check_settings(args)
    missing = len(set(seeds) - seeds_written(args.out / "prompts.jsonl"))
    with shown_progress("clips") as progress:
        rows = write_world(args.out, args.n, args.split, first=args.first, num_frames=args.frames, fps=args.fps,
                           size=args.size, level=args.level, workers=args.workers or available_cores())
        for done, _ in enumerate(rows, 1):
            progress("rendering", done, missing)
    print(f"clips: {missing} rendered, {args.n - missing} there already\n{args.out / 'prompts.jsonl'}")
    return 0


def _check_settings(args: argparse.Namespace) -> None:
    """Keep how the folder is made beside it; UsageError where it was made another way before."""
    wanted = {name: getattr(args, name) for name in ("split", "frames", "fps", "size", "level")}
    path = args.out / "world.json"
    if not path.exists() and not (args.out / "prompts.jsonl").exists():
        path.write_text(json.dumps(wanted) + "\n")
        return
    try:
        held = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{args.out} holds clips, and {path.name} does not say how they were made ({error}): "
                         "give another --out") from error
    other = [f"{name} {held.get(name)} there, {value} asked for" for name, value in wanted.items()
             if held.get(name) != value]
    if other:
        raise UsageError(f"{args.out} was rendered otherwise ({'; '.join(other)}): give another --out")


def _show(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.data.captions import REGISTERS, caption
    from evalkit.data.contact_sheet import draw_scene
    from evalkit.data.corruptions import SEVERITIES, available_corruptions
    from evalkit.data.scene import NUM_FRAMES, make_scene

    if args.seed < 0 or not 0 < args.frames <= NUM_FRAMES or args.size < 1:
        raise UsageError(f"expected a --seed of 0 or more, 1 to {NUM_FRAMES} --frames and a positive --size, "
                         f"got {args.seed}, {args.frames} and {args.size}")
    name, _, severity = (args.defect or "").partition(":")
    if args.defect and (name not in available_corruptions() or severity not in map(str, SEVERITIES)):
        raise UsageError(f"--defect: expected NAME:1 to NAME:5, got {args.defect!r}; names: "
                         f"{', '.join(available_corruptions())}")
    scene = make_scene(args.seed)
    path = args.out or Path(f"world-{args.seed}.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out: expected a file name ending in .png, got {path}")
    check_writable(path.parent)
    draw_scene(scene, (name, int(severity)) if args.defect else None, args.frames, args.size).save(path)
    for register in REGISTERS:
        print(f"{register}: {caption(scene, register)}")
    print(path)
    return 0


def _train(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.devices import choose_device
    from evalkit.features.weights import sha256_of
    from evalkit.mini.tasks import TASKS
    from evalkit.mini.training import Config, available_workers, train

    unknown = [name for name in args.names if name not in (*TASKS, "defects")]
    if unknown:
        raise UsageError(f"unknown network {', '.join(unknown)}; there are: {', '.join(TASKS)}, defects")
    if min(args.minutes, args.steps, args.batch_size, args.remember, 1 if args.clips is None else args.clips) <= 0:
        raise UsageError("expected a positive --minutes, --steps, --batch-size, --remember and --clips")
    check_writable(args.out)
    config = Config(steps=args.steps, batch_size=args.batch_size, remembered=args.remember, seed=args.seed,
                    minutes=args.minutes)
    names, device = list(dict.fromkeys(args.names)), choose_device(args.device)
    workers = available_workers() if args.workers is None else args.workers
    for name in names:
        if name == "defects":
            _train_defects(args.out / "defects.safetensors", args.clips, workers, args.seed)
            continue
        print(f"training {name} on {device}", flush=True)
        for told in train(name, args.out, config, device, workers):
            losses = "  ".join(f"{key} {value:.3f}" for key, value in told.items() if key not in _PROGRESS)
            print(f"step {told['step']}, {told['seconds']:.0f} s: {losses}", flush=True)
    for name in names:
        path = args.out / f"{name}.safetensors"
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, sha256 {sha256_of(path)}")
    return 0


_PROGRESS = ("step", "of", "share", "seconds")


def _train_defects(path: Path, clips: int | None, workers: int, seed: int) -> None:
    from evalkit.mini.defects import CLIPS, train_defects  # not above: it needs PyAV, the other networks do not

    for told in train_defects(path, CLIPS if clips is None else clips, max(1, workers), seed):
        if told.get("clips", 0) % 3200 == 0:
            print("  ".join(f"{name} {value:.4g}" for name, value in told.items()), flush=True)
