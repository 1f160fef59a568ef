"""What a training step costs at the size of Wan2.1-1.3B: LoRA fine-tuning and DPO beside a plain loop, in one run.

    python benchmarks/training.py                                   # one H200: 49 x 480 x 832, random weights
    python benchmarks/training.py --preset tiny --steps 3           # anywhere: to see that it runs
    torchrun --nproc-per-node 2 benchmarks/training.py --only "SFT, 1 clip"   # clips a second on all GPUs together

A plain loop is diffusers + peft as their examples have it. Times are means of steps in a row, memory is the most
allocated; both of the training loop that `evalkit baseline` runs, `baselines.train`.
"""
from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from baselines import dpo, sft
from baselines.adapters import ATTENTION, Lora, adapter_parameters, add_adapter
from baselines.attention import FusedRotary
from baselines.model import VideoDiffusion, build_vae
from baselines.presets import PRESETS, Preset
from baselines.stage import Batch, Shard
from baselines.text import TextEncoder
from baselines.train import _Run

RANK = 32
LORA = Lora(RANK, float(RANK), ATTENTION)


class NoText(TextEncoder):
    """States of the right shape: what a step costs does not depend on what they say."""

    def forward(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), self.length, self.dim, device=self.device)


class Noise:
    """Latents and text as a store of clips gives them."""

    def __init__(self, model: VideoDiffusion) -> None:
        self.model = model

    def rows(self, index: Sequence[int]) -> dict[str, Tensor]:
        device = self.model.device
        return {"latents": torch.randn(len(index), *self.model.latent_shape, device=device),
                "text": torch.randn(len(index), self.model.text.length, self.model.text.dim, device=device)}

    def batches(self, start: int, shard: Shard, batch_size: int) -> Iterator[Batch]:
        rows = shard.rows(batch_size)
        while True:
            yield Batch(self.rows(rows), [str(k) for k in rows], rows)

    @property
    def items(self) -> list[Any]:
        return [type("Item", (), {"name": str(k)}) for k in range(2)]


def build(preset: Preset, device: torch.device) -> VideoDiffusion:
    """The transformer with random weights in the precision in which pipelines are loaded, and the VAE's shape alone."""
    from diffusers import WanTransformer3DModel

    with torch.device(device):
        transformer = WanTransformer3DModel(**preset.transformer)
    if device.type == "cuda":
        kept = WanTransformer3DModel._keep_in_fp32_modules
        for name, parameter in transformer.named_parameters():
            if not any(part in name for part in kept):
                parameter.data = parameter.data.bfloat16()
    with torch.device("meta"):
        vae = build_vae(preset)
    text = NoText(preset.text_length, preset.transformer["text_dim"])
    model = VideoDiffusion(preset, transformer, text, vae)
    text.to(device)
    model.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    add_adapter(transformer, LORA)
    return model


def measure(step: Callable[[], Any], count: int, device: torch.device) -> tuple[float, float, float]:
    """Seconds of a step after two that warm up, GiB at most, and seconds until warm.

    Steps follow each other without waiting for the device, as in training, which waits only where it logs.
    """
    begun = time.perf_counter()
    for _ in range(2):
        step()
    _wait(device)
    warm = time.perf_counter() - begun
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(count):
        step()
    _wait(device)
    seconds = (time.perf_counter() - begun) / count
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan"), warm


def plain_step(model: VideoDiffusion, checkpointing: bool) -> Callable[[], None]:
    """As in the training scripts of diffusers: its own attention, autocast, flow matching, AdamW on the adapter."""
    transformer = model.transformer.train()
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    parameters = list(adapter_parameters(transformer).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    clips = Noise(model).rows([0])

    def step() -> None:
        x, noise, t = clips["latents"], torch.randn_like(clips["latents"]), torch.rand(1, device=model.device)
        with model.autocast():
            out = transformer((1 - t) * x + t * noise, 1000 * t, clips["text"], return_dict=False)[0]
        torch.nn.functional.mse_loss(out.float(), noise - x).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(model: VideoDiffusion, kind: str, clips: int, checkpointing: float, compiled: bool, out: str,
             attention: str) -> Callable[[], None]:
    """A step of the stage `sft` on so many clips, or of `dpo` on so many pairs, through the one training loop."""
    settings = {"out": out, "steps": 10_000, "batch_size": clips, "rank": RANK, "checkpointing": checkpointing,
                "compile": compiled, "attention": attention, "trackers": (), "ema": 0.99, "log_every": 0}
    clips_of = Noise(model)
    model.transformer.set_attn_processor(FusedRotary())
    if kind == "sft":
        config: Any = sft.Config(**settings)
        stage: Any = sft.FineTuning(model, clips_of, config)
    else:
        config = dpo.Config(**settings)
        stage = dpo.Preference(model, clips_of, [(0, 1)], config)
    stage.lora = LORA
    run = _Run(stage, config)
    batches = stage.batches(0, run.shard)

    def step() -> None:
        run.advance(next(batches))
        run._waiting.clear()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-1.3b")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", help="plain, sft or dpo, or one row by its name")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--attention", default="fa4" if find_spec("flash_attn") and find_spec("flash_attn.cute")
                        else "_native_cudnn", help="as of `evalkit baseline sft`")
    parser.add_argument("--profile", action="store_true", help="also where the time of a step goes, by kernel")
    args = parser.parse_args()
    on_gpu, world = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    preset, compiled = PRESETS[args.preset], not args.no_compile
    rows: list[tuple[str, str, int, float]] = [
        ("plain", "plain loop, 1 clip", 1, 0.0), ("plain", "plain loop, 1 clip, all checkpointed", 1, 1.0),
        ("sft", "SFT, 1 clip", 1, 0.0), ("sft", "SFT, 1 clip, half checkpointed", 1, 0.5),
        ("sft", "SFT, 1 clip, all checkpointed", 1, 1.0), ("sft", "SFT, 2 clips", 2, 0.0),
        ("dpo", "DPO, 1 pair", 1, 0.0)]
    print(f"{torch.cuda.get_device_name() if on_gpu else 'CPU'} x {world}, torch {torch.__version__}, {args.preset}: "
          f"{preset.num_frames} x {preset.height} x {preset.width}, LoRA rank {RANK} of attention by {args.attention}")
    print(f"{'':40}{'s/step':>8}{'clips/s':>9}{'GiB':>7}{'warm-up s':>11}")
    found = {}
    for kind, name, clips, checkpointing in rows:
        if args.only not in (None, kind, name):
            continue
        torch.manual_seed(0)
        model = build(replace(preset), device)
        with tempfile.TemporaryDirectory() as out:
            step = (plain_step(model, bool(checkpointing)) if kind == "plain" else
                    our_step(model, kind, clips * world, checkpointing, compiled, out,
                             args.attention))
            seconds, peak, warm = measure(step, args.steps, device)
            told = kernels(step, device) if args.profile else ""
        found[name] = seconds, peak
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"{name:40}{seconds:8.3f}{clips * world / seconds:9.3f}{peak:7.1f}{warm:11.1f}", flush=True)
            print(told, end="", flush=True)
        del model, step
        gc.collect()  # modules refer to each other; what stayed would count as the next row's
        if on_gpu:
            torch.cuda.empty_cache()
    if {"DPO, 1 pair", "SFT, 2 clips"} <= set(found):
        time_ratio, memory_ratio = (a / b for a, b in zip(found["DPO, 1 pair"], found["SFT, 2 clips"], strict=True))
        print(f"DPO on a pair over SFT on the same two clips: {time_ratio:.3f} x time, {memory_ratio:.3f} x memory")


def kernels(step: Callable[[], Any], device: torch.device, count: int = 30) -> str:
    """A table of what takes longest in one step."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        step()
        _wait(device)
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=count, max_name_column_width=100)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
