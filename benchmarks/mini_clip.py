"""Does the mini CLIP find the true caption? `python benchmarks/mini_clip.py [--n 500]`.

Each held-out clip is shown its true caption among 63 that are wrong in one factor (where a register has fewer, in two);
retrieved where the true one scores highest. Wilson intervals, chance is 1/64.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro

from evalkit.statistics import wilson_interval


@dataclass(frozen=True)
class Config:
    n: int = 500  # clips a row
    candidates: int = 64
    device: str = "auto"


@torch.no_grad()
def main(config: Config) -> None:
    from evalkit.data.captions import REGISTERS, caption, distractors
    from evalkit.data.scene import SPLITS, make_scene
    from evalkit.data.synthetic import render_scene
    from evalkit.devices import choose_device
    from evalkit.features.mini_clip import load_mini_clip, tokenize
    from evalkit.memory import keep_freed_memory

    keep_freed_memory()
    device = choose_device(config.device)
    clip = load_mini_clip().eval().to(device)
    print(f"| split | register | retrieved among {config.candidates} | 95 % | wrong factor of the misses |\n"
          "|---|---|---|---|---|")
    for split in ("test", "compositional"):
        scenes = [make_scene(SPLITS[split] + k) for k in range(config.n)]
        seen = F.normalize(torch.cat([clip(render_scene(scene)[None].to(device) / 255) for scene in scenes]), dim=-1)
        found = 0
        for register in REGISTERS:
            right, missed = 0, {}
            for scene, embedding in zip(scenes, seen, strict=True):
                wrong = distractors(scene, config.candidates - 1, register)
                ids = tokenize([caption(scene, register), *(one.text for one in wrong)])
                texts = clip.model.encode_text(ids.to(device))
                best = int((F.normalize(texts, dim=-1) @ embedding).argmax())
                right += best == 0
                if best:
                    missed["+".join(wrong[best - 1].factors)] = missed.get("+".join(wrong[best - 1].factors), 0) + 1
            low, high = wilson_interval(right / len(scenes), len(scenes))
            most = ", ".join(f"{name} {count}" for name, count in sorted(missed.items(), key=lambda x: -x[1])[:4])
            print(f"| {split} | {register} | {right / len(scenes):.3f} | [{low:.3f}, {high:.3f}] | {most} |",
                  flush=True)
            found += right
        share = found / (len(REGISTERS) * len(scenes))
        low, high = wilson_interval(share, len(scenes))  # a scene's three captions are not three independent draws
        print(f"| {split} | all | {share:.3f} | [{low:.3f}, {high:.3f}] | |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
