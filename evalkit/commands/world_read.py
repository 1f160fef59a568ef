"""evalkit world read: what the oracle sees in videos of the made-up world, and whether their prompts hold of them."""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from evalkit.cli import EXIT_FAILURES
from evalkit.commands.run import check_writable
from evalkit.errors import UsageError
from evalkit.statistics import wilson_interval


def read(args: argparse.Namespace) -> int:
    """Print a line per video, then the shares; the exit code."""
    from evalkit.data.oracle import load_oracle
    from evalkit.features.weights import MissingWeights
    from evalkit.plan import find_items

    items = find_items(args.samples, args.prompts, args.fps)
    if args.json:
        check_writable(args.json.parent)
    try:
        load_oracle()
    except (MissingWeights, ValueError) as error:
        raise UsageError(str(error)) from error
    rows = []
    for item in items:
        rows.append(_read_one(item))
        print(_line(rows[-1]), flush=True)
    failed = [row for row in rows if "error" in row]
    shares = _shares([row["claims"] for row in rows if row.get("claims")])
    print(f"\nvideos: {len(rows)} found, {len(failed)} failed")
    for row in failed:
        print(f"  {row['path']}: {row['error']}")
    if shares:
        print("share of clips that show what their prompt claims, 95 % interval:")
    for name, one in shares.items():
        print(f"{name:<14} {one['share']:.3f}  [{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]  n = {one['n']}")
    if args.json:
        args.json.write_text(json.dumps({"videos": rows, "failed": len(failed), "shares": shares}, indent=1) + "\n")
    return EXIT_FAILURES if failed else 0


def _read_one(item: Any) -> dict[str, Any]:
    """What the oracle says of a video, ready for JSON; "error" says why it, or its prompt, could not be judged."""
    from evalkit.data.oracle import read_video_file
    from evalkit.data.video import VideoError

    row: dict[str, Any] = {"path": item.name, "prompt": item.prompt}
    try:
        reading = read_video_file(str(item.source), fps=item.fps)
    except VideoError as error:
        return row | {"error": str(error)}
    row |= asdict(reading) | {"broken": reading.broken()}
    try:
        return row | {"claims": reading.agrees(item.prompt) if item.prompt is not None else None}
    except ValueError as error:  # a prompt that is not of the world
        return row | {"error": f"prompt: {error}"}


def _line(row: dict[str, Any]) -> str:
    if "factors" not in row:
        return f"{row['path']}: cannot be read: {row['error']}"
    seen = row["factors"]
    parts = [f"{row['path']}: {seen['colour']} {seen['shape']}, {seen['direction']}, camera {seen['camera']}"]
    if row["broken"]:
        parts.append("broken: " + ", ".join(row["broken"]))
    if "error" in row:
        parts.append("its prompt is not of this world")
    elif row["claims"]:
        wrong = [f"{factor} ({seen[factor]})" for factor, holds in row["claims"].items() if not holds]
        parts.append("does not hold: " + ", ".join(wrong) if wrong else "as told")
    return "; ".join(parts)


def _shares(judged: list[dict[str, bool]]) -> dict[str, dict[str, Any]]:
    """"everything" and each factor that is claimed -> share of clips in which it holds, 95 % interval, n."""
    held = {"everything": [all(claims.values()) for claims in judged]} if judged else {}
    for factor in dict.fromkeys(factor for claims in judged for factor in claims):
        held[factor] = [claims[factor] for claims in judged if factor in claims]
    return {name: {"share": sum(each) / len(each), "ci95": wilson_interval(sum(each) / len(each), len(each)),
                   "n": len(each)} for name, each in held.items()}
