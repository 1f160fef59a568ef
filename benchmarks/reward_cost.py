"""What a reward costs: `python benchmarks/reward_cost.py [--rewards farm]`: ms a clip, forward and with the gradient.

On a processor the peak memory of each is that of a fresh process less what it held before; on CUDA, what was allocated.
"""
from __future__ import annotations

import resource
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import tyro

PROMPT = "a red circle moves left over a blue background"


@dataclass(frozen=True)
class Config:
    rewards: tuple[str, ...] = ()  # all whose weights are here
    sizes: tuple[str, ...] = ("16x64x64", "16x256x256", "49x480x832")  # frames x height x width
    device: str = "cpu"
    repeats: int = 3


def measure(job: tuple[str, str, str, int]) -> dict[str, float] | str:
    """Milliseconds and MiB of one reward at one size, in a process of its own, or why there are none."""
    from evalkit.features.weights import MissingWeights
    from rewards import load_reward
    from rewards.credentials import cost

    name, size, device, repeats = job
    length, height, width = map(int, size.split("x"))
    try:
        reward = load_reward(name)
    except MissingWeights as error:
        return str(error).split(";")[0]
    frames = torch.rand(1, length, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = cost(reward, frames, [PROMPT], 16.0, repeats)
    if device == "cpu":
        found["backward_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return found


def main(config: Config) -> None:
    from rewards import available_rewards

    print(f"{config.device}: {torch.cuda.get_device_name() if config.device == 'cuda' else torch.get_num_threads()}"
          f"{'' if config.device == 'cuda' else ' threads'}\n\n| reward | clip | forward, ms | with gradient, ms | "
          "peak with gradient, MiB |\n|---|---|---|---|---|")
    context = get_context("spawn")
    for name in config.rewards or available_rewards():
        for size in config.sizes:
            with context.Pool(1) as pool:
                found = pool.apply(measure, ((name, size, config.device, config.repeats),))
            if isinstance(found, str):
                print(f"| {name} | | {found} | | |")
                break
            print(f"| {name} | {size} | {found['forward_ms']:.1f} | {found['backward_ms']:.1f} | "
                  f"{found['backward_mib']:.0f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
