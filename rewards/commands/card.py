"""evalkit rewards card."""
from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure a reward and write its card: one HTML page, and the same numbers as JSON beside it."
    parser.add_argument("name", help="a reward of `evalkit rewards list`")
    parser.add_argument("--out", type=Path, required=True, metavar="HTML")
    parser.add_argument("--n", type=int, default=40, metavar="N", help="clips of the made-up world (default 40)")
    parser.add_argument("--clips", action="append", metavar="DIR",
                        help="real clips for the hack suite, spelt as for `evalkit run`; may be given several times")
    parser.add_argument("--ratings", type=Path, metavar="CSV",
                        help='people\'s ratings: columns mp4, prompt, model, and ratings ending in "_mean"')
    parser.add_argument("--twin", action="append", metavar="NAME",
                        help="rewards that the ascent should raise, too (clip_alignment_mini, temporal_flicker)")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.errors import UsageError
    from evalkit.features.weights import MissingWeights
    from evalkit.progress import shown_progress
    from evalkit.workers import available_cores
    from rewards import card as cards
    from rewards.hack_clips import real_clips, world_clips
    from rewards.registry import load_reward

    if args.n < 8:
        raise UsageError(f"--n: expected at least 8 clips, got {args.n}")
    if args.out.suffix.lower() != ".html":
        raise UsageError(f"--out: expected a file name ending in .html, got {args.out}")
    if args.ratings is not None and not args.ratings.is_file():
        raise UsageError(f"--ratings: no file {args.ratings}")
    check_writable(args.out.parent)
    try:
        reward = load_reward(args.name)
        twins = {name: load_reward(name) for name in args.twin or ("clip_alignment_mini", "temporal_flicker")
                 if name != args.name}
    except (ValueError, MissingWeights) as error:
        raise UsageError(str(error)) from error
    workers = available_cores()
    world = world_clips(args.n, workers=workers)
    try:
        sets = {"world": world}
        if args.clips:
            with shown_progress("clips") as progress:
                sets["real"], _ = real_clips(args.clips, args.n, workers=workers, progress=progress)
        with shown_progress("clips") as progress:
            found = cards.hack_suite(reward, sets, workers, progress)
        with shown_progress("steps") as progress:
            found |= cards.measure(reward, world, twins, workers, progress)
        if args.ratings is not None:
            found["people"] = cards.agreement(args.name, type(reward).metric_sign, args.ratings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    cards.write_card(found, args.out)
    for spot in cards.blind_spots(found):
        print(f"blind spot: {spot}")
    print(f"{args.out.with_suffix('.json')}\n{args.out}")
    return 0
