"""Samples of any text-to-video pipeline that diffusers saved, in a folder as `evalkit baseline sample` writes it.

python -m baselines.pipeline_sampling PIPELINE --prompts FILE --out DIR: what `evalkit watch` runs for such checkpoints.
"""
from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from baselines.prompts import read_prompts
from baselines.sample import Sample, _suffix, is_done, write_manifest, write_sample
from evalkit.devices import choose_device
from evalkit.errors import UsageError
from evalkit.results import write_atomic


def sample_pipeline(folder: Path, prompts: str, out: Path, *, samples: int = 1, seed: int = 0, fps: float = 16.0,
                    options: Mapping[str, Any] | None = None, device: str = "auto") -> Path:
    """One video per prompt and seed, those left out that are there; returns the manifest.

    options: keyword arguments of the pipeline's call, such as num_inference_steps. UsageError where the folder holds no
    pipeline of videos.
    """
    settings = {"checkpoint": _identity(folder), **(options or {})}
    wanted = [Sample(prompt.name(k), prompt.text, seed + k) for prompt in read_prompts(prompts) for k in range(samples)]
    suffix = _suffix("auto")
    missing = [one for one in wanted if not is_done(out, one, settings, suffix)]
    pipeline = _load(folder, choose_device(device)) if missing else None
    for one in missing:
        generator = torch.Generator("cpu").manual_seed(one.seed)  # the same noise on every machine
        frames = pipeline(prompt=one.prompt, generator=generator, output_type="pt", **(options or {})).frames
        if not isinstance(frames, torch.Tensor) or frames.ndim != 5:
            raise UsageError(f"{folder}: expected a pipeline that makes videos (1, T, 3, H, W), got {type(frames)}")
        clip = (255 * frames[0].float().clamp(0, 1)).round().to(torch.uint8).cpu()
        write_sample(out / f"{one.name}{suffix}", clip, fps)
        row = {"prompt": one.prompt, "seed": one.seed, "fps": fps} | settings
        write_atomic(out / f"{one.name}.json", (json.dumps(row, indent=1) + "\n").encode())
    return write_manifest(out, wanted, suffix, fps)


def _load(folder: Path, device: torch.device | str) -> Any:
    from diffusers import DiffusionPipeline

    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32 if str(device) == "cpu"
                                                     else torch.bfloat16)
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder}: not a pipeline that diffusers can load: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _identity(folder: Path) -> str:
    """Of the pipeline's index and the names and sizes of its files: enough to tell checkpoints of a training apart."""
    if not (folder / "model_index.json").is_file():
        raise UsageError(f"{folder}: expected a folder with model_index.json, as diffusers saves a pipeline")
    files = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    index = (folder / "model_index.json").read_bytes()
    return hashlib.sha256(index + json.dumps([str(folder.resolve()), files]).encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fps", type=float, default=16.0)
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON",
                        help='of the pipeline\'s call: {"num_inference_steps": 30, "guidance_scale": 5.0}')
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    print(sample_pipeline(args.pipeline, args.prompts, args.out, samples=args.samples, seed=args.seed, fps=args.fps,
                          options=args.options, device=args.device))


if __name__ == "__main__":
    import sys

    try:
        main()
    except UsageError as error:
        sys.exit(f"baselines.pipeline_sampling: {error}")
