"""evalkit reference build: the features of a set of real videos in one file, shareable without the footage."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evalkit.cli import EXIT_FAILURES
from evalkit.commands.run import add_engine_arguments, check_writable, parse_tolerance, split_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("action", choices=["build"])
    parser.add_argument("videos", help="folder, glob or manifest of real videos")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    parser.add_argument("--protocol", metavar="NAME", help="a paper's protocol, from `evalkit list protocols`")
    parser.add_argument("--metrics", metavar="A,B", help="set metrics (default: those of the protocol or of standard)")
    parser.add_argument("--max-failures", default="0", metavar="N|P%%")
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from evalkit.errors import UsageError
    from evalkit.progress import shown_progress
    from evalkit.runner import build_reference

    if args.out.suffix != ".safetensors":
        raise UsageError(f"--out: expected a file name ending in .safetensors, got {args.out}")
    tolerated = parse_tolerance(args.max_failures)
    check_writable(args.out.parent)
    with shown_progress() as progress:
        features, failures = build_reference(
            args.videos, protocol=args.protocol, metrics=split_names(args.metrics), device=args.device,
            workers=args.workers, cache=None if args.cache == "none" else args.cache, seed=args.seed,
            decoder=args.decoder, progress=progress,
        )
    for failure in failures:
        print(f"{failure['path']}: {failure['error']}", file=sys.stderr)
    if not features.features:
        print("nothing could be scored: no file is written", file=sys.stderr)
        return EXIT_FAILURES
    path = features.save(args.out)
    for key, matrix in features.features.items():
        extractors = ", ".join(one["extractor"] for one in features.protocols[key]["extractors"])
        print(f"{extractors}: {len(matrix)} clips × {matrix.shape[1]} features, set {features.fingerprints[key]}")
    print(path)
    found = max((len(matrix) for matrix in features.features.values()), default=0) + len(failures)
    return EXIT_FAILURES if len(failures) > tolerated(found) else 0
