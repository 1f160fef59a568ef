"""evalkit rewards train: fit a preference reward to pairs of videos, or to pairs of the made-up world."""
from __future__ import annotations

import argparse

EPILOG = """pairs.jsonl holds a line for every answer:
  {"chosen": "a.mp4", "rejected": "b.mp4", "prompt": "a red circle moves left over a blue background"}
and may say "tie": true, "dimension": visual, motion, text or overall (default), and "rater". Videos are looked for
beside the file. The embedded backbone reads 16 frames at 8 fps and the language of the made-up world.

A killed run goes on where it was: the same command again.

examples:
  evalkit rewards train --pairs pairs.jsonl --out my-reward/
  evalkit rewards train --world 4000 --noise 0.2 --out my-reward/      # under 5 minutes on two cores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", metavar="FILE", help="JSONL of pairs")
    source.add_argument("--world", type=int, metavar="N", help="N pairs of the made-up world, labelled by its truth")
    parser.add_argument("--out", required=True, metavar="DIR", help="preference.safetensors and card.json go there")
    parser.add_argument("--noise", type=float, default=0.0, help="share of the world's labels that are wrong")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the world's first seed (default 0)")
    parser.add_argument("--synthetic", type=int, default=9600, metavar="N",
                        help="clips with dialled defects from which it learns first (default 9600; 0: none)")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--plain", action="store_true", help="Bradley-Terry without ties: a tie is half a win each")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="SHARE",
                        help="of the pairs, to judge by; as many more calibrate (default 0.1)")
    parser.add_argument("--max-failures", type=int, default=0, metavar="N",
                        help="bad rows and videos that may be left out (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, metavar="N", help="processes that measure clips (default: all cores)")


def main(args: argparse.Namespace) -> int:
    import shlex
    import sys

    from evalkit.errors import UsageError
    from evalkit.features.weights import MissingWeights
    from evalkit.progress import shown_progress
    from rewards.train import Config, describe, train

    if args.world is None and (args.noise or args.first):
        raise UsageError("--noise and --first are of the world's pairs; with --pairs the labels are as they are")
    config = Config(out=args.out, pairs=args.pairs, world=args.world, noise=args.noise, first=args.first,
                    synthetic=args.synthetic, epochs=args.epochs, ties=not args.plain, held_out=args.held_out,
                    seed=args.seed, max_failures=args.max_failures, workers=args.workers)
    try:
        with shown_progress("chunks") as advance:
            done = train(config, lambda stage, n, of: advance(stage, n, of, None),
                         lambda line: print(line, file=sys.stderr), shlex.join(["evalkit", *sys.argv[1:]]))
    except MissingWeights as error:
        raise UsageError(str(error)) from error
    n = done.card["n"]
    print(f"{n['fitted']} pairs fitted, {n['calibrated']} calibrated, {n['judged']} judged against their labels:")
    print("\n".join(describe(done.card)))
    print(f"written to {args.out}: load_reward(\"preference\", folder={args.out!r})")
    return 0
