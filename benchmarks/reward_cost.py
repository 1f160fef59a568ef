"""What a reward costs: milliseconds and peak memory a clip, forward and with the gradient, as rows of a table.

`PYTHONPATH=. python benchmarks/reward_cost.py`, also where evalkit is not installed: needs torch and open_clip alone.
Memory is what comes on top of weights and clip: on a processor (Linux) the growth of a fresh process, on CUDA what
was allocated. The gradient itself, as large as the clip, is part of it.
"""
from __future__ import annotations

import argparse
import pkgutil
import time
import tomllib
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F

FPS = 16.0
WARM_UP = "16x64x64"  # a clip on which libraries set themselves up, before anything is measured


def known_rewards() -> dict[str, str]:
    """Name -> "module:class" of our own rewards, from pyproject.toml: entry points need an installed package."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return dict(sorted(project["entry-points"]["evalkit.rewards"].items()))


def build(text: str, options: argparse.Namespace):
    """The reward of "farm" or "farm:aesthetic=laion", as the options want it."""
    if options.random_towers:
        use_random_towers()
    name, *settings = text.split(":")
    made = pkgutil.resolve_name(known_rewards()[name])(**dict(setting.split("=") for setting in settings))
    return made.eval().to(options.device).checkpointed(options.checkpointed)


def use_random_towers() -> None:
    """CLIP towers and LAION heads with random weights: they cost what the real ones do, and need no files."""
    from evalkit.features.aesthetic import CLIP_OF, Aesthetic, build_mlp
    from evalkit.features.base import available_extractors, make_extractor, register_extractor
    from evalkit.features.openclip import OpenClip

    available_extractors()  # registers the real ones, which these replace

    @register_extractor("open_clip")
    def tower(model: str, tag: str):
        import open_clip

        network = open_clip.create_model(model, pretrained=None, force_quick_gelu=True)
        return OpenClip(network, open_clip.get_tokenizer(model), weights_sha256="random")

    @register_extractor("aesthetic")
    def head(name: str):
        return Aesthetic(make_extractor(f"open_clip/{CLIP_OF[name]}/openai"), build_mlp(), weights_sha256="random")


def make_clip(size: str, device: str) -> tuple[torch.Tensor, list[str]]:
    """(1, T, 3, H, W) of the made-up world with its prompt: noise would be all cuts. Drawn small, shown large."""
    from evalkit.data.synthetic import render_clip

    length, *sides = map(int, size.split("x"))
    smaller = max(1, min(sides) // 64)
    made = render_clip(10**6, length, FPS, tuple(side // smaller for side in sides))
    frames = F.interpolate(made.frames.float() / 255, sides, mode="bilinear")
    return frames[None].to(device), [made.prompt]


def measure(text: str, size: str, options: argparse.Namespace) -> list[float] | str:
    """Forward ms and MiB, the same with the gradient, in a process of its own; or why there are none."""
    from evalkit.features.weights import MissingWeights

    torch.set_num_threads(options.threads)
    try:
        reward = build(text, options)
    except (MissingWeights, ImportError) as error:
        return str(error).split(";")[0]

    def forward(clip: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return reward(clip, prompts, FPS)

    def backward(clip: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        pixels = clip.detach().requires_grad_()
        return torch.autograd.grad(reward(pixels, prompts, FPS).sum(), pixels)[0].sum()

    backward(*make_clip(WARM_UP, options.device))
    clip, prompts = make_clip(size, options.device)
    found = []
    for work in (forward, backward):
        _reset_peak(clip)
        held = _peak_mib(clip)
        seconds = _fastest(lambda work=work: work(clip, prompts), options.repeats)
        found += [1e3 * seconds, _peak_mib(clip) - held]
    return found


def _reset_peak(clip: torch.Tensor) -> None:
    if clip.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM becomes what is held now


def _peak_mib(clip: torch.Tensor) -> float:
    """Most memory held since the reset: allocated on the card, or by the process."""
    if clip.is_cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def _fastest(work: Callable[[], torch.Tensor], repeats: int) -> float:
    """Seconds of the fastest of several calls, the first left out."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work().item()  # item: wait for the device
        times.append(time.perf_counter() - started)
    return min(times[1:])


def measure_compiled(text: str, size: str, options: argparse.Namespace) -> list[float] | str:
    """Difference of `torch.compile(reward)` from the reward, seconds to its first answer, then ms forward of both."""
    from evalkit.features.weights import MissingWeights

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    try:
        reward = build(text, options)
    except (MissingWeights, ImportError) as error:
        return str(error).split(";")[0]
    (clip, prompts), compiled = make_clip(size, options.device), torch.compile(reward)
    with torch.no_grad():
        started = time.perf_counter()
        difference = abs(compiled(clip, prompts, FPS) - reward(clip, prompts, FPS)).item()
        first = time.perf_counter() - started
        times = [_fastest(lambda one=one: one(clip, prompts, FPS), options.repeats) for one in (compiled, reward)]
    return [difference, first, *(1e3 * seconds for seconds in times)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewards", nargs="+", default=list(known_rewards()), metavar="NAME[:OPTION=VALUE]",
                        help="default: all of ours whose weights are here")
    parser.add_argument("--sizes", nargs="+", default=["16x64x64", "16x256x256", "49x480x832"], metavar="TxHxW")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many (default 3)")
    parser.add_argument("--checkpointed", action="store_true", help="recompute networks for the gradient")
    parser.add_argument("--random-towers", action="store_true", help="CLIP and LAION with random weights, same cost")
    parser.add_argument("--compile", action="store_true", help="compare with torch.compile(reward) instead")
    options = parser.parse_args(argv)
    work = measure_compiled if options.compile else measure
    columns = (("difference", "first call, s", "compiled, ms", "plain, ms") if options.compile else
               ("forward, ms", "forward, MiB", "with gradient, ms", "with gradient, MiB"))
    where = torch.cuda.get_device_name() if options.device != "cpu" else f"processor, {options.threads} thread(s)"
    print(f"{where}, torch {torch.__version__}, fastest of {options.repeats}\n")
    print(f"| reward | clip | {' | '.join(columns)} |\n|---|---|{'---:|' * len(columns)}")
    for text in options.rewards:
        for size in options.sizes:
            with get_context("spawn").Pool(1) as pool:
                found = pool.apply(work, (text, size, options))
            if isinstance(found, str):
                print(f"| {text} | | {found} |")
                break
            cells = (f"{x:.1e}" if 0 < x < 0.01 else f"{x:.0f}" if x >= 100 else f"{x:.1f}" for x in found)
            print(f"| {text} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
