"""Checkpoints that come with the package: the rungs of one ladder of the preset tiny."""
from __future__ import annotations

from pathlib import Path

from baselines.checkpoints import WEIGHTS, load_model, read_card
from baselines.ladder_rungs import Rung
from baselines.model import VideoDiffusion
from evalkit.errors import UsageError
from evalkit.features.weights import sha256_of

FOLDER = Path(__file__).parent / "weights" / "tiny"
RUNGS = tuple(Rung(name, str(FOLDER / name), about, parent) for name, about, parent in (
    ("pretrain", "pretrained on the world, two in five clips of it damaged", ""),
    ("sft", "fine-tuned on clean clips of the world", "pretrain"),
    ("dpo", "DPO on the truly best against the worst of four samples each of 600 prompts, beta 5000", "sft"),
    ("over-optimized", "DPO on all pairs of such samples, beta 300, too far on purpose: a warning", "sft")))


def shipped() -> list[Rung]:
    """Those that are there, from the bottom up. UsageError for weights that are not the ones of their card."""
    found = [rung for rung in RUNGS if Path(rung.folder).is_dir()]
    for rung in found:
        path = Path(rung.folder) / WEIGHTS
        if not path.is_file() or sha256_of(path) != read_card(rung.folder).sha256:
            raise UsageError(f"{path}: missing, or not the weights of its card; install the package again")
    return found


def load_shipped(name: str, lora_scale: float = 1.0) -> VideoDiffusion:
    """The model of a shipped checkpoint, adapters merged. UsageError for a name that is not there, or damage."""
    there = {rung.name: rung.folder for rung in shipped()}
    if name not in there:
        raise UsageError(f"expected a shipped checkpoint of {', '.join(there) or 'none'}, got {name!r}")
    return load_model(there[name], lora_scale)
