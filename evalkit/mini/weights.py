"""Weights that ship with evalkit: half precision on disk, their recorded hash checked before they are loaded."""
from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evalkit.features.weights import MissingWeights, search_directories, sha256_of
from evalkit.results import write_atomic

FOLDER = Path(__file__).parent / "weights"
BUDGET_MIB = 24  # of all weights that the repository ever ships


@lru_cache(maxsize=1)
def shipped() -> dict[str, dict[str, Any]]:
    """Name -> what `manifest.json` says of it: sha256, seed, machine, and the command that trained it."""
    return json.loads((FOLDER / "manifest.json").read_text())


def load_shipped(network: nn.Module, name: str) -> str:
    """Fill `network` with the weights called `name`, in float32; returns their sha256.

    Those that ship with evalkit, else NAME.safetensors as `evalkit world train` leaves it in a folder of the
    environment variable EVALKIT_WEIGHTS. Raises MissingWeights where there are none, ValueError where a shipped file
    is not the one that the manifest describes, or a file holds another network.
    """
    path = next((path for path in (FOLDER / f"{name}.safetensors", *_trained_by_user(name)) if path.is_file()), None)
    if path is None:
        raise MissingWeights(f"the weights {name} do not ship with this version of evalkit; get them with: "
                             f"evalkit world train {name} --out DIR, and add DIR to EVALKIT_WEIGHTS")
    found = sha256_of(path)
    if path.parent == FOLDER and found != shipped()[name]["sha256"]:
        raise ValueError(f"{path}: expected sha256 {shipped()[name]['sha256']}, got {found}; reinstall evalkit, or "
                         f"train it again with: {shipped()[name]['command']}")
    load_weights(network, path)
    return found


def _trained_by_user(name: str) -> list[Path]:
    return [folder / f"{name}.safetensors" for folder in search_directories()]


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill `network` with the tensors of a safetensors file; ValueError naming what is missing or does not fit."""
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path}: not the weights of {type(network).__name__}: {error}") from error


def save_weights(network: nn.Module, path: Path, half: bool = True) -> None:
    """Write the network's tensors in one step, floating point ones in half precision."""
    from safetensors.torch import save

    def stored(value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.half() if half and value.is_floating_point() else value

    write_atomic(path, save({name: stored(value) for name, value in network.state_dict().items()}))
