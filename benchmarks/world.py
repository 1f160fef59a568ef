"""Scenes rendered per second, drawn and packed too: `python benchmarks/world.py`; with a GPU, there in batches."""
from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import tyro


@dataclass(frozen=True)
class Config:
    n: int = 2000
    workers: int = 2
    size: int = 64


def render_some(job: tuple[int, int, int]) -> int:
    """Render scenes one by one on one core; how many."""
    from evalkit.data.scene import make_scene
    from evalkit.data.synthetic import render_scene
    from evalkit.memory import keep_freed_memory

    first, count, size = job
    keep_freed_memory()
    torch.set_num_threads(1)
    for seed in range(first, first + count):
        render_scene(make_scene(seed), size=size)
    return count


def on_gpu(config: Config) -> float:
    """Clips a second of the renderer alone, in batches of 256."""
    from evalkit.data.rendering import pack, render
    from evalkit.data.scene import make_scene

    packed = pack([make_scene(seed) for seed in range(256)], np.arange(16) / 8).to("cuda")
    render(packed, config.size, config.size)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        render(packed, config.size, config.size)
    torch.cuda.synchronize()
    return 2560 / (time.perf_counter() - started)


def main(config: Config) -> None:
    jobs = [(first, 100, config.size) for first in range(0, config.n, 100)]
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(render_some, jobs[: config.workers]))  # imports, not timed
        started = time.perf_counter()
        count = sum(pool.map(render_some, jobs))
        print(f"{count / (time.perf_counter() - started):.0f} clips/s of 16 x {config.size} x {config.size}, "
              f"{config.workers} processes of one thread")
    if torch.cuda.is_available():
        print(f"{on_gpu(config):.0f} clips/s on {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
