"""Real models and real clips, end to end: `python benchmarks/real_models.py [fetv] [wan] [ucf101] [--assets DIR]`.

fetv: four text-to-video models and real clips, and how each score correlates with three human raters.
wan: Wan2.1-14B before and after reward alignment, compared. ucf101: Fréchet distance of SqueezeNet frame features, the
202 test clips against the 529 training clips, and against corrupted copies of the test clips.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
PER_VIDEO = ["farm", "temporal_flicker", "cinematic_composition", "artifacts", "dynamic_degree", "frame_consistency",
             "vbench_temporal_flickering"]
COMPONENTS = ("artifacts.", "farm.aesthetic", "farm.coherence", "cinematic_composition.")
RATINGS = ["static_quality_mean", "temporal_quality_mean", "alignment_mean"]
CORRUPTED = ("blur", "noise", "shuffle")


def fetv(assets: Path, out: Path) -> None:
    """Scores per model, then Spearman's correlation with people, overall and within each model."""
    from evalkit import evaluate
    from evalkit.data.datasets import VideoItem

    folder = assets / "data/generated/fetv"
    index = pd.read_csv(folder / "index.csv")
    tables = {}
    for model, rows in index.groupby("model"):
        items = [VideoItem(folder / row.mp4, row.mp4, row.prompt) for row in rows.itertuples()]
        report = evaluate(items, metrics=PER_VIDEO, model=model)
        _show(report, out / f"fetv-{model}")
        tables[model] = report.videos.merge(index[["mp4", *RATINGS]], left_on="video", right_on="mp4")
    scores = pd.concat([table.assign(model=model) for model, table in tables.items()])
    agreement(scores, "all models pooled")
    for model, table in tables.items():
        agreement(table, model)


def agreement(table: pd.DataFrame, title: str) -> None:
    """Spearman's rho of every score and component with each rating, with its interval clustered by prompt."""
    from evalkit.statistics import spearman_with_interval
    from evalkit.table import print_columns

    print(f"\nSpearman with human raters, {title}, n = {table[RATINGS[0]].notna().sum()}")
    lines = []
    for name in [*PER_VIDEO, *sorted(c for c in table if c.startswith(COMPONENTS))]:
        if "." in name and title != "all models pooled":
            continue
        cells = [name]
        for rating in RATINGS:
            pair = table[[name, rating, "prompt"]].dropna()
            if pair[name].nunique() < 2 or pair[rating].nunique() < 2:
                cells.append("constant")
                continue
            x, y, prompts = pair[name].to_numpy(), pair[rating].to_numpy(), pair["prompt"].tolist()
            rho, interval = spearman_with_interval(x, y, prompts)
            cells.append(f"{rho:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else f"{rho:+.2f}")
        lines.append(cells)
    print_columns(["score", "static quality", "temporal quality", "alignment"], lines)


def wan(assets: Path, out: Path) -> None:
    """The model before and after alignment, paired by prompt."""
    from evalkit import evaluate
    from evalkit.commands.compare import print_comparison
    from evalkit.compare import compare_reports
    from evalkit.data.datasets import VideoItem

    folder = assets / "data/generated/wan21_base_vs_aligned"
    index = pd.read_csv(folder / "index.csv")
    reports = {}
    for model in ("Wan21-T2V-14B", "UnifiedReward-Flex"):
        rows = index[index["model"] == model]
        items = [VideoItem(folder / row.mp4, row.mp4, row.prompt) for row in rows.itertuples()]
        reports[model] = evaluate(items, metrics=PER_VIDEO, model=model)
        _show(reports[model], out / f"wan-{model}")
    base, aligned = reports.values()
    print()
    print_comparison(base, aligned, compare_reports(base, aligned))


def ucf101(assets: Path, out: Path) -> None:
    """Set metrics that have weights here: the floor, the real distance, and what corruption adds."""
    from evalkit import build_reference, evaluate
    from evalkit.data.corruptions import corrupt
    from evalkit.data.datasets import find_videos
    from evalkit.data.video import read_video

    folder = assets / "data/ucf101/clips64"
    train = find_videos(f"ucf101:{folder}?part=train")
    test = find_videos(f"ucf101:{folder}?part=test")
    reference, failures = build_reference(train, metrics=["frechet_squeezenet"])
    assert not failures, failures
    reference.save(out / "ucf101-train.safetensors")
    _show(evaluate(test, metrics=["frechet_squeezenet"], reference=reference, model="test clips"), out / "ucf101-test")
    clips = [read_video(item.source) for item in test]
    for name in CORRUPTED:
        frames = [corrupt(clip.frames, name, 3, seed=i) for i, clip in enumerate(clips)]
        report = evaluate(frames, fps=25, metrics=["frechet_squeezenet"], reference=reference,
                          model=f"test clips, {name} 3")
        _show(report, out / f"ucf101-{name}")


def _show(report, folder: Path) -> None:
    from evalkit.commands.run import write_run

    print()
    write_run(report, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="fetv, wan, ucf101 (default: all)")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    args = parser.parse_args()
    os.environ.setdefault("EVALKIT_WEIGHTS", str(args.assets / "weights"))
    parts = {"fetv": fetv, "wan": wan, "ucf101": ucf101}
    for name in args.parts or parts:
        parts[name](args.assets, args.out)


if __name__ == "__main__":
    main()
