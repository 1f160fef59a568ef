"""Fitting a preference on a CLIP that has seen the real world: `evalkit rewards train --pairs FILE --backbone NAME`."""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from evalkit.devices import choose_device
from evalkit.errors import UsageError
from evalkit.results import write_atomic
from evalkit.workers import available_cores
from rewards.fitting import fit_pairs
from rewards.lora import LoraNetwork, clip_spec, open_backbone
from rewards.preference import WEIGHTS
from rewards.preference_clips import DIMENSIONS, Clips, Progress, file_clips, world_clips
from rewards.train import Config, Trained, divide, features_folder, finish, read_with

BATCH, RATE, ADAPTER_RATE = 16, 1e-3, 1e-4
UNFINISHED = "unfinished.pt"  # in the folder of a run that goes on


def train_lora(config: Config, progress: Progress = lambda *_: None, say: Callable[[str], None] = lambda _: None,
               command: str = "") -> Trained:
    """Read, fit, calibrate, judge, and write adapters, heads and card to `config.out`; the backbone is named there.

    The same losses, splits and calibration as of the embedded networks, without their dialled defects. A run that was
    killed goes on from the clips it has read and the epochs it has finished, with the same result. UsageError as
    `train`, and for a backbone or device that is not there.
    """
    begun = time.monotonic()
    device = choose_device(config.device)
    try:
        clip = open_backbone(config.backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = LoraNetwork(clip, config.lora_rank).to(device)
    except ValueError as error:
        raise UsageError(str(error)) from error
    clips = read_clips(config, clip.image.size, progress, say)
    parts = divide(clips.pairs, config)
    adapters = [value for name, value in network.named_parameters() if value.requires_grad and ".lora_" in name]
    heads = [value for name, value in network.named_parameters() if value.requires_grad and ".lora_" not in name]
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(config.seed)
        for told in fit_pairs(network, lambda rows: margins_at(network, clips, rows), clips.labels, parts[0], config,
                              [(heads, RATE), (adapters, ADAPTER_RATE)], RATE, BATCH,
                              Path(config.out) / UNFINISHED):
            progress("preferences", told["epoch"], config.epochs)
    learnt = {name: value.detach().cpu().contiguous() for name, value in network.learnt().items()}
    write_atomic(Path(config.out) / WEIGHTS, save(learnt))
    backbone = {"backbone": config.backbone, "lora": {
        "backbone": config.backbone, "rank": config.lora_rank, "backbone_sha256": clip.weights_sha256}}
    done = finish(config, network, margins_of(network, clips), clips, parts, backbone, begun, command)
    (Path(config.out) / UNFINISHED).unlink(missing_ok=True)
    return done


def read_clips(config: Config, size: int, progress: Progress, say: Callable[[str], None]) -> Clips:
    """The pairs that `config` asks for as frames on disk, for a backbone of pictures of `size`."""
    folder, workers = features_folder(config), config.workers or available_cores()
    return read_with(config, say,
                     lambda: world_clips(folder, config.first, config.world, config.noise, workers, progress),
                     lambda pairs: file_clips(folder, pairs, clip_spec(size), workers, progress))


def margins_at(network: LoraNetwork, clips: Clips, rows: Tensor) -> Tensor:
    """(B, 4) of DIMENSIONS; clips may differ in size, and are seen one by one."""
    device = network.shares.device

    def values(clip: int, prompt: int) -> Tensor:
        found = network(clips.frames(clip)[None].to(device), [clips.prompts[prompt]])
        found = found | {"overall": network.overall(found)}
        return torch.cat([found[name] for name in DIMENSIONS])

    return torch.stack([values(a, prompt) - values(b, prompt) for a, b, prompt in clips.rows[rows].tolist()])


@torch.no_grad()
def margins_of(network: LoraNetwork, clips: Clips) -> Tensor:
    """(N, 4) margins of all pairs on the CPU, columns as DIMENSIONS."""
    network.eval()
    return torch.cat([margins_at(network, clips, rows).cpu() for rows in torch.arange(len(clips.rows)).split(BATCH)])
