"""evalkit run: score videos, write results.json, videos.parquet and report.html, print the table."""
from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

from evalkit.cli import EXIT_FAILURES
from evalkit.errors import UsageError
from evalkit.results import Report, differing_fields

EXAMPLES = """examples:
  evalkit run samples/ --prompts prompts.jsonl --out runs/my-model
  evalkit run samples/ --reference ucf101/ --suite standard --out runs/my-model
  evalkit run samples/ --protocol ucf101_styleganv --reference ucf101.safetensors --out runs/paper
exit codes: 0 all scored, 2 cannot be done as asked (nothing was decoded), 3 more videos failed than --max-failures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EXAMPLES
    parser.add_argument("samples", help="folder, glob, manifest (JSONL, CSV, Parquet), WebDataset tar or one video")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--prompts", metavar="FILE", help="JSONL / CSV / Parquet / TXT of prompts")
    parser.add_argument("--reference", metavar="SET", help="real videos, or a file of `evalkit reference build`")
    parser.add_argument("--paired", metavar="SET", help="one reference per video, for lpips, psnr and ssim")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--metrics", metavar="A,B", help="names from `evalkit list metrics`")
    which.add_argument("--suite", metavar="NAME", help="names from `evalkit list suites` (default: standard)")
    parser.add_argument("--protocol", metavar="NAME", help="a paper's protocol, from `evalkit list protocols`")
    parser.add_argument("--fps", type=float, help="frame rate of videos that carry none")
    parser.add_argument("--model", default="", help="name of the model (default: the samples' folder)")
    parser.add_argument("--max-failures", default="0", metavar="N|P%%", help="tolerate this many (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace scores of another protocol in --out")
    parser.add_argument("--no-report", action="store_true", help="skip report.html")
    add_engine_arguments(parser)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """How to compute: shared with the other commands that score."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on the CPU (default: one per core)")
    parser.add_argument("--cache", metavar="DIR", default="default", help="where scores are kept; 'none' keeps none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", default="pyav", choices=["pyav", "torchcodec", "auto"])


def main(args: argparse.Namespace) -> int:
    names = split_names(args.metrics)
    tolerated = parse_tolerance(args.max_failures)
    previous = open_out(args.out)
    from evalkit.progress import shown_progress
    from evalkit.runner import evaluate

    with shown_progress() as progress:
        report = evaluate(
            args.samples, prompts=args.prompts, fps=args.fps, metrics=names, suite=args.suite,
            protocol=args.protocol, reference=args.reference, paired=args.paired,
            model=args.model or name_model(args.samples), device=args.device, workers=args.workers,
            cache=None if args.cache == "none" else args.cache, seed=args.seed, decoder=args.decoder,
            trivial=not args.no_report, progress=progress,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        if previous is not None:
            if not args.overwrite:
                refuse_other_protocols(previous, report, args.out)
            left = report.keep_scores_of(previous)
            if left:
                print(f"{args.out} held {', '.join(left)} of other videos or prompts: replaced")
        write_run(report, args.out, with_report=not args.no_report)
    failed = report.counts["failed"] + sum(f["error"].startswith("reference: ") for f in report.failures)
    return EXIT_FAILURES if failed > tolerated(report.counts["found"]) else 0


def write_run(report: Report, out: Path, *, with_report: bool = True) -> None:
    """Save the run, draw its page, print its table and where everything lies."""
    from evalkit.table import print_scores

    path = report.save(out)
    print_scores(report)
    if with_report:
        from evalkit.report import write_report

        path = write_report(report, out / "report.html")
    print(f"\n{path}")


def name_model(samples: str) -> str:
    """The folder's name (with its full stops: Wan2.1), a file's without suffix, else what was typed."""
    path = Path(samples)
    return path.resolve().name if path.is_dir() else path.stem if path.is_file() else samples


def refuse_other_protocols(previous: Report, report: Report, out: Path) -> None:
    """UsageError naming the differing field where a score that `out` holds would change its protocol."""
    for name, score in report.scores.items():
        held = previous.scores.get(name)
        if held is None or held.protocol == score.protocol or held.value is None:
            continue
        fields = differing_fields(previous.protocols[held.protocol], report.protocols[score.protocol])
        raise UsageError(f"{out} holds {name} under another protocol ({'; '.join(fields)}): "
                         "give another --out, or --overwrite to replace it. The new scores are in the cache")


def parse_tolerance(text: str):
    """"3" or "5%" -> a function from the number of videos to the number of failures that is still fine."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise UsageError(f"--max-failures: expected a count or a share such as 5%, got {text!r}")
    return (lambda found: number / 100 * found) if text.endswith("%") else (lambda found: number)


def split_names(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def check_writable(folder: Path) -> None:
    """UsageError where no file can be made in `folder`; makes it where it does not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot write there: {error.strerror}") from error


def open_out(out: Path) -> Report | None:
    """The results that `out` holds already; UsageError where nothing can be written there."""
    check_writable(out)
    if not (out / "results.json").exists():
        return None
    try:
        return Report.load(out)
    except (ValueError, OSError) as error:
        raise UsageError(f"--out {out} holds results that cannot be read ({error}): give another folder") from error
