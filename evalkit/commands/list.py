"""evalkit list: metrics, features, datasets, suites or protocols: direction, range, weights present or not."""
from __future__ import annotations

import argparse
import json
from typing import Any

from evalkit.catalogue import read_catalogue

KINDS = ("metrics", "features", "datasets", "suites", "protocols")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    rows = rows_of(args.kind)
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    _print(args.kind, rows)
    return 0


def rows_of(kind: str) -> list[dict[str, Any]]:
    """What there is of one kind, one dict each, ready for JSON."""
    if kind == "datasets":
        from evalkit.data.datasets import DATASETS

        return [{"name": one.name, "summary": one.summary, "layout": one.layout, "example": one.example}
                for one in DATASETS.values()]
    if kind == "suites":
        from evalkit.suites import available_suites

        return [{"name": suite.name, "summary": suite.summary, "metrics": list(suite.metrics),
                 "prompts": len(suite.prompts)} for suite in available_suites().values()]
    rows = read_catalogue()[kind]
    if kind in ("metrics", "features"):
        from evalkit.features.weights import missing_for

        for row in rows:
            missing = [name for key in [*row.get("extractors", []), row["name"]] for name in missing_for(key)]
            row["weights"] = f"evalkit weights fetch {missing[0]}" if missing else "nothing missing"
    return rows


def _print(kind: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console, width = Console(), max(len(row["name"]) for row in rows)
    for row in rows:
        facts = "; ".join(filter(None, (_fact(key, value, row) for key, value in row.items())))
        console.print(Text.assemble((f"{row['name']:<{width}}", "bold"), "  ", row["summary"]), soft_wrap=True)
        if facts:
            console.print(Text(" " * (width + 2) + facts, "dim"), soft_wrap=True)


def _fact(key: str, value: Any, row: dict[str, Any]) -> str:
    if key in ("name", "summary", "version", "extractors", "unit") or value in ([], ""):
        return ""
    if key == "better":
        low, high = row["range"]
        span = f"{'−∞' if low is None else f'{low:g}'} … {'∞' if high is None else f'{high:g}'} {row['unit']}".rstrip()
        return f"{value} is better, {span}"
    if key == "range":
        return ""
    return f"{key}: {', '.join(value) if isinstance(value, list) else value}"
