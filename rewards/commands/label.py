"""evalkit rewards label."""
from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evalkit.cli import EXIT_FAILURES
from evalkit.errors import UsageError

DIMENSIONS = ("visual", "motion", "text", "overall")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from rewards.commands.score import add_input_arguments

    parser.description = ("Let a reward choose among samples of the same prompt: pairs.jsonl with chosen, rejected, "
                          "prompt, tie, dimension and rater. Scores are kept in the cache: a stopped command resumes.")
    parser.add_argument("samples", help="folder, glob, manifest (JSONL, CSV, Parquet), WebDataset tar or one video")
    add_input_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="pairs.jsonl")
    parser.add_argument("--margin", type=float, default=0.0, metavar="M",
                        help="a difference below this, in the reward's own unit, is a tie (default 0: equal alone)")
    parser.add_argument("--pairs", choices=["all", "extremes"], default="all",
                        help="every pair of a prompt's samples, or its best against its worst (default all)")
    parser.add_argument("--dimension", choices=DIMENSIONS, default="overall", help="what the reward judges")
    parser.add_argument("--overwrite", action="store_true", help="replace pairs of another rater in --out")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable, parse_tolerance
    from evalkit.plan import find_items
    from evalkit.results import write_atomic
    from rewards.commands.score import label_of, open_reward, score_items

    tolerated = parse_tolerance(args.max_failures)
    if not args.margin >= 0:
        raise UsageError(f"--margin: expected 0 or more, got {args.margin:g}")
    items = find_items(args.samples, args.prompts, args.fps)
    groups = _by_prompt(items)
    reward = open_reward(args.reward)
    rater = f"reward:{Path(args.reward)}"  # a folder without the slash at its end
    check_writable(args.out.parent)
    if not args.overwrite:
        _refuse_other_raters(args.out, rater)
    rows = list(score_items(reward, items, args))
    values = {k: row.values[label_of(reward)] for k, row in enumerate(rows) if not row.errors}
    found = []
    for prompt, members in groups.items():
        scored = sorted((k for k in members if k in values), key=lambda k: -values[k])
        for better, worse in _choose(scored, args.pairs):
            gap = values[better] - values[worse]
            found.append({"chosen": _place(items[better].source, args.out),
                          "rejected": _place(items[worse].source, args.out), "prompt": prompt,
                          "tie": gap == 0 or gap < args.margin, "dimension": args.dimension, "rater": rater})
    for row in rows:
        for why in row.errors.values():
            print(f"failed: {row.name}: {why}", file=sys.stderr)
    failed = len(rows) - len(values)
    if found:
        write_atomic(args.out, "".join(json.dumps(pair) + "\n" for pair in found).encode())
        print(f"{len(found)} pairs of {len(groups)} prompts, {sum(pair['tie'] for pair in found)} ties, "
              f"{failed} of {len(rows)} videos failed\n{args.out}")
    elif not failed:
        raise UsageError(f"{args.samples}: no prompt has two samples to choose between")
    else:
        print(f"no pairs: {failed} of {len(rows)} videos failed, {args.out} is not written", file=sys.stderr)
        return EXIT_FAILURES
    return EXIT_FAILURES if failed > tolerated(len(rows)) else 0


def _by_prompt(items: Sequence[Any]) -> dict[str, list[int]]:
    """Prompt -> indices of its samples; UsageError where a sample has no prompt, or all stand alone."""
    bare = [item.name for item in items if not (item.prompt or "").strip()]
    if bare:
        raise UsageError(f"pairs are made among samples of one prompt, and {len(bare)} of {len(items)} videos have "
                         f"none ({', '.join(bare[:3])}{', …' * (len(bare) > 3)}): give --prompts FILE")
    lying_about = [item.name for item in items if not isinstance(item.source, (str, Path))]
    if lying_about:
        raise UsageError(f"pairs name files, and {lying_about[0]} is none: give a folder or manifest of files")
    groups: dict[str, list[int]] = {}
    for k, item in enumerate(items):
        groups.setdefault(item.prompt, []).append(k)
    if all(len(members) < 2 for members in groups.values()):
        raise UsageError(f"expected at least one prompt with two samples, got {len(groups)} prompts with one each")
    return groups


def _choose(scored: Sequence[int], which: str) -> Iterator[tuple[int, int]]:
    """Pairs of indices, the better one first, of indices from best to worst."""
    if which == "extremes" and len(scored) > 1:
        return iter([(scored[0], scored[-1])])
    return itertools.combinations(scored, 2)


def _place(source: str | Path, out: Path) -> str:
    """The video's path from the folder of the pairs file, as `read_pairs` looks for it, so that both can be moved."""
    return Path(os.path.relpath(source, out.parent)).as_posix()


def _refuse_other_raters(out: Path, rater: str) -> None:
    """UsageError where `out` holds pairs of somebody else, or is no file of pairs; its own are made anew."""
    if not out.exists():
        return
    try:
        raters = {json.loads(line).get("rater") for line in out.read_text().splitlines() if line.strip()}
    except (ValueError, AttributeError, OSError) as error:
        raise UsageError(f"--out {out} holds something else than pairs ({error}): give another name") from error
    if raters - {rater}:
        raise UsageError(f"--out {out} holds pairs of {', '.join(sorted(map(str, raters - {rater})))}: give another "
                         "name, or --overwrite to replace them")
