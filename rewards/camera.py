"""The camera's path from similarities of frame pairs: jitter, stability (Liu 2013), smoothness, shot type."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from rewards.bands import falls

LEVER = 0.4  # short sides: how far a pixel lies from the centre, so that zoom and roll count as the shift they cause
JITTER_HZ = 3.0  # hands and walking shake above it, intended camera moves stay below
STILL = 0.005  # short sides per second: slower than that a camera is on a tripod
ALIVE = 0.01  # short sides per second: slower than that nothing moves, not even the grain of a tripod shot

# Quantiles over 95 real clips (60 UCF-101, 9 WebVid, 9 Kinetics and others, 17 of FETV)
JITTER = 0.0049  # .90: a tenth of them are hand-held and shaky beyond what is natural in a film
UNSTEADY = 0.94  # .95

SHOULDER = 0.5  # e-folds: how softly a score falls


def camera_velocity(transform: Tensor, cut: Tensor, fps: Tensor) -> Tensor:
    """(B, T-1, 4) shift by pan, tilt, zoom and roll in short sides per second.

    transform (B, T-1, 4) holds tx, ty, log_scale and angle per pair; a pair across a `cut` (B, T-1, 1.0) moves as the
    others do on average; fps is (B,).
    """
    shift = transform * transform.new_tensor([1.0, 1.0, LEVER, LEVER]) * fps[:, None, None]
    return fill_cuts(shift, cut)


def fill_cuts(values: Tensor, cut: Tensor) -> Tensor:
    """(B, N, D) with the pairs across a cut replaced by the mean of the others."""
    keep = 1 - cut[..., None]
    mean = (values * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp_min(1.0)
    return values * keep + mean * (1 - keep)


def camera_path(velocity: Tensor, fps: Tensor) -> Tensor:
    """(B,) in (0, 1): 1 where the camera (B, N, 4) stands or moves as on a rail; trembling costs by size and by share.

    A tripod is as good as a rail, and so is a frozen clip: `motion_smoothness` is what that costs.
    """
    return stability(velocity, fps) * falls(jitter(velocity, fps), JITTER, SHOULDER)


def motion_smoothness(velocity: Tensor, speed: Tensor, fps: Tensor) -> Tensor:
    """(B,) in (0, 1): 1 where everything moves, and does so evenly; 0 in a frozen clip, less for every repeated frame.

    velocity (B, N, 4) is the camera's, speed (B, N) that of the fastest things, in short sides per second.
    """
    alive = (speed / (speed + ALIVE)).mean(1)
    return alive * falls(unsteadiness(torch.cat([velocity, speed[..., None]], dim=-1), fps), UNSTEADY, SHOULDER)


def unsteadiness(velocity: Tensor, fps: Tensor) -> Tensor:
    """(B,) rms of what velocities (B, N, D) do above 3 Hz, in short sides per second."""
    power, frequency = spectrum(velocity, fps)
    return ((power * high_pass(frequency)).sum(1) + 1e-10).sqrt()


def jitter(velocity: Tensor, fps: Tensor) -> Tensor:
    """(B,) rms of the path above 3 Hz, in short sides, from velocities (B, N, D) per second."""
    power, frequency = spectrum(velocity, fps)
    ratio = frequency / JITTER_HZ
    path = ratio.square() / (1 + ratio**4) / (2 * math.pi * JITTER_HZ) ** 2  # = high_pass / (2 pi f)^2, finite at f=0
    return ((power * path).sum(1) + 1e-12).sqrt()


def stability(velocity: Tensor, fps: Tensor) -> Tensor:
    """(B,) in (0, 1]: share of motion energy below 3 Hz, a steady pan included; 1 on a tripod."""
    power, frequency = spectrum(velocity, fps)
    high = (power * high_pass(frequency)).sum(1)
    smooth = power.sum(1) - high + velocity.mean(1).square().sum(-1) + STILL**2
    return smooth / (smooth + high)


def high_pass(frequency: Tensor) -> Tensor:
    """What share of the energy at `frequency` counts as above 3 Hz: a soft edge, so that no bin decides."""
    ratio = (frequency / JITTER_HZ) ** 4
    return ratio / (1 + ratio)


def spectrum(signal: Tensor, fps: Tensor) -> tuple[Tensor, Tensor]:
    """Power (B, F), adding up to the variance over time of (B, N, D), and the frequencies (B, F) in Hz.

    A sine window keeps the ends of a move from leaking into the high frequencies.
    """
    count = signal.shape[1]
    window = torch.sin(math.pi * (torch.arange(count, device=signal.device, dtype=signal.dtype) + 0.5) / count)
    window = window / window.square().mean().sqrt()
    found = torch.fft.rfft((signal - signal.mean(1, keepdim=True)) * window[:, None], dim=1) / count
    power = (found.real.square() + found.imag.square()).sum(-1)
    bins = torch.arange(power.shape[1], device=signal.device, dtype=signal.dtype)
    twice = torch.where((bins == 0) | (2 * bins == count), 1.0, 2.0)  # bins that stand for two of the full spectrum
    return power * twice, bins * fps[:, None] / count


def shot_type(velocity: Tensor) -> dict[str, Tensor]:
    """Diagnostic: confidences (B,) that add up to one, of static, pan, tilt, zoom, roll and handheld.

    Each is a share of mean squared velocity: steady parts by axis, the unsteady rest as handheld, and as static the
    speed below which a camera stands still. A zoom and a dolly look alike.
    """
    steady = velocity.mean(1).square()
    energy = {name: steady[:, i] for i, name in enumerate(("pan", "tilt", "zoom", "roll"))}
    energy["handheld"] = (velocity - velocity.mean(1, keepdim=True)).square().mean(1).sum(-1)
    energy["static"] = torch.full_like(energy["pan"], STILL**2)
    total = sum(energy.values())
    return {name: value / total for name, value in energy.items()}
