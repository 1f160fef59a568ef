"""evalkit compare: two runs, paired per prompt; --gate exits 4 on a regression."""
from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from xml.etree import ElementTree

from evalkit.cli import EXIT_REGRESSION
from evalkit.errors import UsageError
from evalkit.results import Report, write_atomic

EPILOG = """gate file:
  [metrics.farm]
  margin = 0.02          # the largest loss that is tolerated, in the score's own unit
  [metrics.dynamic_degree]
  margin = 1.0
exit codes: 0 compared (and the gate kept), 2 cannot be compared, 4 a regression beyond the gate's margin
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EPILOG
    parser.add_argument("base", type=Path, help="run folder that `evalkit run --out` wrote")
    parser.add_argument("new", type=Path, help="the run to judge against it")
    parser.add_argument("--metrics", metavar="A,B", help="only these scores")
    parser.add_argument("--gate", type=Path, metavar="FILE.toml", help="exit 4 if a score loses more than its margin")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the gate's outcome as JUnit XML")
    parser.add_argument("--seed", type=int, default=0)


def main(args: argparse.Namespace) -> int:
    from evalkit.compare import check_gate, compare_reports

    base, new = (_load(path) for path in (args.base, args.new))
    names = [name.strip() for name in args.metrics.split(",")] if args.metrics else None
    found = compare_reports(base, new, names, seed=args.seed)
    results = check_gate(found, _load_gate(args.gate)) if args.gate else []
    print_comparison(base, new, found)
    for result in results:
        print(f"gate {'pass' if result.passed else 'FAIL'}  {result.name}: {result.message}")
    if args.json:
        content = {"schema": "evalkit.compare/1", "base": base.model, "new": new.model,
                   "scores": [one.to_json() for one in found],
                   "gate": [{"name": r.name, "passed": r.passed, "message": r.message} for r in results]}
        write_atomic(args.json, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())
    if args.junit:
        judged = {one.name: {"margin": 0.0} for one in found if one.ci95 is not None}
        write_atomic(args.junit, junit_xml(results or (check_gate(found, {"metrics": judged}) if judged else [])))
    return EXIT_REGRESSION if any(not result.passed for result in results) else 0


def _load(path: Path) -> Report:
    try:
        return Report.load(path)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _load_gate(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--gate {path}: {error}") from error


def junit_xml(results) -> bytes:
    """One test case per gated score, as CI servers read it."""
    failures = sum(not result.passed for result in results)
    suite = ElementTree.Element("testsuite", name="evalkit gate", tests=str(len(results)), failures=str(failures))
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", classname="evalkit.gate", name=result.name)
        if not result.passed:
            ElementTree.SubElement(case, "failure", message=result.message)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def print_comparison(base: Report, new: Report, found) -> None:
    """A table that reads like a finding: difference, interval, p-value, effect size, verdict."""
    from evalkit.table import format_value, print_columns

    def number(value: float | None) -> str:
        return "" if value is None else format_value(value)

    rows = [[one.name + (" ↑" if one.higher_is_better else " ↓"), number(one.base), number(one.new),
             number(one.difference), f"[{number(one.ci95[0])}, {number(one.ci95[1])}]" if one.ci95 else "",
             "" if one.p_holm is None else f"{one.p_holm:.3f}" if one.p_holm >= 1e-3 else "<0.001",
             "" if one.effect_size is None else f"{one.effect_size:+.2f}", str(one.n_prompts or one.n_pairs or ""),
             one.verdict] for one in found]
    by = "file name" if any(one.paired_by == "video" for one in found) else "prompt"
    print(f"{base.model} → {new.model}, paired by {by}; p after Holm's correction, effect is Cohen's d_z")
    print_columns(["score", "base", "new", "difference", "95 % interval", "p", "effect", "n", "verdict"], rows,
                  right=("base", "new", "difference", "p", "effect", "n"))
    unpaired = max((one.n_unpaired for one in found), default=0)
    if unpaired:
        print(f"difference and what follows are over what both runs have; base and new hold {unpaired} videos of other "
              f"{by}s, too")
