"""evalkit quickstart: no data, no downloads: two made-up models of a made-up world, scored, compared and drawn."""
from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), metavar="DIR")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="prompts a model (default 64)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="videos a prompt (default 2)")
    parser.add_argument("--workers", type=int, metavar="N")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.compare import print_comparison
    from evalkit.commands.run import write_run
    from evalkit.compare import compare_reports
    from evalkit.data.scene import SIZE
    from evalkit.data.synthetic import write_samples, write_world
    from evalkit.metrics.base import make_metric
    from evalkit.plan import missing_weights
    from evalkit.progress import shown_progress
    from evalkit.runner import evaluate
    from evalkit.suites import load_suite
    from evalkit.workers import available_cores

    clips = args.prompts * args.seeds
    print(f"Rendering {args.prompts} prompts × {args.seeds} seeds for two made-up models, one steady, one flickering, "
          f"and {2 * clips} clips of their world for reference.")
    reference = args.out / "reference"
    with shown_progress("clips") as progress:
        rows = write_world(reference, 2 * clips, "test", workers=args.workers or available_cores())
        for done, _ in enumerate(rows, 1):
            progress("rendering reference", done, 2 * clips)
    metrics = [name for name in load_suite("world").metrics if not missing_weights(make_metric(name))]
    reports = {}
    for model, quality in (("steady", "good"), ("flickering", "flickering")):
        samples = args.out / model / "samples"
        write_samples(samples, args.prompts, seeds_per_prompt=args.seeds, quality=quality, size=SIZE)
        with shown_progress() as progress:
            reports[model] = evaluate(samples, prompts=samples / "prompts.jsonl", metrics=metrics, model=model,
                                      reference=reference, workers=args.workers, trivial=True, progress=progress)
        write_run(reports[model], args.out / model)
    print("\nIs the flickering model worse? Paired by prompt:\n")
    print_comparison(reports["steady"], reports["flickering"],
                     compare_reports(reports["steady"], reports["flickering"]))
    pages = [args.out / "flickering" / "report.html", *_stages(args.out, args.workers)]
    print("\nNow score your own videos:  evalkit run samples/ --prompts prompts.jsonl --out runs/my-model\n"
          "and open these reports in a browser:")
    for page in pages:
        print(page.resolve())
    return 0


def _stages(out: Path, workers: int | None) -> Iterator[Path]:
    """What installed packages add, each in a folder of its name: `stage(out, workers)` gives its page, or None."""
    for entry in sorted(entry_points(group="evalkit.quickstart"), key=lambda entry: entry.name):
        page = entry.load()(out / entry.name, workers)
        if page is not None:
            yield page
