"""evalkit baseline best-of-n: samples, a reward's choice among them, and fine-tuning on what it chose."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from baselines import sft

PRESETS: dict[str, dict[str, Any]] = {name: values | {"eval_every": 0} if name != "tiny" else values
                                      for name, values in sft.PRESETS.items()}


@dataclass(frozen=True)
class Config(sft.Config):
    """`evalkit baseline best-of-n`; samples go to the folder `samples` in `out`."""

    out: str = "runs/best-of-n"
    reward: str = "farm"
    select: str = "best"
    prompts: str = "world:500:train"  # see evalkit baseline sample
    n: int = 8  # samples of each prompt
    rank: int = 32
    steps: int = 300
    batch_size: int = 64
    eval_every: int = 100


def add_arguments(parser: argparse.ArgumentParser, action: str) -> None:
    from baselines.flags import add_flags

    add_flags(parser, Config, PRESETS)


def main(args: argparse.Namespace) -> int:
    from dataclasses import replace
    from pathlib import Path

    from baselines.commands.sampling import run_sampling
    from baselines.commands.training import run
    from baselines.flags import read_flags
    from baselines.sample import Config as SampleConfig
    from baselines.sample import sample
    from evalkit.errors import UsageError

    config = read_flags(args, Config, PRESETS)
    if config.data != "world" or not config.source:
        raise UsageError("best-of-n makes its own clips: give --from and no --data; `sft --data` takes videos")
    samples = Path(config.out) / "samples"
    run_sampling(sample, SampleConfig(
        source=config.source, prompts=config.prompts, out=str(samples), samples=config.n, steps=config.sample_steps,
        guidance=config.guidance, level=config.level, register=config.register, device=config.device))
    return run(sft, replace(config, data=str(samples)))
