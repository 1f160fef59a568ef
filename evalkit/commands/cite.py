"""evalkit cite: methods sentence, LaTeX row and BibTeX of a run."""
from __future__ import annotations

import argparse
from pathlib import Path

from evalkit.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("run", type=Path, help="folder that `evalkit run --out` wrote")


def main(args: argparse.Namespace) -> int:
    from evalkit.cite import bibtex, latex_row, methods_sentence
    from evalkit.results import Report

    try:
        report = Report.load(args.run)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    print("\n\n".join([methods_sentence(report), latex_row(report), bibtex(report)]))
    return 0
