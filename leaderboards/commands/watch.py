"""evalkit watch: each new checkpoint of a running training sampled, scored, put on a board and held against a gate."""
from __future__ import annotations

import argparse
from pathlib import Path

from leaderboards.commands.generation import add_generation_arguments, read_generation

EPILOG = """examples:
  evalkit watch runs/dpo --prompts world:50 --suite world --out watched/            # our baselines' checkpoints
  evalkit watch checkpoints/ --sample 'python sample.py {checkpoint} {prompts} {out}' --prompts prompts.txt \\
      --out watched/ --board t2v --seeds 0 --prompts-rewritten no --sampler unipc --guidance 5 --size 832x480 --fps 16
  evalkit watch checkpoints/ … --gate gate.toml --base runs/last-release --once      # every night
In a training script, one line does the same:
  leaderboards.watching.start_watch("checkpoints", "--prompts", "prompts.txt", "--out", "watched", …)
A checkpoint is a file or folder with its step in the name; one that is half written waits until it is whole.
exit codes: 0 looked, 2 cannot be done as asked, 3 a checkpoint could not be sampled or scored, 4 a regression
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, metavar="CHECKPOINT_DIR")
    parser.add_argument("--prompts", required=True, help="for the sampling; for the scoring too, where it is a file "
                                                          "and the samples hold no prompts.jsonl")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a folder per checkpoint comes here")
    parser.add_argument("--sample", metavar="CMD", help="makes videos of {prompts} in {out} by {checkpoint}; not "
                                                        "needed for our baselines and pipelines of diffusers")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--metrics", metavar="A,B")
    which.add_argument("--suite", metavar="NAME", help="default: standard")
    parser.add_argument("--reference", metavar="SET", help="as in `evalkit run`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, metavar="N")
    parser.add_argument("--board", metavar="NAME|FILE", help="where the checkpoints become rows of one run")
    parser.add_argument("--run-name", default="", metavar="NAME", help="on the board (default: the folder's)")
    parser.add_argument("--gate", type=Path, metavar="FILE.toml", help="as in `evalkit compare`; needs --base")
    parser.add_argument("--base", type=Path, metavar="RUN", help="what the checkpoints are held against")
    parser.add_argument("--nights", type=int, default=30, help="checks that together raise a false alarm in 5 %% of "
                                                               "cases at most (default 30)")
    parser.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between looks (default 30)")
    parser.add_argument("--settle", type=float, default=10.0, metavar="SECONDS",
                        help="without a write before a checkpoint counts as whole (default 10)")
    parser.add_argument("--once", action="store_true", help="look once, handle what is there, and end")
    add_generation_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable
    from evalkit.errors import UsageError
    from leaderboards.commands.common import open_board
    from leaderboards.watching import Watcher, watch

    if not args.folder.is_dir():
        raise UsageError(f"no folder {args.folder}")
    if not (args.every > 0 and args.settle >= 0 and args.nights > 0):
        raise UsageError(f"expected --every and --nights above 0 and --settle of at least 0, got {args.every:g}, "
                         f"{args.nights} and {args.settle:g}")
    check_writable(args.out)
    board = open_board(args.board).path if args.board else None
    watcher = Watcher(
        args.folder, args.out, args.prompts, args.sample or "", _scoring(args), board, args.run_name,
        read_generation(args) if board else None, _gate(args), args.settle, say=lambda line: print(line, flush=True))
    return watch(watcher, every=args.every, once=args.once)


def _scoring(args: argparse.Namespace) -> list[str]:
    pairs = {"--metrics": args.metrics, "--suite": args.suite, "--reference": args.reference, "--device": args.device,
             "--workers": args.workers}
    return [part for flag, value in pairs.items() if value is not None for part in (flag, str(value))]


def _gate(args: argparse.Namespace):
    import tomllib

    from evalkit.compare import check_gate
    from evalkit.errors import UsageError
    from evalkit.results import Report
    from leaderboards.watching import Gate

    if args.gate is None and args.base is None:
        return None
    if args.gate is None or args.base is None:
        raise UsageError("expected --gate and --base together: margins, and the run that they are counted from")
    try:
        rules = tomllib.loads(args.gate.read_text())
        gate = Gate(Report.load(args.base), rules, args.nights)
    except (ValueError, OSError) as error:
        raise UsageError(f"--gate, --base: {error}") from error
    check_gate([], rules)  # before anything is sampled: is the file one?
    return gate
