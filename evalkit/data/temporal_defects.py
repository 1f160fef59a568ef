"""Defects of time, in steadiness, order, motion and persistence, for `corruptions`."""
from __future__ import annotations

import torch
from torch import Tensor

from evalkit.data.corruptions import Dial, register_corruption
from evalkit.data.spatial_defects import LUMA, gaussian_blur, luma, pixels


def random_walkers(dial: Dial, num_frames: int, count: int = 1) -> Tensor:
    """(T, count) white normal sequences of mean 0 and standard deviation 1 over the clip."""
    values = torch.from_numpy(dial.rng.standard_normal((num_frames, count))).float()
    values = values - values.mean(0)
    return values / values.std(0, correction=0).clamp_min(1e-6)


def read(frames: Tensor, positions: Tensor) -> Tensor:
    """Frames at fractional `positions` (T,), neighbours mixed linearly."""
    positions = positions.to(frames.device).clamp(0, len(frames) - 1)
    before = positions.floor().long()
    after = (before + 1).clamp_max(len(frames) - 1)
    return torch.lerp(frames[before].float(), frames[after].float(), (positions - before).view(-1, 1, 1, 1))


def translate(frames: Tensor, offsets: Tensor, dim: int) -> Tensor:
    """Float frames, each moved by its own of `offsets` (T,) pixels along `dim`; cubic, edges replicated."""
    n = frames.shape[dim]
    whole = offsets.floor()
    f = (offsets - whole).view(-1, 1, 1, 1)
    weights = ((-f + 2 * f**2 - f**3) / 2, (2 - 5 * f**2 + 3 * f**3) / 2,
               (f + 4 * f**2 - 3 * f**3) / 2, (f**3 - f**2) / 2)
    start = torch.arange(n, device=frames.device) + whole.long()[:, None]
    shape = [len(frames), 1, 1, 1]
    shape[dim] = n
    result = torch.zeros_like(frames)
    for k, weight in enumerate(weights):
        index = (start + k - 1).clamp(0, n - 1).view(shape).expand(frames.shape)
        result.addcmul_(frames.gather(dim, index), weight)
    return result


@register_corruption("luma_flicker", "temporal")
def luma_flicker(frames: Tensor, dial: Dial) -> Tensor:
    """A random gain per frame; its standard deviation is 2 to 30 %."""
    gains = 1 + dial(0.02, 0.05, 0.1, 0.18, 0.3) * random_walkers(dial, len(frames))
    return frames * gains.view(-1, 1, 1, 1).to(frames.device)


@register_corruption("colour_flicker", "temporal")
def colour_flicker(frames: Tensor, dial: Dial) -> Tensor:
    """A random white balance per frame that keeps the luma of grey."""
    shifts = random_walkers(dial, len(frames), 3)
    shifts = shifts - (shifts @ torch.tensor(LUMA))[:, None]
    gains = 1 + dial(0.02, 0.05, 0.1, 0.18, 0.3) * shifts
    return frames * gains.view(-1, 3, 1, 1).to(frames.device)


@register_corruption("dropped_frames", "temporal")
def dropped_frames(frames: Tensor, dial: Dial) -> Tensor:
    """Frames are lost and the one before each is shown again: judder."""
    droppable = len(frames) - 1  # the first has none before it
    count = min(droppable, max(dial.severity, round(dial(0.08, 0.18, 0.3, 0.45, 0.65) * droppable)))
    index = torch.arange(len(frames))
    index[torch.from_numpy(dial.rng.permutation(droppable)[:count]) + 1] = 0
    return frames[index.cummax(0).values.to(frames.device)]


@register_corruption("shuffle", "temporal")
def shuffle(frames: Tensor, dial: Dial) -> Tensor:
    """Frames out of order: within a few neighbours at first, anywhere at last."""
    delay = torch.from_numpy(dial.rng.permutation(len(frames))).double() / len(frames)
    if not bool((delay.diff() < 0).any()):
        delay = -delay  # this draw would leave the order as it is
    least = 1.01 / -delay.diff().min()  # the reach that swaps at least one pair
    reach = max(dial(2.5, 5, 10, 25, 1e6), least.item())
    return frames[(torch.arange(len(frames)) + reach * delay).argsort(stable=True).to(frames.device)]


@register_corruption("freeze", "temporal")
def freeze(frames: Tensor, dial: Dial) -> Tensor:
    """The clip stops and holds its frame to the end; the held share grows."""
    last = max(0, min(len(frames) - 2, round(len(frames) * (1 - dial(0.2, 0.4, 0.6, 0.8, 0.95)))))
    return frames[torch.arange(len(frames), device=frames.device).clamp_max(last)]


@register_corruption("static", "temporal")
def static(frames: Tensor, dial: Dial) -> Tensor:
    """Motion dies: the clip plays ever less of itself, with repeated frames, and is a still at last."""
    speed = dial(0.5, 0.25, 0.12, 0.05, 0.0)
    return frames[(torch.arange(len(frames), device=frames.device) * speed).long()]


@register_corruption("repeat", "temporal")
def repeat(frames: Tensor, dial: Dial) -> Tensor:
    """Every frame is held for 2 to 16 frame times: a low frame rate."""
    index = torch.arange(len(frames), device=frames.device)
    return frames[index - index % int(dial(2, 3, 4, 8, 16))]


@register_corruption("slow_motion", "temporal")
def slow_motion(frames: Tensor, dial: Dial) -> Tensor:
    """Slower from the first frame on, in-between frames mixed."""
    return read(frames, torch.arange(len(frames)) * dial(0.8, 0.6, 0.4, 0.25, 0.12))


@register_corruption("crossfade", "temporal")
def crossfade(frames: Tensor, dial: Dial) -> Tensor:
    """Motion is replaced by dissolves between ever fewer frames of the clip."""
    step = int(dial(2, 4, 8, 16, 32))
    index = torch.arange(len(frames), device=frames.device)
    before = index - index % step
    after = (before + step).clamp_max(len(frames) - 1)
    share = ((index - before) / (after - before).clamp_min(1)).view(-1, 1, 1, 1)
    return torch.lerp(frames[before].float(), frames[after].float(), share)


@register_corruption("temporal_blur", "temporal")
def temporal_blur(frames: Tensor, dial: Dial) -> Tensor:
    """Each frame is the mean of a window around it: everything that moves smears."""
    half = min(dial.frames(dial(0.04, 0.08, 0.16, 0.28, 0.48)), len(frames) - 1)
    index = torch.arange(-half, len(frames) + half, device=frames.device).clamp(0, len(frames) - 1)
    sums = frames[index].cumsum(0, dtype=torch.int32)
    sums[2 * half + 1:] -= sums[: len(frames) - 1].clone()
    return sums[2 * half:] / (2 * half + 1)


@register_corruption("ghosting", "temporal")
def ghosting(frames: Tensor, dial: Dial) -> Tensor:
    """A translucent copy of the picture an eighth of a second ago."""
    lag = max(1, round(dial.fps / 8))
    past = torch.arange(len(frames), device=frames.device).sub(lag).clamp_min(0)
    return torch.lerp(frames.float(), frames[past].float(), dial(0.1, 0.2, 0.3, 0.4, 0.5))


@register_corruption("reverse", "temporal")
def reverse(frames: Tensor, dial: Dial) -> Tensor:
    """The clip's fifths run backwards, each in its place; the severity counts them.

    Not the whole clip at once: many scenes look as likely that way round, and there is no seam to see.
    """
    parts = list(torch.arange(len(frames), device=frames.device).tensor_split(5))
    for chosen in dial.rng.permutation(5)[: dial.severity]:
        parts[chosen] = parts[chosen].flip(0)
    return frames[torch.cat(parts)]


@register_corruption("camera_jitter", "temporal")
def camera_jitter(frames: Tensor, dial: Dial) -> Tensor:
    """The whole picture trembles by a random subpixel shift per frame; edges are replicated."""
    reach = dial(0.2, 0.45, 1.0, 2.0, 4.0) * pixels(frames)
    shifts = (reach * random_walkers(dial, len(frames), 2)).to(frames.device)
    return translate(translate(frames.float(), shifts[:, 0], 2), shifts[:, 1], 3)


@register_corruption("vanish", "temporal")
def vanish(frames: Tensor, dial: Dial) -> Tensor:
    """From mid-clip on, the most detailed central spot is filled in from its surroundings."""
    height, width = frames.shape[-2:]
    short, start = min(height, width), len(frames) // 2
    grey = luma(frames[start:start + 1])
    detail = gaussian_blur((grey - gaussian_blur(grey, pixels(frames))).abs(), short / 10)[0, 0]
    central = [torch.hann_window(n + 2, periodic=False, device=grey.device)[1:-1] for n in (height, width)]
    detail *= torch.outer(*central)
    spot = int(detail.argmax())
    ys = torch.arange(height, device=frames.device) - spot // width
    xs = torch.arange(width, device=frames.device) - spot % width
    radius = dial(0.06, 0.1, 0.15, 0.2, 0.26) * short
    distance = (ys[:, None] ** 2 + xs**2).sqrt()
    keep = (3 * (distance / radius - 1)).clamp(0, 1)[None, None]  # soft edge
    later = frames[start:].float()
    around = gaussian_blur(later * keep, radius / 2) / gaussian_blur(keep, radius / 2).clamp_min(1e-4)
    return torch.cat([frames[:start].float(), torch.lerp(around, later, keep)])
