"""evalkit rewards train: fit a preference reward to pairs of videos or of the made-up world, or artifact labels."""
from __future__ import annotations

import argparse

EPILOG = """pairs.jsonl holds a line for every answer:
  {"chosen": "a.mp4", "rejected": "b.mp4", "prompt": "a red circle moves left over a blue background"}
and may say "tie": true, "dimension": visual, motion, text or overall (default), and "rater". Videos are looked for
beside the file. The embedded backbone reads 16 frames at 8 fps and the language of the made-up world. For real videos
give a --backbone, a CLIP or SigLIP that is on this machine: open_clip:ViT-B-32:openai, open_clip:MODEL:FILE,
transformers:openai/clip-vit-base-patch32 or transformers:FOLDER. Adapters (LoRA) and heads on it are trained and saved.

The artifact detector needs no pairs: known defects are dialled into scenes of the made-up world and, with --clips, into
real videos. UCF-101 groups 1-7 and footage from elsewhere are kept for judging and left out.

A killed run goes on where it was: the same command again.

examples:
  evalkit rewards train --pairs pairs.jsonl --out my-reward/
  evalkit rewards train --world 4000 --noise 0.2 --out my-reward/      # under 5 minutes on two cores
  evalkit rewards train --pairs pairs.jsonl --backbone open_clip:ViT-L-14:openai --epochs 4 --out my-reward/
  evalkit rewards train --artifacts 9600 --clips ucf101:FOLDER --out my-detector/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", metavar="FILE", help="JSONL of pairs")
    source.add_argument("--world", type=int, metavar="N", help="N pairs of the made-up world, labelled by its truth")
    source.add_argument("--artifacts", type=int, metavar="N",
                        help="the artifact detector instead, on N scenes of the made-up world")
    parser.add_argument("--clips", action="append", default=[], metavar="WHERE",
                        help="real videos for --artifacts, as evalkit run takes them; may be repeated")
    parser.add_argument("--draws", type=int, default=20, metavar="N",
                        help="windows of each of them, with defects of their own (default 20)")
    parser.add_argument("--out", required=True, metavar="DIR", help="weights (.safetensors) and card (.json) go there")
    parser.add_argument("--noise", type=float, default=0.0, help="share of the world's labels that are wrong")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the world's first seed (default 0)")
    parser.add_argument("--synthetic", type=int, default=9600, metavar="N",
                        help="clips with dialled defects from which it learns first (default 9600; 0: none)")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--backbone", metavar="KIND:NAME", help="a CLIP to adapt instead of the embedded networks")
    parser.add_argument("--lora-rank", type=int, default=16, metavar="N", help="of the adapters (default 16)")
    parser.add_argument("--device", default="auto", help="with --backbone: auto, cpu, cuda or cuda:N")
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

    if args.artifacts is not None:
        return _artifacts(args, shlex.join(["evalkit", *sys.argv[1:]]))
    if args.clips:
        raise UsageError("--clips is of --artifacts; a preference learns from --pairs or --world")
    if args.world is None and (args.noise or args.first):
        raise UsageError("--noise and --first are of the world's pairs; with --pairs the labels are as they are")
    config = Config(out=args.out, pairs=args.pairs, world=args.world, noise=args.noise, first=args.first,
                    synthetic=args.synthetic, epochs=args.epochs, ties=not args.plain, held_out=args.held_out,
                    seed=args.seed, max_failures=args.max_failures, backbone=args.backbone, lora_rank=args.lora_rank,
                    device=args.device, workers=args.workers)
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


def _artifacts(args: argparse.Namespace, command: str) -> int:
    from evalkit.progress import shown_progress
    from rewards.artifact_training import Config, describe, train

    config = Config(args.out, args.artifacts, tuple(args.clips), args.draws, args.epochs, args.held_out, args.seed,
                    args.workers)
    with shown_progress("chunks") as advance:
        done = train(config, lambda stage, n, of: advance(stage, n, of, None), command)
    n = done.card["n"]
    print(f"{n['fitted']} clips fitted, {n['calibrated']} calibrated, {n['judged']} judged:")
    print("\n".join(describe(done.card)))
    print(f"written to {args.out}: load_reward(\"artifact_detector\", folder={args.out!r})")
    return 0
