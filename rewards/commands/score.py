"""evalkit rewards score: any reward of any folder of videos, with what it is made of; also how `label` scores."""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cli import EXIT_FAILURES
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.data.datasets import VideoItem
    from evalkit.scoring import VideoRow
    from rewards.base import Reward


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the reward of each video, what it is made of, and the mean with its 95 % interval."
    parser.add_argument("videos", help="folder, glob, manifest (JSONL, CSV, Parquet), WebDataset tar or one video")
    add_input_arguments(parser)
    parser.add_argument("--segments", type=float, metavar="SECONDS",
                        help="score segments of so many seconds and average; --json tells each segment's reward")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    form.add_argument("--csv", action="store_true", help="print CSV: video, prompt, reward, components")


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Which reward of which videos, and how to compute: shared with `label`."""
    from evalkit.commands.run import add_engine_arguments

    parser.add_argument("--reward", required=True, metavar="NAME|FOLDER",
                        help="of `evalkit rewards list`, or a folder of `evalkit rewards train`")
    parser.add_argument("--prompts", metavar="FILE", help="JSONL / CSV / Parquet / TXT of prompts")
    parser.add_argument("--fps", type=float, help="frame rate of videos that carry none")
    parser.add_argument("--max-failures", default="0", metavar="N|P%%", help="tolerate this many (default 0)")
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import check_writable, parse_tolerance
    from evalkit.plan import find_items
    from evalkit.statistics import cluster_bootstrap

    tolerated = parse_tolerance(args.max_failures)
    items = find_items(args.videos, args.prompts, args.fps)
    if args.json:
        check_writable(args.json.parent)
    reward = open_reward(args.reward)
    if args.segments is not None:
        reward = _by_segments(reward, args.segments)
    rows = list(score_items(reward, items, args))
    good = [k for k, row in enumerate(rows) if not row.errors]
    values = [rows[k].values[label_of(reward)] for k in good]
    found: dict[str, Any] = {
        "reward": reward.name, "mean": None, "ci95": None, "n": len(good), "failed": len(rows) - len(good),
        "videos": [_as_dict(reward, item, row) for item, row in zip(items, rows, strict=True)]}
    if values:
        prompts = [items[k].prompt or items[k].name for k in good]  # videos of one prompt are one cluster
        found |= {"mean": sum(values) / len(values), "ci95": cluster_bootstrap(values, prompts, seed=args.seed)}
    if args.csv:
        _print_csv(found["videos"])
    else:
        _print_lines(found)
    for row in found["videos"]:
        if "error" in row:
            print(f"failed: {row['video']}: {row['error']}", file=sys.stderr)
    if args.json:
        from evalkit.results import write_atomic

        write_atomic(args.json, (json.dumps(found, indent=1) + "\n").encode())
    return EXIT_FAILURES if found["failed"] > tolerated(len(rows)) else 0


def open_reward(text: str) -> Reward:
    """The reward of that name, else of that folder; UsageError for neither, or where its weights are missing."""
    from evalkit.features.weights import MissingWeights
    from rewards.registry import available_rewards, load_reward

    try:
        if text in available_rewards() or not Path(text).is_dir():
            return load_reward(text)
        from rewards.preference import Preference

        return Preference(folder=Path(text)).eval()
    except (ValueError, MissingWeights) as error:
        also = "" if Path(text).exists() or text in available_rewards() else ", and there is no such folder"
        raise UsageError(f"{error}{also}") from error


def _by_segments(reward: Reward, seconds: float) -> Reward:
    from rewards.segments import Segments

    try:
        return Segments(reward, seconds)
    except ValueError as error:
        raise UsageError(f"--segments: {error}") from error


def label_of(reward: Reward) -> str:
    """The key of this reward in a row's values: not the metric's name, whose sign may be the other one."""
    return f"reward:{reward.name}"


def score_items(reward: Reward, items: Sequence[VideoItem], args: argparse.Namespace) -> Iterator[VideoRow]:
    """A row per video in order, with values[label_of(reward)], its components, or errors; kept in the cache.

    UsageError, before anything is decoded, where the reward needs prompts that are missing, or for a bad --device,
    --decoder, --cache, --seed or --workers.
    """
    from evalkit.progress import shown_progress
    from evalkit.runner import settle
    from evalkit.scoring import Scorer, VideoRow
    from evalkit.workers import available_cores, map_in_processes, map_in_threads

    bare = [item.name for item in items if not item.prompt]
    if reward.needs_prompts and bare:
        raise UsageError(f"{reward.name} needs prompts, and {len(bare)} of {len(items)} videos have none "
                         f"({', '.join(bare[:3])}{', …' * (len(bare) > 3)}): give --prompts FILE")
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers: expected at least 1, got {args.workers}")
    cache = None if args.cache == "none" else args.cache
    decoder, device, store = settle(args.decoder, args.device, cache, args.seed)
    scorer = Scorer({label_of(reward): as_metric(reward)}, store, decoder, args.seed, device)
    workers = args.workers or available_cores()

    def crashed(index: int) -> VideoRow:
        return VideoRow(index, items[index].name, errors={"": "reading it ends the process"})

    def read(index: int):
        return scorer.read(index, items[index])

    if device == "cpu":
        rows = map_in_processes(lambda index: scorer.finish(read(index)), range(len(items)), workers, crashed)
    else:
        rows = map(scorer.finish, map_in_threads(read, range(len(items)), workers))
    with shown_progress() as progress:
        for done, row in enumerate(rows, 1):
            progress(reward.name, done, len(items), row)
            yield row


def as_metric(reward: Reward):
    """This very object as a per-clip metric of sign +1, so that evalkit reads, caches and averages as in a run."""
    from rewards.metrics import RewardMetric

    class ScoredReward(RewardMetric):
        name, higher_is_better, reward_class = label_of(reward), True, type(reward)
        version, range, spec, extractor_keys = reward.version, reward.range, reward.spec, reward.extractor_keys
        needs_prompts, needs_fps = reward.needs_prompts, reward.needs_fps

        def measure(self, generated, reference):
            self.reward.to(generated.frames.device)
            return self.reward.measure(generated.frames, generated.features, generated.prompts, generated.fps)

    metric = ScoredReward()
    metric.reward = reward  # in the place of the one that `reward_class()` would make
    return metric


def _as_dict(reward: Reward, item: VideoItem, row: VideoRow) -> dict[str, Any]:
    told: dict[str, Any] = {"video": row.name, "prompt": item.prompt}
    if row.errors:
        return told | {"error": "; ".join(row.errors.values())}
    label = label_of(reward)
    told |= {"reward": row.values[label], "components": row.components[label]}
    curve = row.curves[label].get("segments")
    return told if curve is None else told | {"segments": curve.tolist()}


def _print_lines(found: dict[str, Any]) -> None:
    for row in found["videos"]:
        if "error" not in row:
            parts = "".join(f"  {name} {value:.3f}" for name, value in row["components"].items())
            print(f"{row['video']}  {row['reward']:.4f}{parts}")
    told = "no mean: every video failed" if found["mean"] is None else f"mean {found['mean']:.4f}"
    if found["ci95"]:
        told += " [{:.4f}, {:.4f}]".format(*found["ci95"])
    elif found["mean"] is not None:
        told += " (no interval: a single prompt or video)"
    print(f"\n{found['reward']}: {told}, n = {found['n']}, failed {found['failed']}")


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    import csv

    names = list(dict.fromkeys(name for row in rows for name in row.get("components", ())))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["video", "prompt", "reward", *names])
    for row in rows:
        if "error" not in row:
            writer.writerow([row["video"], row["prompt"] or "", row["reward"],
                             *(row["components"].get(name, "") for name in names)])
