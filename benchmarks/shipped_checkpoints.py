"""The card of the shipped checkpoints, baselines/weights/tiny/README.md: model.json's facts, and figures.

    python benchmarks/shipped_checkpoints.py --work /tmp/shipped       # 32 prompts × 2 seeds, 10 minutes on one core

Samples that are in --work already are kept.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from baselines.checkpoints import WEIGHTS, read_card
from baselines.ladder_summary import RESULT
from baselines.quickstart import run
from baselines.shipped import FOLDER, shipped
from evalkit.results import write_atomic
from evalkit.table import format_value

SHOWN = {"truth.follows": "follows its prompt", "truth.overall": "true quality", "truth.visual": "of looks",
         "truth.motion": "of motion", "farm": "`farm`", "guarded": "`guarded`", "preference": "`preference`",
         "temporal_flicker": "`temporal_flicker`", "dynamic_degree": "`dynamic_degree`",
         "diversity_pixels": "diversity"}
TEXT = """# The tiny ladder

What it is: checkpoints of the preset `tiny` (`WanTransformer3DModel`, {parameters:.1f} M parameters, 16 frames of
64 × 64 pixels at 8 frames a second, pixels as latents, prompts read by the mini CLIP). Half precision in safetensors;
all but the first are LoRA deltas on the one that they stand on, and load on no other.

What it is for: `evalkit quickstart`, tests, and a start for `evalkit baseline … --from`. They know simple scenes of the
made-up world and its terse captions, and say nothing about real video.

| checkpoint | what | stage, steps | stands on | adapter | MiB | sha256 of `{weights}` |
|---|---|---|---|---|---|---|
{rungs}

Trained on: the made-up world alone (`evalkit world`), its training split, no real video: `evalkit baseline pretrain
--preset tiny`, then `sft`, `pairs` and `dpo` of the same preset. `over-optimized` went too far on purpose; it is a
warning, not a model to use. `model.json` beside each file holds stage, steps, sizes and identity.

## Figures

{facts}.
Means with 95 % intervals over prompts. Follows: shape, colour and direction are all as the prompt says, read by the
oracle, as is true quality. `python benchmarks/shipped_checkpoints.py --work DIR` measures them again and writes this
file.

{figures}

{changes}

Licence: Apache-2.0.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    run(args.work, args.workers, prompts=args.prompts, samples=args.samples, steps=args.steps)
    found = json.loads((args.work / RESULT).read_text())
    print(write_atomic(FOLDER / "README.md", card(found).encode()))


def card(found: dict[str, Any]) -> str:
    """The card's text; `found`: what the quickstart's stage wrote."""
    from baselines.shipped import load_shipped

    parameters = sum(value.numel() for value in load_shipped("pretrain").transformer.parameters()) / 1e6
    return TEXT.format(parameters=parameters, weights=WEIGHTS, rungs="\n".join(map(_rung, shipped())),
                       facts="; ".join(found["facts"][:2]), figures=_figures(found["rungs"]),
                       changes="\n\n".join(map(_change, found["comparisons"])))


def _rung(rung: Any) -> str:
    found, size = read_card(rung.folder), (Path(rung.folder) / WEIGHTS).stat().st_size / 2**20
    below = "" if found.base is None else f"`{Path(found.base).name}`"
    rank = "" if found.lora is None else f"rank {found.lora.rank}"
    return f"| `{rung.name}` | {rung.about} | {found.stage}, {found.step} | {below} | {rank} | {size:.1f} | " \
           f"`{found.sha256}` |"


def _figures(rungs: dict[str, Any]) -> str:
    rows = ["| | " + " | ".join(f"`{name}`" for name in rungs) + " |", "|---" * (len(rungs) + 1) + "|"]
    for name, title in SHOWN.items():
        cells = [f"{format_value(score['value'])} [{', '.join(map(format_value, score['ci95']))}]"
                 for score in (rung["scores"][name] for rung in rungs.values())]
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _change(one: dict[str, Any]) -> str:
    said = {verdict: ", ".join(f"{name} {change['value']:+.3g}" for name, change in one["changes"].items()
                               if change["verdict"] == verdict) or "nothing" for verdict in ("better", "worse")}
    win = one["wins"]["truth.overall"]
    return (f"`{one['above']}` over `{one['below']}`: of {one['pairs']} pairs of samples it wins {win['value']:.0%} in "
            f"true quality [{', '.join(f'{end:.0%}' for end in win['ci95'])}, n = {one['prompts']} prompts]. Clearly "
            f"better after Holm's correction: {said['better']}. Clearly worse: {said['worse']}.")


if __name__ == "__main__":
    main()
