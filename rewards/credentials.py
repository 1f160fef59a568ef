"""What is measured of a reward before anyone trains on it: response, invariance, order, gradient, ascent, cost.
"""
from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from evalkit.data.corruptions import SEVERITIES, corrupt
from evalkit.statistics import auc_paired
from rewards.base import Reward
from rewards.hack_clips import CleanClip

RESPONSES = ("blur", "noise", "luma_flicker", "camera_jitter", "freeze", "shuffle", "blocks", "desaturation")
ASCENTS = ("blur", "noise", "luma_flicker")  # what clips are damaged with, at severity 3, before the ascent
STEPS, RATE = 50, 2 / 255  # of the ascent: Adam on the pixels


def scores_of(reward: Reward, clips: Sequence[CleanClip], change: Callable[[Tensor, int], Tensor] | None = None,
              slower: int = 1) -> np.ndarray:
    """(N,) rewards, each clip alone, after `change(frames, index)`; `slower`: by which that divides the frame rate."""
    with torch.no_grad():
        return np.array([float(reward(_floats(clip.frames if change is None else change(clip.frames, index)),
                                      _prompt(clip), clip.fps / slower)) for index, clip in enumerate(clips)])


def _prompt(clip: CleanClip) -> list[str] | None:
    return None if clip.prompt is None else [clip.prompt]


def _floats(frames: Tensor) -> Tensor:
    """(1, T, 3, H, W) in [0, 1]."""
    return (frames if frames.is_floating_point() else frames.float() / 255)[None]


def responses(reward: Reward, clips: Sequence[CleanClip],
              names: Sequence[str] = RESPONSES) -> dict[str, dict[str, Any]]:
    """Corruption -> mean reward at severities 0 to 5, the clips' median Spearman correlation of reward and severity.

    -1: every clip falls with every step. Where a reward is to ignore a corruption, 0 is right.
    """
    clean, found = scores_of(reward, clips), {}
    for name in names:
        damaged = (scores_of(reward, clips, _damage(clips, name, severity)) for severity in SEVERITIES)
        table = np.stack([clean, *damaged])
        ranks = [spearmanr(range(6), column).statistic if np.ptp(column) else 0.0 for column in table.T]
        found[name] = {"means": table.mean(1).tolist(), "spearman": statistics.median(map(float, ranks))}
    return found


def _damage(clips: Sequence[CleanClip], name: str, severity: int) -> Callable[[Tensor, int], Tensor]:
    return lambda frames, index: corrupt(frames, name, severity, seed=index, fps=clips[index].fps)


def invariances(reward: Reward, clips: Sequence[CleanClip]) -> dict[str, dict[str, float]]:
    """Change -> mean shift and mean absolute shift of the reward, both over its standard deviation over clips.

    Half the rate, the first half alone, written as H.264 (CRF 18) and read again, twice the size, the middle 7/8.
    NaN where the reward is the same for every clip; a change that leaves too few frames for it is left out.
    """
    clean = scores_of(reward, clips)
    spread = float(clean.std(ddof=1)) if len(clean) > 1 else float("nan")
    changes: dict[str, Callable[[Tensor, int], Tensor]] = {
        "half the frame rate": lambda frames, _: frames[::2],
        "first half": lambda frames, _: frames[:len(frames) // 2],
        "re-encoded": lambda frames, index: _reencoded(frames, clips[index].fps),
        "twice the size": lambda frames, _: _scaled(frames, 2),
        "cropped": lambda frames, _: _middle(frames)}
    shortest = min((clip.frames for clip in clips), key=len)
    found = {}
    for name, change in changes.items():
        if len(change(shortest, 0)) < reward.min_frames:
            continue
        shift = scores_of(reward, clips, change, 2 if name == "half the frame rate" else 1) - clean
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = {"shift": float(np.divide(shift.mean(), spread)),
                           "absolute": float(np.divide(np.abs(shift).mean(), spread))}
    return found


def _reencoded(frames: Tensor, fps: float) -> Tensor:
    from evalkit.data.video import read_video
    from evalkit.data.video_writer import write_video

    with tempfile.TemporaryDirectory() as folder:
        return read_video(write_video(Path(folder) / "clip.mp4", frames, fps)).frames


def _scaled(frames: Tensor, factor: int) -> Tensor:
    larger = F.interpolate(frames.float(), scale_factor=factor, mode="bicubic", antialias=True)
    return larger.clamp(0, 255).round().to(torch.uint8)


def _middle(frames: Tensor) -> Tensor:
    height, width = frames.shape[2:]
    return frames[:, :, height // 16:height - height // 16, width // 16:width - width // 16]


def order_sensitivity(reward: Reward, clips: Sequence[CleanClip]) -> dict[str, Any]:
    """Share of clips whose shuffled twin scores lower, ties half, with interval; and of those that score the same."""
    clean = scores_of(reward, clips)
    shuffled = scores_of(reward, clips, _damage(clips, "shuffle", 5))
    share, interval = auc_paired(clean, shuffled)
    return {"auc": share, "ci": interval, "n": len(clean), "same": float(np.isclose(clean, shuffled, atol=1e-7).mean())}


def gradient_health(reward: Reward, clips: Sequence[CleanClip]) -> dict[str, dict[str, float]]:
    """"float32" and "bfloat16" -> shares of clips with a finite gradient, of frames with one that is not 0.

    "spread": the largest norm of a frame over the smallest, median over clips: how evenly a clip is pulled.
    """
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        finite, reached, spreads = [], [], []
        for clip in clips:
            pixels = _floats(clip.frames).to(dtype).requires_grad_()
            gradient, = torch.autograd.grad(reward(pixels, _prompt(clip), clip.fps).sum(), pixels)
            norms = gradient[0].float().flatten(1).norm(dim=1)
            finite.append(bool(torch.isfinite(gradient).all()))
            reached.append(float((norms > 0).float().mean()))
            spreads.append(float(norms.max() / norms.min().clamp_min(1e-20)))
        found[str(dtype).removeprefix("torch.")] = {
            "finite": float(np.mean(finite)), "reached": float(np.mean(reached)), "spread": statistics.median(spreads)}
    return found


def ascent(reward: Reward, clips: Sequence[CleanClip], twins: dict[str, Reward], name: str) -> dict[str, Any]:
    """What 50 steps of ascent on the pixels of clips with the corruption `name` at severity 3 do.

    Means over clips, which are all of one shape, before and after: the reward; each twin, a reward on another backbone
    that should rise too; and PSNR in dB to the clean original, which falls where the reward is climbed without
    repairing anything. "risen": share of clips whose reward is higher afterwards.
    """
    damage = _damage(clips, name, 3)
    start = torch.cat([_floats(damage(clip.frames, index)) for index, clip in enumerate(clips)])
    prompts = None if any(clip.prompt is None for clip in clips) else [clip.prompt for clip in clips]
    fps = torch.tensor([clip.fps for clip in clips])
    clean, end = torch.cat([_floats(clip.frames) for clip in clips]), _climb(reward, start, prompts, fps)
    with torch.no_grad():
        scored = {title: [one(pixels, prompts, fps) for pixels in (start, end)]
                  for title, one in ({"reward": reward} | twins).items()}
        scored["psnr"] = [_psnr(pixels, clean) for pixels in (start, end)]
    risen = (scored["reward"][1] > scored["reward"][0]).double().mean()
    means = {title: [float(side.mean()) for side in both] for title, both in scored.items()}
    return means | {"n": len(clips), "risen": float(risen)}


def _climb(reward: Reward, start: Tensor, prompts: Sequence[str] | None, fps: Tensor) -> Tensor:
    """All clips at once: none of them enters another's gradient, and a batch takes about half the time."""
    pixels = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-reward(pixels, prompts, fps).sum()).backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return pixels.detach()


def _psnr(pixels: Tensor, clean: Tensor) -> Tensor:
    """(B,) in dB."""
    return -10 * torch.log10((pixels - clean).square().mean((1, 2, 3, 4)).clamp_min(1e-10))


def cost(reward: Reward, frames: Tensor, prompts: Sequence[str] | None, fps: float,
         repeats: int = 3) -> dict[str, float]:
    """Milliseconds a clip, the fastest of `repeats`: forward alone, and with the gradient; frames (1, T, 3, H, W).

    On CUDA also the peak of allocated MiB of each.
    """
    cuda = frames.is_cuda
    reward.to(frames.device)

    def forward() -> None:
        with torch.no_grad():
            reward(frames, prompts, fps)

    def backward() -> None:
        pixels = frames.clone().requires_grad_()
        torch.autograd.grad(reward(pixels, prompts, fps).sum(), pixels)

    found = {}
    for name, work in (("forward", forward), ("backward", backward)):
        work()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        found[f"{name}_ms"] = 1e3 * min(times)
        if cuda:
            found[f"{name}_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found
