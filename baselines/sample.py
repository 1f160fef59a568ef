"""Prompts to a folder of videos that evalkit reads: one file per prompt and seed, each with a sidecar; resumable."""
from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.buckets import Bucket, check_bucket
from baselines.checkpoints import load_model, read_card
from baselines.model import VideoDiffusion
from baselines.presets import Preset
from baselines.prompts import read_prompts
from evalkit.commands.run import check_writable
from evalkit.devices import choose_device
from evalkit.errors import UsageError
from evalkit.results import write_atomic

MANIFEST = "prompts.jsonl"
MANY = 2048  # samples from which on compiling pays
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Config:
    """`evalkit baseline sample`."""

    source: str = ""  # the checkpoint to sample from
    prompts: str = "world:100"  # world:N, world:N:SPLIT, a .txt, a table with a column prompt, or a suite
    out: str = "samples"
    size: str = ""  # HxW of the videos; default: the preset's, which models trained without --buckets know alone
    frames: int = 0  # of each video; 0: the preset's
    samples: int = 1  # of each prompt
    seed: int = 0  # of the first sample; the others follow
    own_seeds: bool = False  # every prompt has its own; default: all prompts the same
    steps: int = 20
    guidance: float = 3.0  # 1: none
    guidance_to: float = 0.0  # more: each sample draws its own by its seed, from --guidance to this; 0: all the same
    weaker: str = ""  # a worse checkpoint of the same latents that guidance leads away from, instead of from no prompt
    guided_above: float = 0.0  # the time, of 1 for noise to 0 for clean, down to which guidance acts
    motion: float = 1.0  # times that guidance acts on what changes over time, against the means over frames
    temperature: float = 1.0  # standard deviation of the noise that sampling starts at
    lora_scale: float = 1.0  # of the last adapter: 0 is what it stands on, above 1 exaggerates
    level: str = "simple"  # of the world's scenes: simple or full
    register: str = "terse"  # of the world's captions
    batch_size: int = 16
    attention: str = ""  # on a GPU: a backend of diffusers, such as _native_cudnn, or fa4; default: what torch takes
    format: str = "auto"  # mp4, or npy (T, H, W, 3), which needs no PyAV; auto: mp4 where PyAV is there
    device: str = "auto"


@dataclass(frozen=True)
class Sample:
    """A video to make: its path without suffix below the folder, its prompt and its seed."""

    name: str
    prompt: str
    seed: int


def sample(config: Config, progress: Progress = lambda *_: None) -> Path:
    """Make what is missing in `config.out`; returns its manifest, which lists all.

    A sample depends on its prompt, its seed and the settings alone; a folder that holds samples of other settings, or
    of another checkpoint, is a UsageError. Under torchrun every process makes its share.
    """
    if min(config.samples, config.steps, config.batch_size) < 1:
        raise UsageError("--samples, --steps and --batch-size: expected at least 1 each")
    if not 0 < config.temperature < math.inf:
        raise UsageError(f"--temperature: expected more than 0, got {config.temperature}")
    if not 0 <= config.motion < math.inf:
        raise UsageError(f"--motion: expected at least 0, got {config.motion}")
    if not 0 <= config.guided_above < 1:
        raise UsageError(f"--guided-above: expected a time of 0 to 1, got {config.guided_above}")
    if config.guidance_to and not config.guidance < config.guidance_to < math.inf:
        raise UsageError(f"--guidance-to: expected more than --guidance, {config.guidance}, got {config.guidance_to}")
    if (config.weaker or config.motion != 1) and config.guidance == 1 and not config.guidance_to:
        raise UsageError("--weaker and --motion go with a --guidance other than 1, which is none")
    prompts = read_prompts(config.prompts, config.level, config.register)
    wanted = [Sample(prompt.name(k), prompt.text, config.seed + k + config.own_seeds * row * config.samples)
              for row, prompt in enumerate(prompts) for k in range(config.samples)]
    if not config.source:
        raise UsageError("--from: expected a checkpoint to sample from")
    card = read_card(config.source)
    shape = wanted_shape(config, card.preset)
    settings = {"checkpoint": card.identity, "steps": config.steps, "guidance": config.guidance,
                "lora_scale": config.lora_scale, "shape": None if shape is None else str(shape),
                "weaker": read_card(config.weaker).identity if config.weaker else None,
                "guidance_to": config.guidance_to or None, "guided_above": config.guided_above or None,
                "motion": None if config.motion == 1 else config.motion,
                "temperature": None if config.temperature == 1 else config.temperature}
    folder, suffix = Path(config.out), _suffix(config.format)
    check_writable(folder)
    missing = [one for one in wanted if not is_done(folder, one, settings, suffix)]
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if missing:
        model = open_sampler(config)
        if shape is not None:
            reshape(model, shape)
        if len(missing) >= MANY:
            model.compile()
        done = len(wanted) - len(missing)
        for count, _ in enumerate(make(model, missing[rank::world], folder, settings, suffix, config.batch_size), 1):
            progress("samples", done + count * world, len(wanted))
    return write_manifest(folder, wanted, suffix, card.preset.fps)


def open_sampler(config: Config) -> VideoDiffusion:
    """The model on its device, guided away from --weaker where given. UsageError where these do not go together."""
    device = choose_device(config.device)
    model = load_model(config.source, config.lora_scale).to(device)
    if config.weaker:
        try:
            model.guide_away_from(load_model(config.weaker).to(device))
        except ValueError as error:
            raise UsageError(f"--weaker {config.weaker}: {error}") from error
    if config.attention and model.device.type == "cuda":
        model.set_attention(config.attention)
    return model


def wanted_shape(config: Config, preset: Preset) -> Bucket | None:
    """What --size and --frames say; None where it is the preset's own. UsageError for a size that is none."""
    height, cross, width = (config.size or f"{preset.height}x{preset.width}").partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()) or config.frames < 0:
        raise UsageError(f"--size and --frames: expected HxW, such as 64x112, and a number, got {config.size!r} and "
                         f"{config.frames}")
    shape = Bucket(config.frames or preset.num_frames, int(height), int(width))
    return None if shape == Bucket(preset.num_frames, preset.height, preset.width) else shape


def reshape(model: VideoDiffusion, shape: Bucket) -> None:
    """Let the model make videos of this shape. UsageError where its patches or its VAE cannot."""
    try:
        check_bucket(model, shape)
    except ValueError as error:
        raise UsageError(f"--size and --frames: {error}") from error
    model.preset = replace(model.preset, num_frames=shape.num_frames, height=shape.height, width=shape.width)


def make(model: VideoDiffusion, wanted: Sequence[Sample], folder: Path, settings: dict[str, Any], suffix: str,
         batch_size: int) -> Iterator[Sample]:
    """Write the samples, each with its sidecar, and yield them.

    Batches are filled up to their size: a sample must not depend on how many others there are. ValueError for prompts
    that the text encoder cannot read, before anything is made.
    """
    model.encode_prompts([one.prompt for one in wanted])
    for start in range(0, len(wanted), batch_size):
        batch = list(wanted[start: start + batch_size])
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        with torch.no_grad():
            frames = model.sample([one.prompt for one in filled], [one.seed for one in filled], settings["steps"],
                                  settings["guidance"], temperature=settings["temperature"] or 1.0,
                                  guided_above=settings["guided_above"] or 0.0,
                                  guidance_to=settings["guidance_to"] or 0.0,
                                  motion=1.0 if settings["motion"] is None else settings["motion"])
        for one, clip in zip(batch, (255 * frames).round().to(torch.uint8).cpu(), strict=False):
            write_sample(folder / f"{one.name}{suffix}", clip, model.preset.fps)
            row = {"prompt": one.prompt, "seed": one.seed, "fps": model.preset.fps} | settings
            write_atomic(folder / f"{one.name}.json", (json.dumps(row, indent=1) + "\n").encode())
            yield one


def is_done(folder: Path, one: Sample, settings: dict[str, Any], suffix: str) -> bool:
    """Whether the sample is there. UsageError where its sidecar is of another one: it would be mixed with these."""
    path = folder / f"{one.name}.json"
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path}: not a sidecar of a sample: {error}") from error
    wanted = {"prompt": one.prompt, "seed": one.seed} | settings
    differ = [f"{name} {found.get(name)!r}, now {value!r}" for name, value in wanted.items()
              if found.get(name) != value]
    if differ:
        raise UsageError(f"{path} is of another sample: {'; '.join(differ)}. Give another --out")
    return (folder / f"{one.name}{suffix}").is_file()


def write_sample(path: Path, frames: Tensor, fps: float) -> None:
    """uint8 (T, 3, H, W) to an .mp4 that keeps edges of colours, or to an .npy."""
    if path.suffix == ".npy":
        buffer = BytesIO()
        np.save(buffer, frames.permute(0, 2, 3, 1).contiguous().numpy())
        write_atomic(path, buffer.getvalue())
        return
    from evalkit.data.synthetic import WORLD_FILE
    from evalkit.data.video import write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps, **WORLD_FILE)


def write_manifest(folder: Path, wanted: Sequence[Sample], suffix: str, fps: float) -> Path:
    """path, prompt, seed and fps of every sample that is there."""
    rows = [{"path": f"{one.name}{suffix}", "prompt": one.prompt, "seed": one.seed, "fps": fps} for one in wanted
            if (folder / f"{one.name}{suffix}").is_file()]
    return write_atomic(folder / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _suffix(kind: str) -> str:
    if kind == "auto":
        kind = "mp4" if _has_pyav() else "npy"
    if kind not in ("mp4", "npy"):
        raise UsageError(f"--format: expected mp4, npy or auto, got {kind!r}")
    return f".{kind}"


def _has_pyav() -> bool:
    try:
        return find_spec("av") is not None
    except ValueError:  # as a test leaves it that makes it missing
        return False
