"""A folder that `evalkit rewards train` wrote: weights, and a card that tells their sha256."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evalkit.features.weights import MissingWeights, sha256_of


def read_trained(weights: Path, card: Path, command: str) -> dict[str, Any]:
    """What the card says. MissingWeights where a file is missing, naming the `command` that makes it.

    ValueError where the card is not one of ours, or the weights are not those that it describes.
    """
    for path in (weights, card):
        if not path.is_file():
            raise MissingWeights(f"found no {path}; make it with: {command} --out {weights.parent}")
    try:
        told = json.loads(card.read_text())
        expected = told["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{card}: not a card of evalkit rewards train: {error!r}") from error
    if (found := sha256_of(weights)) != expected:
        raise ValueError(f"{weights}: expected sha256 {expected}, as its card says, got {found}")
    return told
