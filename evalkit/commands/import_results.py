"""evalkit import vbench: another benchmark's result file gains intervals, compare and boards."""
from __future__ import annotations

import argparse
from pathlib import Path

from evalkit.errors import UsageError
from evalkit.results import Report, Score, protocol_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("kind", choices=["vbench"])
    parser.add_argument("path", type=Path, help="results_…_eval_results.json, or the folder that holds several")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="", help="name of the model (default: the file's name)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace scores of another protocol in --out")


def main(args: argparse.Namespace) -> int:
    from evalkit.commands.run import name_model, open_out, refuse_other_protocols
    from evalkit.table import print_scores

    try:
        report = import_vbench(args.path, args.model or name_model(str(args.path)), args.seed)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if not args.overwrite and (previous := open_out(args.out)) is not None:
        refuse_other_protocols(previous, report, args.out)
    path = report.save(args.out)
    print_scores(report)
    print(f"\n{path}")
    return 0


def import_vbench(path: Path, model: str, seed: int = 0) -> Report:
    """VBench's numbers as a report: means over videos with intervals clustered by prompt, and its three totals."""
    from evalkit.statistics import cluster_bootstrap
    from evalkit.vbench_import import import_vbench_results, vbench_total

    found = import_vbench_results(path)
    scores, protocols = {}, {}

    def protocol_of(name: str) -> str:
        protocol = {"metric": name, "version": 1, "source": "imported from a VBench result file"}
        identity = protocol_id(protocol)
        protocols[identity] = protocol
        return identity

    videos = found.videos.rename(columns={"sample": "seed"})
    for dimension, aggregate in found.aggregates.items():
        name = f"vbench_{dimension}"
        videos = videos.rename(columns={dimension: name})
        used = videos[videos[name].notna()]
        clusters = used["prompt"].fillna(used["video"]).tolist()
        scores[name] = Score(float(used[name].mean()), cluster_bootstrap(used[name].to_numpy(), clusters, seed=seed),
                             len(used), "", True, protocol_of(name), details={"vbench_aggregate": aggregate})
    total = vbench_total(found.aggregates)
    for part in ("quality", "semantic", "total"):
        value, name = getattr(total, part), f"vbench_{part}_score"
        reason = None if value is not None else total.reason
        scores[name] = Score(value, None, len(videos), "", True, protocol_of(name), reason)
    videos["content"], videos["error"], videos["path"] = "", None, None
    counts = {"found": len(videos), "scored": len(videos), "failed": 0}
    return Report(model, scores, protocols, counts, [], {"versions": {}, "device": "", "commit": "", "seed": seed,
                                                         "wall_seconds": 0.0}, videos)
