"""evalkit rewards attack."""
from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  evalkit rewards attack farm
  evalkit rewards attack --all --clips ucf101:clips64/ --clips "webvid:webvid/?csv=results.csv" --json attack.json
  evalkit rewards attack farm --hacks static,crossfade --clips ucf101:clips/ --part tune
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Does a hacked clip score as high as the clean one? Paired AUC per hack: 1 never, 0.5 blind."
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="rewards of `evalkit rewards list`")
    parser.add_argument("--all", action="store_true", help="every reward there is")
    parser.add_argument("--n", type=int, default=100, metavar="N", help="clips of each set (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="other clips of the world, other random hacks")
    parser.add_argument("--hacks", metavar="A,B", help="only these (default: all)")
    parser.add_argument("--clips", action="append", metavar="DIR",
                        help="real clips, spelt as for `evalkit run`; may be given several times")
    parser.add_argument("--part", default="judge", choices=["judge", "tune"], help="side of the split (default judge)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same as JSON")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.errors import UsageError
    from evalkit.progress import shown_progress
    from evalkit.workers import available_cores
    from rewards.attack import attack
    from rewards.hack_clips import real_clips, world_clips
    from rewards.hacks import pick_hacks
    from rewards.registry import available_rewards

    if bool(args.names) == args.all:
        raise UsageError("expected names of rewards, or --all")
    if args.n < 1:
        raise UsageError(f"--n: expected at least 1 clip, got {args.n}")
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers: expected at least 1, got {args.workers}")
    if args.json is not None:
        check_writable(args.json.parent)
    workers = args.workers or available_cores()
    try:
        hacks = pick_hacks(None if args.hacks is None else args.hacks.split(","))
        rewards, missing = _load(available_rewards() if args.all else args.names, skip=args.all)
        sets, notes = {"world": world_clips(args.n, args.part, args.seed, workers)}, missing
        if args.clips:
            with shown_progress("clips") as progress:  # one bar each: processes are not forked under a moving one
                sets["real"], left_out = real_clips(args.clips, args.n, args.part, workers, progress)
            notes += [f"real clips left out: {count} {why}" for why, count in left_out.items()]
        else:
            notes.append("no real clips: give --clips DIR; only the made-up world was attacked")
        with shown_progress("clips") as progress:
            report = attack(rewards, sets, hacks, seed=args.seed, workers=workers, progress=progress)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _print(report, notes, args.part)
    if args.json is not None:
        _write(args, report, notes)
    return 0


def _load(names: list[str], skip: bool) -> tuple[dict, list[str]]:
    """Rewards by name, and those without weights as notes; UsageError where `skip` is off or nothing is left."""
    from evalkit.errors import UsageError
    from evalkit.features.base import MissingWeights
    from rewards.registry import load_reward

    rewards, missing = {}, []
    for name in dict.fromkeys(names):
        try:
            rewards[name] = load_reward(name)
        except MissingWeights as error:
            missing.append(f"{name} skipped: {error}")
    if not rewards or (missing and not skip):
        raise UsageError("; ".join(missing))
    return rewards, missing


def _print(report, notes: list[str], part: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from evalkit.table import print_columns

    rows = [[row.reward, row.clips, row.hack, f"{row.auc:.3f}", f"[{row.ci[0]:.3f}, {row.ci[1]:.3f}]", str(row.n),
             str(row.scenes)] for row in report.rows]
    if rows:
        print_columns(["reward", "clips", "hack", "AUC", "95 %", "n", "scenes"], rows, right=("AUC", "n", "scenes"))
    say = Console().print
    for name, sets in report.hackability.items():
        for title, found in sets.items():
            interval = "" if found.ci is None else f" [{found.ci[0]:.3f}, {found.ci[1]:.3f}]"
            say(Text(f"hackability of {name} on {title}: {found.value:.3f}{interval}, n = {found.n}"), soft_wrap=True)
    say(f"part of the split: {part}. AUC: share of clips above their hacked twin, ties half. Hackability: mean over "
        "hacks of the share of twins that are paid at least as much.", soft_wrap=True)
    for note in [*report.skipped, *notes]:
        say(Text(note, "yellow"), soft_wrap=True)


def _write(args: argparse.Namespace, report, notes: list[str]) -> None:
    import json

    from evalkit.results import write_atomic
    from rewards.hack_clips import LEAST_MOTION

    found = {"part": args.part, "seed": args.seed, "least_motion": LEAST_MOTION, "notes": notes} | report.as_json()
    write_atomic(args.json, (json.dumps(found, indent=1) + "\n").encode())
