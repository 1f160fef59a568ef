"""Defects that the learned artifact detector needs beyond `evalkit.data.corruptions`: edges, textures, joints, objects.

Apart from that library, whose list fixes what the shipped oracle answers; the same contract, five nested severities.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.data.corruptions import Corruption, Dial, Kind
from evalkit.data.spatial_defects import gaussian_blur, luma, pixels
from evalkit.data.temporal_defects import random_walkers, translate

INJECTED: dict[str, Corruption] = {}


def injected(kind: Kind) -> Callable[[Callable], Callable]:
    """Function decorator: a defect under the function's own name; its docstring's first line is the summary."""

    def add(function: Callable[[Tensor, Dial], Tensor]) -> Callable[[Tensor, Dial], Tensor]:
        name = function.__name__
        INJECTED[name] = Corruption(name, (function.__doc__ or name).splitlines()[0], kind, function)
        return function

    return add


def warped(frames: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Float (T, C, H, W) read `across` and `down` pixels beside each pixel, each (H, W) or (T, H, W); bilinear."""
    count, _, height, width = frames.shape
    ys, xs = (torch.arange(n, device=frames.device, dtype=torch.float32) for n in (height, width))
    places = torch.stack([(2 * (xs + across) + 1) / width - 1, (2 * (ys[:, None] + down) + 1) / height - 1], -1)
    return F.grid_sample(frames.float(), places.expand(count, height, width, 2), padding_mode="border",
                         align_corners=False)


def smooth_fields(dial: Dial, frames: Tensor, count: int, sigma: float) -> Tensor:
    """(count, 1, H, W) random fields of standard deviation 1 whose details are about `sigma` pixels wide."""
    drawn = dial.rng.standard_normal((count, 1, *frames.shape[-2:]), dtype="float32")
    fields = gaussian_blur(torch.from_numpy(drawn).to(frames.device), sigma)
    return fields / fields.std((1, 2, 3), keepdim=True).clamp_min(1e-6)


def disc(frames: Tensor, spot: tuple[int, int], radius: float) -> Tensor:
    """(H, W): 1 within `radius` pixels of `spot` (y, x), falling to 0 over a third of it."""
    ys, xs = (torch.arange(n, device=frames.device) - at for n, at in zip(frames.shape[-2:], spot, strict=True))
    distance = (ys[:, None] ** 2 + xs**2).float().sqrt()
    return (1 - 3 * (distance / radius - 1)).clamp(0, 1)


def salient_spots(frame: Tensor, radius: float, count: int = 1) -> list[tuple[int, int]]:
    """Centres (y, x) of what stands out in (3, H, W), best first, at least 2.5 radii from each other, not at the rim.

    Centre against surroundings, in all colours: a thing rather than the texture it lies on.
    """
    rows = frame[None].float()
    contrast = (gaussian_blur(rows, radius / 2) - gaussian_blur(rows, 2 * radius)).abs().sum(1)[0]
    central = [torch.hann_window(n + 2, periodic=False, device=frame.device)[1:-1] for n in frame.shape[-2:]]
    contrast = contrast * torch.outer(*central).sqrt()
    spots = []
    for _ in range(count):
        spots.append(divmod(int(contrast.argmax()), frame.shape[-1]))
        contrast = contrast * (1 - disc(frame, spots[-1], 2.5 * radius))
    return spots


def _radius(dial: Dial, frames: Tensor) -> float:
    return dial(0.09, 0.12, 0.15, 0.19, 0.24) * min(frames.shape[-2:])


def _event(dial: Dial, frames: Tensor) -> int:
    """The frame at which something happens, in the middle half of the clip."""
    return max(1, round((0.25 + 0.5 * dial.rng.random()) * len(frames)))


def _from(frames: Tensor, start: int, mask: Tensor, instead: Tensor) -> Tensor:
    """The clip whose frames from `start` on show `instead` (n, 3, H, W) where `mask` (H, W) is 1."""
    return torch.cat([frames[:start].float(), torch.lerp(frames[start:].float(), instead.float(), mask)])


def shifted(frames: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """The picture moved so that what was at `source` lies at `target`; what leaves comes in at the other side."""
    return frames.roll((target[0] - source[0], target[1] - source[1]), (-2, -1))


# Boundaries and edges


@injected("spatial")
def colour_fringe(frames: Tensor, dial: Dial) -> Tensor:
    """Red and blue lie beside green: coloured rims along all edges."""
    reach = dial(0.5, 0.9, 1.5, 2.4, 3.6) * pixels(frames)
    angle = 2 * math.pi * dial.rng.random()
    planes = []
    for plane, side in zip(frames.float().split(1, dim=1), (1, 0, -1), strict=True):
        for dim, share in ((2, math.sin(angle)), (3, math.cos(angle))):
            plane = translate(plane, torch.full((len(frames),), side * share * reach, device=frames.device), dim)
        planes.append(plane)
    return torch.cat(planes, dim=1)


@injected("spatial")
def wavy_edges(frames: Tensor, dial: Dial) -> Tensor:
    """Outlines wobble as behind uneven glass, the same in every frame."""
    across, down = smooth_fields(dial, frames, 2, 2.2 * pixels(frames))[:, 0]
    reach = dial(0.5, 0.8, 1.2, 1.8, 2.7) * pixels(frames)
    return warped(frames, reach * across, reach * down)


@injected("temporal")
def melting_edges(frames: Tensor, dial: Dial) -> Tensor:
    """Outlines run: a smooth displacement that grows and ebbs within the clip."""
    fields = smooth_fields(dial, frames, 2, 3.5 * pixels(frames))
    course = torch.sin(math.pi * (torch.arange(len(frames), device=frames.device) + 0.5) / len(frames))[:, None, None]
    reach = dial(0.7, 1.1, 1.7, 2.5, 3.6) * pixels(frames) * course
    return warped(frames, reach * fields[0], reach * fields[1])


@injected("spatial")
def broken_edges(frames: Tensor, dial: Dial) -> Tensor:
    """Small squares of the picture lie beside their places: outlines break into steps."""
    side = max(2, round(5 * pixels(frames)))
    rows, columns = (-(-n // side) for n in frames.shape[-2:])
    drawn = torch.from_numpy(dial.rng.standard_normal((2, rows, columns), dtype="float32")).to(frames.device)
    drawn = drawn.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :frames.shape[-2], :frames.shape[-1]]
    across, down = dial(0.5, 0.8, 1.2, 1.8, 2.7) * pixels(frames) * drawn
    return warped(frames, across, down)


@injected("spatial")
def double_edges(frames: Tensor, dial: Dial) -> Tensor:
    """A translucent copy of the same frame lies a little beside it."""
    angle, reach = 2 * math.pi * dial.rng.random(), (2 + 2 * dial.rng.random()) * pixels(frames)
    beside = torch.full(frames.shape[-2:], reach, device=frames.device)
    copy = warped(frames, math.cos(angle) * beside, math.sin(angle) * beside)
    return torch.lerp(frames.float(), copy, dial(0.15, 0.22, 0.3, 0.4, 0.5))


@injected("spatial")
def aliased(frames: Tensor, dial: Dial) -> Tensor:
    """Every other pixel or fewer, picked without a filter, enlarged smoothly: crawling, soft outlines."""
    step = dial(1.5, 1.9, 2.4, 3.2, 4.2) * 1.3 * pixels(frames)
    coarse = [max(1, round(n / step)) for n in frames.shape[-2:]]
    picked = F.interpolate(frames.float(), coarse, mode="nearest-exact")
    return F.interpolate(picked, frames.shape[-2:], mode="bilinear", align_corners=False)


@injected("spatial")
def jagged(frames: Tensor, dial: Dial) -> Tensor:
    """Enlarged from fewer pixels without smoothing: edges are stairs."""
    step = dial(2.6, 2.6, 3.9, 5.2, 6.5) * pixels(frames)
    coarse = [max(1, round(n / step)) for n in frames.shape[-2:]]
    stairs = F.interpolate(F.interpolate(frames.float(), coarse, mode="area"), frames.shape[-2:], mode="nearest")
    return torch.lerp(frames.float(), stairs, dial(0.5, 1, 1, 1, 1))


# Textures and noise


@injected("spatial")
def mottle(frames: Tensor, dial: Dial) -> Tensor:
    """Soft blotches of light and colour that boil from frame to frame."""
    fields = smooth_fields(dial, frames, 3 * len(frames), 1.3 * pixels(frames)).view(frames.shape)
    return frames + dial(4, 7, 12, 20, 34) * fields


@injected("spatial")
def stripes(frames: Tensor, dial: Dial) -> Tensor:
    """A fine slanted wave of brightness over the picture, as moire."""
    angle, period = math.pi * dial.rng.random(), 2.5 + 3.5 * dial.rng.random()
    ys, xs = (torch.arange(n, device=frames.device) for n in frames.shape[-2:])
    wave = torch.sin(2 * math.pi / (period * pixels(frames)) * (math.sin(angle) * ys[:, None] + math.cos(angle) * xs))
    return frames + dial(4, 7, 12, 20, 34) * wave


@injected("spatial")
def stained(frames: Tensor, dial: Dial) -> Tensor:
    """Fixed grain over a part of the picture, as dirt on a lens."""
    field = smooth_fields(dial, frames, 1, 0.5)
    where = (smooth_fields(dial, frames, 1, min(frames.shape[-2:]) / 8) + 0.5).clamp(0, 1)
    return frames + dial(7, 12, 20, 34, 55) * field * where


@injected("spatial")
def scratches(frames: Tensor, dial: Dial) -> Tensor:
    """Thin bright and dark upright lines, elsewhere in every frame, as on worn film."""
    count, width = int(dial(1, 2, 4, 7, 12)), frames.shape[-1]
    places = torch.from_numpy(dial.rng.random((len(frames), 12, 4)))[:, :count].to(frames.device)
    height = frames.shape[-2]
    ys = torch.arange(height, device=frames.device)[:, None]
    result = frames.clone()
    for frame, lines in zip(result, places, strict=True):
        for across, top, length, light in lines.tolist():
            column = int(across * width)
            here = ((ys >= top * height - 4) & (ys < top * height + 4 + length * height / 2))[:, 0]
            frame[:, here, column] = 235 if light < 0.6 else 20
    return result


@injected("spatial")
def lost_tiles(frames: Tensor, dial: Dial) -> Tensor:
    """Small squares hold noise in place of the picture, others in every frame, as after lost packets."""
    tile = max(2, round(4 * pixels(frames)))
    rows, columns = (-(-n // tile) for n in frames.shape[-2:])
    drawn = torch.from_numpy(dial.rng.random((len(frames), 1, rows, columns), dtype="float32"))
    lost = (drawn < dial(0.008, 0.016, 0.03, 0.06, 0.12)).repeat_interleave(tile, 2).repeat_interleave(tile, 3)
    lost = lost[..., :frames.shape[-2], :frames.shape[-1]].to(frames.device)
    noise = torch.from_numpy(dial.rng.integers(0, 256, tuple(frames.shape), dtype=np.uint8)).to(frames.device)
    return torch.where(lost, noise, frames)


@injected("spatial")
def grain(frames: Tensor, dial: Dial) -> Tensor:
    """Grey grain as on film, coarser than a pixel, strongest in middle tones."""
    fields = smooth_fields(dial, frames, len(frames), 0.6 * pixels(frames))
    grey = luma(frames) / 255
    return frames + dial(5, 9, 15, 25, 42) * fields * (0.3 + 2.8 * grey * (1 - grey))


@injected("spatial")
def speckle(frames: Tensor, dial: Dial) -> Tensor:
    """Single pixels turn black or white, others in every frame."""
    drawn = torch.from_numpy(dial.rng.random((len(frames), 1, *frames.shape[-2:]), dtype="float32")).to(frames.device)
    share = dial(0.003, 0.008, 0.02, 0.05, 0.12)
    return frames.masked_fill(drawn < share / 2, 0).masked_fill(drawn > 1 - share / 2, 255)


# Movement and joints


@injected("temporal")
def twisting_joint(frames: Tensor, dial: Dial) -> Tensor:
    """What stands out most turns to and fro by a random angle in every frame, as a joint that gives way."""
    radius = 0.2 * min(frames.shape[-2:])
    (top, left), = salient_spots(frames[len(frames) // 2], radius)
    angles = dial(0.15, 0.25, 0.4, 0.65, 1.0) * random_walkers(dial, len(frames)).to(frames.device)[:, :, None]
    ys, xs = (torch.arange(n, device=frames.device) - at for n, at in zip(frames.shape[-2:], (top, left), strict=True))
    turn = angles * disc(frames, (top, left), radius)
    cos, sin = turn.cos() - 1, turn.sin()
    return warped(frames, cos * xs - sin * ys[:, None], sin * xs + cos * ys[:, None])


@injected("temporal")
def speed_jumps(frames: Tensor, dial: Dial) -> Tensor:
    """The clip hurries and halts: frames are taken at unsteady times, never backwards."""
    steps = torch.from_numpy(dial.rng.standard_normal(len(frames) - 1)).float()
    course = (dial(0.5, 0.8, 1.2, 1.8, 2.6) * steps).exp().cumsum(0)
    return frames[(torch.cat([course.new_zeros(1), course / course[-1]]) * (len(frames) - 1)).round().long()]


@injected("temporal")
def stutter(frames: Tensor, dial: Dial) -> Tensor:
    """Playback falls back by a few frames and goes on, again and again: a skipping disc."""
    falls = dial.rng.permutation(max(1, len(frames) - 2))[:int(dial(1, 2, 3, 4, 6))] + 2
    steps = torch.ones(len(frames), dtype=torch.long, device=frames.device)
    steps[torch.from_numpy(falls).clamp_max(len(frames) - 1)] = -2
    steps[0] = 0
    return frames[steps.cumsum(0).clamp_min(0)]


# Objects


@injected("temporal")
def pop_up(frames: Tensor, dial: Dial) -> Tensor:
    """From some frame on, a second copy of what stands out most lies elsewhere in the picture."""
    radius, start = _radius(dial, frames), _event(dial, frames)
    source, target = salient_spots(frames[start], radius, 2)
    return _from(frames, start, disc(frames, target, radius), shifted(frames[start:start + 1], source, target))


@injected("temporal")
def morph(frames: Tensor, dial: Dial) -> Tensor:
    """From some frame on, what stands out most is turned and squeezed: another thing."""
    radius, start = _radius(dial, frames), _event(dial, frames)
    spot, = salient_spots(frames[start], radius)
    ys, xs = (torch.arange(n, device=frames.device) - at for n, at in zip(frames.shape[-2:], spot, strict=True))
    ys = ys[:, None]
    other = warped(frames[start:], -0.9 * ys - xs, 1.8 * xs - ys)
    return _from(frames, start, disc(frames, spot, radius), other)


@injected("temporal")
def recolour(frames: Tensor, dial: Dial) -> Tensor:
    """From some frame on, what stands out most has its colours exchanged."""
    radius, start = 1.3 * _radius(dial, frames), _event(dial, frames)
    spot, = salient_spots(frames[start], radius)
    order = [(1, 2, 0), (2, 0, 1)][int(dial.rng.integers(2))]
    return _from(frames, start, disc(frames, spot, radius), 0.85 * frames[start:, order] + 20)


@injected("temporal")
def blink(frames: Tensor, dial: Dial) -> Tensor:
    """What stands out most is filled in from its surroundings for a few frames, then is there again."""
    radius, start = _radius(dial, frames), _event(dial, frames)
    spot, = salient_spots(frames[start], radius)
    mask, last = disc(frames, spot, radius), min(len(frames), start + 1 + int(dial.rng.integers(1, 4)))
    keep = 1 - mask
    hidden = frames[start:last].float()
    around = gaussian_blur(hidden * keep, radius / 2) / gaussian_blur(keep[None, None], radius / 2).clamp_min(1e-4)
    return torch.cat([_from(frames[:last], start, mask, around), frames[last:].float()])


@injected("temporal")
def swap(frames: Tensor, dial: Dial) -> Tensor:
    """From some frame on, the two things that stand out most have changed places."""
    radius, start = _radius(dial, frames), _event(dial, frames)
    one, two = salient_spots(frames[start], radius, 2)
    half = _from(frames, start, disc(frames, one, radius), shifted(frames[start:], two, one))
    return _from(half, start, disc(frames, two, radius), shifted(frames[start:], one, two))
