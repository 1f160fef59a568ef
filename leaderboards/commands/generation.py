"""The flags that say how samples were made; a model's row cannot do without."""
from __future__ import annotations

import argparse

from evalkit.errors import UsageError
from leaderboards.schema import Generation


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    made = parser.add_argument_group("how the samples were made (all but steps and frames are required of a model)")
    made.add_argument("--seeds", metavar="0,1,2")
    made.add_argument("--prompts-rewritten", choices=["yes", "no"])
    made.add_argument("--sampler", metavar="NAME")
    made.add_argument("--guidance", metavar="SCALE|none")
    made.add_argument("--size", metavar="WIDTHxHEIGHT")
    made.add_argument("--fps", type=float)
    made.add_argument("--steps", type=int)
    made.add_argument("--frames", type=int)


def read_generation(args: argparse.Namespace) -> Generation:
    """What the flags say. UsageError where one is missing or strange."""
    required = ("seeds", "prompts_rewritten", "sampler", "guidance", "size", "fps")
    missing = [f"--{key.replace('_', '-')}" for key in required if getattr(args, key) is None]
    if missing:
        raise UsageError(f"a model's row says how its samples were made: give {', '.join(missing)} "
                         "(or --reference-row for frozen, shuffled, noise or real videos)")
    try:
        width, height = (int(side) for side in args.size.lower().split("x"))
        guidance = None if args.guidance == "none" else float(args.guidance)
        seeds = tuple(int(seed) for seed in args.seeds.split(","))
    except ValueError as error:
        raise UsageError("expected --size WIDTHxHEIGHT, --guidance NUMBER or none, --seeds 0,1,2; got "
                         f"{args.size!r}, {args.guidance!r}, {args.seeds!r}") from error
    return Generation(seeds, args.prompts_rewritten == "yes", args.sampler, guidance, (width, height), args.fps,
                      args.steps, args.frames)
