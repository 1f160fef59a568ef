"""evalkit baseline ladder: pretrain, fine-tune and align one model, score every rung alike, and draw what it cost."""
from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser, action: str) -> None:
    from baselines.flags import add_flags
    from baselines.ladder_rungs import PRESETS, Config

    add_flags(parser, Config, PRESETS)
    parser.add_argument("--fast", action="store_true", help="so small that two CPU cores do: to see whether all runs")
    parser.add_argument("--merge", nargs="+", metavar="DIR", help="finished ladders of other training seeds: report "
                        "them together in --out, their differences in the intervals; nothing is trained")
    parser.add_argument("--report", metavar="DIR", help="draw the page of a finished ladder anew, and do nothing else")


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from baselines.commands.sampling import run_sampling
    from baselines.flags import read_flags
    from baselines.ladder import climb
    from baselines.ladder_rungs import FAST, PRESETS, Config
    from baselines.ladder_summary import RESULT, write_summary

    presets = {name: values | FAST if args.fast and name != "smoke" else values for name, values in PRESETS.items()}
    config = read_flags(args, Config, presets)
    if args.report:
        path = Path(args.report) / RESULT
    elif args.merge:
        path = write_summary([Path(folder) for folder in args.merge], Path(config.out))
    else:
        path = run_sampling(climb, config)
    print(path)
    try:
        import av  # noqa: F401  (machines that train may lack them)
        import plotly  # noqa: F401
    except ImportError as error:
        print(f"{error.name} is not on this machine; elsewhere: evalkit baseline ladder --report {path.parent}")
        return 0
    from baselines.ladder_report import write_report

    print(write_report(path.parent))
    return 0
