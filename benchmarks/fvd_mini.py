"""Does fvd_mini see it? Five severities of six defects, on the world and real clips: `python benchmarks/fvd_mini.py`.

Half of the clips are the reference, the other half gets the defect, so that no clip is on both sides; the floor is the
same half without it. Every row must rise with the severity, and at severity 3 reach three times the floor. Real clips:
the videos of UCF-101 classes in `--assets`, 2 s from the middle of each; shorter ones are left out. Beside the six,
the whole clip reversed is shown: of a scene that looks as likely that way round there is nothing to see.
"""
from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

DEFECTS = ("blur", "noise", "luma_flicker", "freeze", "shuffle", "reverse")
CHUNK = 25  # clips a task
FPS = 8.0


@dataclass(frozen=True)
class Config:
    n: int = 2000  # clips a side of the world; as many as there are of the real ones
    workers: int = 2
    seed: int = 0
    world: bool = True
    real: bool = True
    assets: Path = Path(__file__).resolve().parents[2] / "shared" / "assets"


def features(job: tuple[list, bool]) -> dict[tuple[str, int], Tensor]:
    """(defect, severity) -> (clips, D) of the clips given as seeds or paths; ("", 0) is clean; defects if asked for."""
    from evalkit.data.corruptions import corrupt
    from evalkit.features.mini_video import load_mini_video
    from evalkit.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    sources, damaged = job
    network = load_mini_video().eval()
    clips = [frames for frames in map(_frames, sources) if frames is not None]
    wanted = [("", 0)]
    if damaged:
        wanted += [(name, severity) for name in DEFECTS for severity in range(1, 6)] + [("backwards", 5)]

    def changed(frames: Tensor, index: int, name: str, severity: int) -> Tensor:
        if name == "backwards":
            return frames.flip(0)
        return corrupt(frames, name, severity, seed=index, fps=FPS) if name else frames

    with torch.no_grad():
        return {key: torch.cat([network(changed(frames, index, *key)[None].float() / 255)
                                for index, frames in enumerate(clips)]) for key in wanted}


def _frames(source: int | str) -> Tensor | None:
    """uint8 (16, 3, 64, 64), or None where the video is too short."""
    from evalkit.data.scene import make_scene
    from evalkit.data.synthetic import render_scene
    from evalkit.data.video import VideoError, read_clips
    from evalkit.metrics.base import make_metric

    if isinstance(source, int):
        return render_scene(make_scene(source))
    spec = make_metric("fvd_mini").spec
    found = read_clips(source, [spec])[spec]
    return None if isinstance(found, VideoError) else found[0].frames


def ladder(title: str, sources: Sequence[int | str], config: Config) -> bool:
    """Print the table of one set; whether every row passes."""
    from evalkit.metrics.frechet import frechet_distance_from_features

    order = np.random.default_rng(config.seed).permutation(len(sources))
    reference, other = ([sources[k] for k in part] for part in np.array_split(order, 2))
    jobs = [([*side[start:start + CHUNK]], side is other) for side in (reference, other)
            for start in range(0, len(side), CHUNK)]
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(features, jobs))
    real = torch.cat([part["", 0] for part, (_, damaged) in zip(parts, jobs, strict=True) if not damaged]).double()
    sides = [part for part, (_, damaged) in zip(parts, jobs, strict=True) if damaged]
    found = {key: frechet_distance_from_features(real, torch.cat([part[key] for part in sides]).double())
             for key in sides[0]}
    floor, passed = found["", 0], True
    others = sum(len(part["", 0]) for part in sides)
    print(f"\n{title}: {len(real)} reference clips, {others} others, floor {floor:.3f}\n"
          "| defect | 1 | 2 | 3 | 4 | 5 | at 3, × floor | |\n|---|---|---|---|---|---|---|---|")
    for name in DEFECTS:
        values = [found[name, severity] for severity in range(1, 6)]
        good = bool((np.diff(values) > 0).all()) and values[2] >= 3 * floor
        passed &= good
        cells = " | ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {cells} | {values[2] / floor:.2f} | {'pass' if good else 'fails'} |")
    print(f"| whole clip reversed | | | | | {found['backwards', 5]:.2f} | | |", flush=True)
    return passed


def main(config: Config) -> None:
    from evalkit.data.scene import SPLITS

    passed = True
    if config.real:
        with tempfile.TemporaryDirectory() as folder:
            for archive in sorted((config.assets / "data" / "ucf101" / "clips64").glob("*.zip")):
                zipfile.ZipFile(archive).extractall(Path(folder) / archive.stem)
            passed &= ladder("UCF-101", sorted(map(str, Path(folder).rglob("*.mp4"))), config)
    if config.world:
        passed &= ladder("world", [SPLITS["test"] + k for k in range(2 * config.n)], config)
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
