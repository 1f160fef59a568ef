"""Set scores from features on disk, without their videos: what `evalkit leaderboard verify` runs as a process.

python -m evalkit.rescore FEATURES.safetensors VIDEOS.parquet --metrics A,B --out FILE.json [--reference SET]
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.commands.run import add_engine_arguments, split_names
from evalkit.errors import UsageError
from evalkit.metrics.base import SetMetric, SetScore
from evalkit.plan import choose_metrics
from evalkit.reference import ReferenceFeatures
from evalkit.results import rows_of_features, write_atomic


def rescore(features: Mapping[str, Any], prompts: Sequence[str], names: Sequence[str], *,
            reference: ReferenceFeatures | None = None, protocol: str | None = None, seed: int = 0,
            decoder: str = "pyav") -> dict[str, SetScore]:
    """The set metrics named, from features (N, D) by metric, exactly as a run computes them.

    prompts: of the N rows, for metrics that compare the samples of a prompt. UsageError where a metric is none of a
    set, or a reference is missing.
    """
    import torch

    found = {}
    for name, metric in choose_metrics(names, None, protocol).items():
        if not isinstance(metric, SetMetric) or name not in features:
            raise UsageError(f"{name}: expected a set metric with features, got features of {', '.join(features)}")
        other = None
        if metric.needs_reference == "set":
            held = reference.find(metric, decoder, seed) if reference else None
            if held is None:
                why = reference.why_not(metric, decoder, seed) if reference else "needs a reference: --reference"
                raise UsageError(f"{name}: {why}")
            other = torch.from_numpy(held[0]).double()
        found[name] = metric.compute(torch.from_numpy(features[name]).double(), other, list(prompts), seed)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--metrics", required=True, metavar="A,B")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--reference", metavar="SET")
    parser.add_argument("--protocol")
    add_engine_arguments(parser)
    args = parser.parse_args(argv)
    import pandas as pd
    from safetensors.numpy import load_file

    names, features, table = split_names(args.metrics), load_file(args.features), pd.read_parquet(args.videos)
    reference = _open_reference(args)
    scores = {}
    for name in names:
        rows = rows_of_features(table["error"].isna().tolist(), len(features[name]), name)
        prompts = table["prompt"].iloc[rows].fillna("").tolist()
        scores |= rescore(features, prompts, [name], reference=reference, protocol=args.protocol,
                          seed=args.seed, decoder=args.decoder)
    content = {name: {"value": score.value, "ci95": score.ci95, "n": score.n, "reason": score.reason}
               for name, score in scores.items()}
    write_atomic(args.out, json.dumps(content, allow_nan=False).encode())


def _open_reference(args: argparse.Namespace) -> ReferenceFeatures | None:
    if args.reference is None:
        return None
    if args.reference.endswith(".safetensors"):
        return ReferenceFeatures.load(args.reference)
    from evalkit.runner import build_reference

    names = [name for name, metric in choose_metrics(split_names(args.metrics), None, args.protocol).items()
             if isinstance(metric, SetMetric) and metric.needs_reference == "set"]
    features, _ = build_reference(args.reference, protocol=args.protocol, metrics=names, device=args.device,
                                  workers=args.workers, cache=None if args.cache == "none" else args.cache,
                                  seed=args.seed, decoder=args.decoder)
    return features


if __name__ == "__main__":
    import sys

    try:
        main()
    except UsageError as error:
        sys.exit(f"evalkit.rescore: {error}")
