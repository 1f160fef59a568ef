"""Models on disk: model.safetensors, whole or as an adapter on another checkpoint, and model.json, which says which."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from baselines.adapters import Lora, adapter_parameters, add_adapter, is_adapted, load_adapter, merge_adapter
from baselines.model import VideoDiffusion, build_transformer, build_vae
from baselines.presets import Preset, is_patch_codec
from baselines.text import build_text_encoder
from evalkit.errors import UsageError
from evalkit.features.weights import sha256_of
from evalkit.results import write_atomic

WEIGHTS, VAE, CARD = "model.safetensors", "vae.safetensors", "model.json"


@dataclass(frozen=True)
class Checkpoint:
    """What model.json says. base: the checkpoint that an adapter stands on, and its `identity`; pretrained: the
    diffusers pipeline below all of them, if any."""

    stage: str
    step: int
    preset: Preset
    sha256: str
    lora: Lora | None = None
    base: str | None = None
    base_identity: str | None = None
    vae_sha256: str | None = None
    pretrained: str | None = None

    @property
    def identity(self) -> str:
        """Names the weights wholly, those of its base too: 16 hexadecimal digits."""
        parts = (self.sha256, self.base_identity, self.vae_sha256, self.pretrained)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def save_model(model: VideoDiffusion, folder: str | Path, stage: str, step: int, *, weights: Mapping[str, Tensor],
               lora: Lora | None = None, base: str | Path | None = None, pretrained: str | None = None,
               half: bool = True) -> Checkpoint:
    """Write `weights` (by name: the transformer's, or its adapter's where `lora` is given) and their card.

    In half precision by default. The card appears last: a folder with one holds the whole checkpoint.
    """
    from safetensors.torch import save

    if lora is not None and base is None and pretrained is None:
        raise ValueError("expected the checkpoint or the pipeline that the adapter stands on, got neither")
    folder = Path(folder)
    write_atomic(folder / WEIGHTS, save({name: _stored(value, half) for name, value in weights.items()}))
    vae = None
    if model.vae is not None and base is None and pretrained is None:
        write_atomic(folder / VAE, save({name: _stored(value, half) for name, value in model.vae.state_dict().items()}))
        vae = sha256_of(folder / VAE)
    below = None if base is None else read_card(base)
    place = None if base is None else os.path.relpath(base, folder)
    return _write_card(folder, Checkpoint(stage, step, model.preset, sha256_of(folder / WEIGHTS), lora, place,
                                          below and below.identity, vae, pretrained))


def save_vae(model: VideoDiffusion, folder: Path, step: int, weights: Mapping[str, Tensor]) -> Checkpoint:
    """Write a VAE alone, for `load_vae`: `weights` of it by name, and the preset with the statistics of its latents."""
    from safetensors.torch import save

    write_atomic(folder / VAE, save({name: _stored(value, True) for name, value in weights.items()}))
    return _write_card(folder, Checkpoint("vae", step, model.preset, "", vae_sha256=sha256_of(folder / VAE)))


def _write_card(folder: Path, card: Checkpoint) -> Checkpoint:
    row = asdict(card) | {"preset": card.preset.row(), "kind": "video-evalkit baseline", "identity": card.identity}
    write_atomic(folder / CARD, (json.dumps(row, indent=1) + "\n").encode())
    return card


def read_card(folder: str | Path) -> Checkpoint:
    """UsageError where there is no checkpoint, or its card is of something else."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise UsageError(f"expected a checkpoint ({CARD} and {WEIGHTS}) in {folder}, found none; `evalkit baseline "
                         "pretrain` makes one")
    try:
        row = json.loads(path.read_text())
        if row.pop("kind") != "video-evalkit baseline":
            raise ValueError("another kind")
        row.pop("identity")
        lora = row["lora"] and Lora(**row["lora"] | {"targets": tuple(row["lora"]["targets"])})
        return Checkpoint(**row | {"preset": Preset.from_row(row["preset"]), "lora": lora})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not the card of a checkpoint of this version: {error}") from error


def load_model(folder: str | Path, lora_scale: float = 1.0) -> VideoDiffusion:
    """The model of a checkpoint with all adapters merged; the last counts `lora_scale` times.

    On the CPU, in float32. UsageError for a file that is missing, damaged, or not the one that the card describes.
    """
    card = read_card(folder)
    if lora_scale != 1 and card.lora is None:
        raise UsageError(f"{folder} holds whole weights, not an adapter: it has no LoRA scale")
    if card.lora is None:
        return _whole(card, Path(folder))
    if card.base is None:
        model = VideoDiffusion.from_pretrained(card.preset, str(card.pretrained))
        model.transformer.float()  # what adapters add would be rounded away
    else:
        base = Path(os.path.normpath(Path(folder) / card.base))
        found = read_card(base)
        if found.identity != card.base_identity:
            raise UsageError(f"{folder} stands on checkpoint {card.base_identity}, and {base} is {found.identity}: it "
                             "was trained again; train this one again, too, or bring the old one back")
        model = load_model(base)
    add_adapter(model.transformer, card.lora)
    try:
        load_adapter(model.transformer, _read(Path(folder) / WEIGHTS, card.sha256))
    except ValueError as error:
        raise UsageError(f"{folder}: {error}") from error
    merge_adapter(model.transformer, lora_scale)
    return model


def load_vae(model: VideoDiffusion, folder: str | Path) -> None:
    """Give the model the VAE of another checkpoint. UsageError where that has none, or another kind."""
    card = read_card(folder)
    if model.vae is None or card.vae_sha256 is None:
        raise UsageError(f"--vae {folder}: expected a checkpoint with a VAE, for a preset that has one")
    if is_patch_codec(card.preset) != is_patch_codec(model.preset):
        raise UsageError(f"--vae {folder}: expected the kind of latents that the preset has, got another one")
    _fill(model.vae, Path(folder) / VAE, card.vae_sha256)
    if not is_patch_codec(card.preset):
        model.vae.register_to_config(**card.preset.vae)
    model.preset = replace(model.preset, vae=card.preset.vae)


def _fill(network: torch.nn.Module, path: Path, sha256: str) -> None:
    try:
        network.load_state_dict(_read(path, sha256))
    except RuntimeError as error:
        raise UsageError(f"{path}: not the weights of its card's preset: {error}") from error


def _whole(card: Checkpoint, folder: Path) -> VideoDiffusion:
    transformer, vae = build_transformer(card.preset), build_vae(card.preset)
    _fill(transformer, folder / WEIGHTS, card.sha256)
    if vae is not None:
        _fill(vae, folder / VAE, card.vae_sha256)
    return VideoDiffusion(card.preset, transformer, build_text_encoder(card.preset), vae)


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"{path.parent / CARD} describes weights that are not there: found no {path.name}")
    if sha256_of(path) != sha256:
        raise UsageError(f"{path}: expected sha256 {sha256}, as {CARD} says; it was damaged or replaced")
    return {name: value.float() for name, value in load_file(path).items()}


def trainable_weights(model: VideoDiffusion) -> dict[str, torch.nn.Parameter]:
    """What a stage trains, by the names under which `save_model` writes it: the adapter, or the whole transformer."""
    transformer = model.transformer
    return adapter_parameters(transformer) if is_adapted(transformer) else dict(transformer.named_parameters())


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous().clone()
    return value.half() if half and value.is_floating_point() else value
