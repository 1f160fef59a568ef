"""Every clean clip against every hacked twin: paired AUC per reward and hack, and one hackability per reward."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from evalkit.features.base import extract
from evalkit.statistics import Interval, auc_paired, cluster_bootstrap
from evalkit.workers import map_in_processes
from rewards.base import Reward
from rewards.hack_clips import CleanClip, Progress
from rewards.hacks import Hack

CLEAN = ""  # the key of the clean clip's score beside those of the hacks
Scores = dict[str, dict[str, float]]  # reward -> hack -> score


@dataclass(frozen=True)
class AttackRow:
    """One reward against one hack on one set of clips.

    auc: share of clips that score higher than their hacked twin, ties half; ci: Wilson's 95 % interval with every
    clip a case, ci_scenes with every scene one (clips of a scene resemble each other: the truth lies between).
    """

    reward: str
    hack: str
    clips: str
    auc: float
    ci: Interval
    n: int
    ci_scenes: Interval
    scenes: int


@dataclass(frozen=True)
class Hackability:
    """Mean over hacks of the share of clips whose hacked twin scores at least as high as the clean one.

    0: no hack ever pays; a reward that cannot tell has 1. ci: 95 % bootstrap over scenes; None with a single one.
    """

    value: float
    ci: Interval | None
    n: int
    scenes: int


@dataclass(frozen=True)
class AttackReport:
    """rows: one for each reward, hack and set. hackability: reward -> set of clips. skipped: what was not, and why."""

    rows: list[AttackRow]
    hackability: dict[str, dict[str, Hackability]]
    skipped: list[str]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def attack(rewards: Mapping[str, Reward], sets: Mapping[str, Sequence[CleanClip]], hacks: Mapping[str, Hack], *,
           seed: int = 0, workers: int = 1, progress: Progress = lambda *_: None) -> AttackReport:
    """Score all clips of all `sets` (name -> clips) and their twins; the same for any number of `workers`.

    A reward that needs prompts is not tried on a set where a clip has none, or one that it cannot read. ValueError
    where there is no hack, or a reward gives a number that is not finite.
    """
    if not hacks:
        raise ValueError("expected at least one hack, got none")
    for reward in rewards.values():
        reward.requires_grad_(False)  # only pixels are attacked
    report = AttackReport([], {name: {} for name in rewards}, [])
    able = {title: _able(rewards, title, clips, report.skipped) for title, clips in sets.items()}
    tasks = [(title, clip) for title, clips in sets.items() if able[title] for clip in clips]

    def score(task: tuple[str, CleanClip]) -> Scores:
        return score_twins(able[task[0]], task[1], hacks, seed)

    scored: dict[str, list[Scores]] = {title: [] for title in sets}
    for done, ((title, _), found) in enumerate(
            zip(tasks, map_in_processes(score, tasks, workers, _crashed), strict=True), 1):
        scored[title].append(found)
        progress("attacking", done, len(tasks))
    for title, of_clips in scored.items():
        scenes = [clip.scene for clip in sets[title]]
        for name in able[title] if of_clips else ():
            report.rows.extend(_row(name, hack, title, of_clips, scenes) for hack in hacks)
            report.hackability[name][title] = hackability([one[name] for one in of_clips], scenes)
    return report


def _able(rewards: Mapping[str, Reward], title: str, clips: Sequence[CleanClip],
          skipped: list[str]) -> dict[str, Reward]:
    able = {}
    for name, reward in rewards.items():
        if reward.needs_prompts and any(clip.prompt is None for clip in clips):
            skipped.append(f"{name} on {title}: needs prompts, and these clips have none")
        elif reward.needs_prompts and (why := _unread(reward, clips)):
            skipped.append(f"{name} on {title}: {why}")
        elif any(len(clip.frames) < reward.min_frames for clip in clips):
            skipped.append(f"{name} on {title}: needs {reward.min_frames} frames, and some clips are shorter")
        else:
            able[name] = reward
    return able


def _unread(reward: Reward, clips: Sequence[CleanClip]) -> str:
    """Why it cannot read the prompts of these clips, "" where it can."""
    try:
        reward.check_prompts([clip.prompt or "" for clip in clips])
    except ValueError as error:
        return str(error)
    return ""


def _crashed(task: tuple[str, CleanClip]) -> Scores:
    raise RuntimeError(f"scoring {task[1].name} ended its process")


def score_twins(rewards: Mapping[str, Reward], clip: CleanClip, hacks: Mapping[str, Hack], seed: int = 0) -> Scores:
    """Every reward of the clip (under CLEAN) and of each hacked twin; a white-box twin is made for each reward."""
    from evalkit.memory import keep_freed_memory

    keep_freed_memory()
    draw = crc32(f"{seed}/{clip.name}".encode())
    black_box = {name: hack for name, hack in hacks.items() if not hack.white_box}
    found: Scores = {name: {} for name in rewards}
    for hack, twin in [(CLEAN, clip.frames), *((name, one(clip.frames, draw, clip.fps))
                                               for name, one in black_box.items())]:
        for name, value in score_all(rewards, twin, clip).items():
            found[name][hack] = value
    for name, reward in rewards.items():
        for hack, one in hacks.items():
            if one.white_box:
                twin = one(clip.frames, draw, clip.fps, _target(reward, clip))
                found[name][hack] = score_all({name: reward}, twin, clip)[name]
    return found


@torch.no_grad()
def score_all(rewards: Mapping[str, Reward], frames: Tensor, clip: CleanClip) -> dict[str, float]:
    """Each reward of uint8 `frames` (T, 3, H, W) with the prompt and rate of `clip`; shared features computed once."""
    pixels = frames[None].float() / 255
    modules = {key: module for reward in rewards.values() for key, module in reward._by_key()}
    features = {key: extract(module, pixels) for key, module in modules.items()}
    prompts, fps = None if clip.prompt is None else [clip.prompt], torch.tensor([clip.fps])
    scores = {name: reward.score(pixels, features, prompts, fps).item() for name, reward in rewards.items()}
    for name, value in scores.items():
        if not np.isfinite(value):
            raise ValueError(f"{name}: expected a finite reward of {clip.name}, got {value}")
    return scores


def _target(reward: Reward, clip: CleanClip) -> Callable[[Tensor], Tensor]:
    prompts = [clip.prompt] if reward.needs_prompts else None
    return lambda pixels: reward(pixels, prompts, clip.fps)


def _row(reward: str, hack: str, title: str, scored: Sequence[Scores], scenes: Sequence[str]) -> AttackRow:
    clean, hacked = ([one[reward][key] for one in scored] for key in (CLEAN, hack))
    auc, ci = auc_paired(clean, hacked)
    ci_scenes = auc_paired(clean, hacked, scenes)[1]
    return AttackRow(reward, hack, title, auc, ci, len(clean), ci_scenes, len(set(scenes)))


def hackability(scored: Sequence[Mapping[str, float]], scenes: Sequence[str]) -> Hackability:
    """From one reward's scores of every clip (hack -> score, and CLEAN)."""
    paid = [float(np.mean([value >= one[CLEAN] for hack, value in one.items() if hack != CLEAN])) for one in scored]
    ci = cluster_bootstrap(paid, scenes)
    bounded = None if ci is None else (max(0.0, ci[0]), min(1.0, ci[1]))
    return Hackability(float(np.mean(paid)), bounded, len(paid), len(set(scenes)))
