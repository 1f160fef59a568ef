"""The oracle's accuracy on held-out scenes, clean and damaged: `python benchmarks/oracle.py [--n 2000]`.

Clean: every factor, on scenes of the test split and on held-out combinations. Damaged: every clip with one corruption,
drawn at random. Defects: per corruption, the AUROC of its probability on clips that have it against clean ones.
Intervals: Wilson for shares, the normal approximation of Hanley & McNeil (1982) for areas.
"""
from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import tyro
from scipy.stats import rankdata

from evalkit.statistics import wilson_interval

FACTORS = ("shape", "colour", "direction", "camera", "size", "texture", "path", "pace", "count", "ground", "pattern",
           "horizon", "camera_speed", "light", "grade", "lines", "post", "cut", "cut_ground", "others")


@dataclass(frozen=True)
class Config:
    n: int = 2000  # clips a row
    workers: int = 2
    batch: int = 50


def read(job: tuple[int, int, str | None, int]) -> list[tuple[dict, dict, dict, float, float]]:
    """(truth, factors read, defect probabilities, speed, speed read) of scenes from `first` on, one corruption each.

    job: first seed, how many, the corruption ("" draws one per scene, None leaves them clean) and its severity.
    """
    import torch

    from evalkit.data.captions import claims
    from evalkit.data.oracle import read_frames
    from evalkit.data.scene import make_scene
    from evalkit.memory import keep_freed_memory
    from evalkit.mini.stream import DEFECTS, damaged_frames

    torch.set_num_threads(1)
    keep_freed_memory()
    first, count, corruption, severity = job
    scenes = [make_scene(seed) for seed in range(first, first + count)]
    names = [None if corruption is None else corruption or DEFECTS[scene.seed * 7919 % len(DEFECTS)]
             for scene in scenes]
    defects = [[] if name is None else [(name, severity, scene.seed)]
               for name, scene in zip(names, scenes, strict=True)]
    readings = read_frames(damaged_frames(scenes, defects))
    return [(claims(scene) | {"defect": name or ""}, reading.factors, reading.defects, scene.subject.speed,
             reading.speed) for scene, name, reading in zip(scenes, names, readings, strict=True)]


def auroc(present: Sequence[float], absent: Sequence[float]) -> tuple[float, float, float]:
    """Area under the curve with its 95 % interval."""
    n, m = len(present), len(absent)
    ranks = rankdata([*present, *absent])
    area = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt(max(0.0, area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m))
    return area, max(0.0, area - 1.96 * error), min(1.0, area + 1.96 * error)


def main(config: Config) -> None:
    from evalkit.data.scene import SPLITS

    rows = {"clean": ("test", None, 0), "held-out combinations": ("compositional", None, 0),
            "severity 1": ("test", "", 1), "severity 2": ("test", "", 2), "severity 3": ("test", "", 3)}
    found = {}
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        for title, (split, corruption, severity) in rows.items():
            starts = range(SPLITS[split], SPLITS[split] + config.n, config.batch)
            jobs = [(start, config.batch, corruption, severity) for start in starts]
            found[title] = [row for part in pool.map(read, jobs) for row in part]
    print_factors(found)
    print_defects(found)


def print_factors(found: dict[str, list]) -> None:
    print("| factor | " + " | ".join(f"{title} (n = {len(rows)})" for title, rows in found.items()) + " |")
    print("|---|" + "---|" * len(found))
    for factor in FACTORS:
        cells = []
        for rows in found.values():
            right = sum(truth[factor] == read[factor] for truth, read, *_ in rows)
            low, high = wilson_interval(right / len(rows), len(rows))
            cells.append(f"{right / len(rows):.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {factor} | " + " | ".join(cells) + " |")
    errors = [np.mean([abs(read - truth) / truth for *_, truth, read in rows]) for rows in found.values()]
    print("| speed, mean relative error | " + " | ".join(f"{error:.3f}" for error in errors) + " |")


def likely(defects: dict[str, float], name: str) -> float:
    """Probability of the defect called `name`, of any at all where it is ""."""
    return defects[name] if name else float(1 - np.prod([1 - chance for chance in defects.values()]))


def print_defects(found: dict[str, list]) -> None:
    """AUROC per defect and over all: present against clean."""
    from evalkit.mini.stream import DEFECTS

    titles = [title for title in found if title.startswith("severity")]
    print("\n| defect | " + " | ".join(f"AUROC at {title}" for title in titles) + " |\n|---|" + "---|" * len(titles))
    clean = found["clean"]
    for name in (*DEFECTS, ""):
        cells = []
        for title in titles:
            of = [row for row in found[title] if name in ("", row[0]["defect"])]
            area, low, high = auroc(*([likely(row[2], name) for row in rows] for rows in (of, clean)))
            cells.append(f"{area:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {name or '**any defect, against none**'} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
