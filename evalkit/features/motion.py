"""Motion between consecutive frames, weight-free: the camera's similarity, local flow, what they leave over."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.devices import at_once
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.shots import hard_cuts, shrink
from evalkit.features.similarity import fit_similarity, similarity_flow, slopes, warp

SIZE = 64  # short side of the finest level; global motion is solved there, local flow one level above
LEVELS = 3
CHUNK = {"cpu": 48, "cuda": 1024}  # pairs at a time
REACH = 3  # pixels of the coarsest level searched exhaustively: 19 % of the short side
OUTLIER = 0.25  # luma difference beyond which a pixel counts no more when shifts are compared
SHIFT_GAIN = 0.02  # luma difference that a local shift has to save before it is believed
SHADE = 9  # odd; pixels over which luma is averaged to be taken for shading
WINDOW = 5  # odd; pixels over which local flow is taken as constant
SLOPE_FLOOR = 0.01  # luma per pixel: ridge of the local flow, which is zero where there is nothing to follow
STEPS = 2  # iterations of the local flow before the one that carries the gradient
LUMA_NOISE = 0.008  # luma difference, averaged over a window, that need not be explained
BELIEVED = (0.2, 0.5)  # shares of the luma difference that local flow has to save to be believed a little, and fully
LARGEST_STEP = 0.75  # pixels per iteration of the local flow
FASTEST = (0.02, 0.07)  # ranks of speed, as shares of the picture, averaged; what is faster still is mostly error


@register_extractor("motion")
class Motion(Extractor):
    """(B, T, 3, H, W) frames to motion from frame t to t+1, lengths in fractions of the short side, angles in radians.

    transform (B, T-1, 4): tx, ty, log_scale, angle of the global similarity about the image centre, y downwards; a
    foreground that covers less than about half of the picture does not disturb it.
    exposure (B, T-1, 2): gain and offset of the luma, fitted along: luma_t+1 - mean_t = (1 + gain)(luma_t - mean_t) +
    offset. They are removed before anything below is measured, so that flicker is not motion.
    displacement (B, T-1): mean length of the fastest 5 % of the total (global and local) flow, but for the topmost
    2 % of the picture, where things get covered and the flow is wrong.
    residual (B, T-1): mean absolute luma difference that global and local motion leave; residual_peak (B, T-1): the
    same over the worst block of an eighth of the short side.
    thumbs (B, T, 3, h, w): the frames at a short side of 64, unless smaller.
    cut (B, T-1): 1.0 where frame t+1 begins another shot; the other numbers mean nothing there. No gradient.
    """

    key = "motion"
    version = 2
    level = "sequence"

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        if frames.shape[1] < 2:
            raise ValueError(f"motion: expected at least 2 frames, got {frames.shape[1]}")
        thumbs = shrink(frames.float(), SIZE)
        chunk = at_once(CHUNK, frames.device)
        pairs = zip(*(level.split(chunk) for side in _pyramids(thumbs) for level in side), strict=True)
        found = [_measure(levels[: len(levels) // 2], levels[len(levels) // 2:]) for levels in pairs]
        shape = (frames.shape[0], frames.shape[1] - 1)
        by_clip = {key: torch.cat([one[key] for one in found]).unflatten(0, shape) for key in found[0]}
        return by_clip | {"thumbs": thumbs, "cut": hard_cuts(thumbs)}


def _measure(first: Sequence[Tensor], second: Sequence[Tensor]) -> dict[str, Tensor]:
    """Everything about N pairs, given as luma pyramids of (N, h, w)."""
    costs = _shift_costs(first[0], second[0])
    transform, exposure = fit_similarity(first, second, _best_shift(costs.mean((1, 2)), first[0]))
    flow = _local_flow(first, second, transform, exposure, costs)
    moved, inside = warp(second[-2:][0], flow)
    left = (moved - _expose(first[-2:][0], exposure)).abs() * inside
    block = max(1, min(left.shape[-2:]) // 8)
    return {
        "transform": transform,
        "exposure": exposure,
        "displacement": _fastest(flow),
        "residual": left.mean((1, 2)),
        "residual_peak": F.avg_pool2d(left[:, None], block).flatten(1).amax(1),
    }


def _pyramids(thumbs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Luma of the earlier and of the later frame of every pair, coarse to fine, each (B*(T-1), h, w)."""
    luma = (thumbs.new_tensor([0.299, 0.587, 0.114]) @ thumbs.flatten(3)).unflatten(-1, thumbs.shape[-2:])
    levels = [luma]
    while len(levels) < LEVELS and min(levels[0].shape[-2:]) >= 16:
        levels.insert(0, _half(levels[0]))
    return [level[:, :-1].flatten(0, 1) for level in levels], [level[:, 1:].flatten(0, 1) for level in levels]


def _half(maps: Tensor) -> Tensor:
    """(..., h, w) averaged over blocks of two by two pixels; an odd row or column at the end is left out."""
    height, width = (side // 2 * 2 for side in maps.shape[-2:])
    rows = maps[..., 0:height:2, :width] + maps[..., 1:height:2, :width]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


@torch.no_grad()
def _shift_costs(first: Tensor, second: Tensor) -> Tensor:
    """(shifts, H, W, N): how much luma differs under every whole-pixel shift, the change of the mean taken out.

    The pairs come last, so that the loops over them are long.
    """
    height, width = first.shape[-2:]
    brighter = second.mean((1, 2), keepdim=True) - first.mean((1, 2), keepdim=True)
    padded = F.pad((second - brighter)[:, None], [REACH] * 4, mode="replicate")[:, 0].permute(1, 2, 0).contiguous()
    moved = padded.unfold(0, height, 1).unfold(1, width, 1).permute(0, 1, 3, 4, 2)
    costs = moved.clone(memory_format=torch.contiguous_format).sub_(first.permute(1, 2, 0).contiguous())
    return costs.abs_().clamp_max_(OUTLIER).flatten(0, 1)


def _shifts(like: Tensor) -> Tensor:
    """(shifts, 2) x and y of the searched shifts, in fractions of the short side."""
    steps = torch.arange(-REACH, REACH + 1, device=like.device, dtype=like.dtype) / min(like.shape[-2:])
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _best_shift(cost: Tensor, like: Tensor) -> Tensor:
    """(N, 2) shift of least cost (shifts, N); a shorter one where that is nothing worse."""
    shifts = _shifts(like)
    return shifts[(cost + 1e-3 * shifts.norm(dim=1, keepdim=True)).min(dim=0).indices]


def _local_flow(first: Sequence[Tensor], second: Sequence[Tensor], transform: Tensor, exposure: Tensor,
                costs: Tensor) -> Tensor:
    """Total flow (N, 2, h, w) on the level below the finest."""
    a, b = _detail(_expose(first[-2:][0], exposure)), _detail(second[-2:][0])
    size, surface = a.shape[-2:], _Surface(a)
    glide = similarity_flow(transform, *size)
    with torch.no_grad():
        jump = _local_jump(first[0], second[0], transform, exposure, costs)
        flow = glide + F.interpolate(jump, size=size, mode="bilinear", align_corners=False)
        for _ in range(STEPS):
            flow = surface.step(b, flow)
    return _believe(a, b, glide, surface.step(b, flow - glide.detach() + glide))


def _believe(first: Tensor, second: Tensor, glide: Tensor, flow: Tensor) -> Tensor:
    """`flow` where it explains the pair better than the global motion `glide`, which it blends into elsewhere."""
    (by_glide, seen), (by_flow, still_seen) = warp(second, glide), warp(second, flow)
    plain, fine = (by_glide - first).abs() * seen, (by_flow - first).abs() * still_seen
    before, after = _smooth(torch.stack([plain, fine], dim=1), WINDOW).unbind(1)
    saved = (before - after) / (before + LUMA_NOISE)
    trust = ((saved - BELIEVED[0]) / (BELIEVED[1] - BELIEVED[0])).clamp(0, 1) * seen * still_seen
    return glide + trust[:, None] * (flow - glide)


def _expose(luma: Tensor, exposure: Tensor) -> Tensor:
    """The earlier frame (N, H, W) under the later one's gain and offset."""
    mean = luma.mean((1, 2), keepdim=True)
    gain, offset = (part[:, None, None] for part in exposure.unbind(-1))
    return (1 + gain) * (luma - mean) + mean + offset


def _local_jump(first: Tensor, second: Tensor, transform: Tensor, exposure: Tensor, costs: Tensor) -> Tensor:
    """(N, 2, h, w) on the coarsest level: by how much things jump beside the global motion, else zero."""
    height, width = first.shape[-2:]
    glide = similarity_flow(transform, height, width)
    moved, inside = warp(second, glide)
    stay = _smooth((moved - _expose(first, exposure)).abs().clamp_max(OUTLIER) * inside, 3)
    around = _mean_of_three(_mean_of_three(costs, dim=1), dim=2)
    best = around.amin(dim=0)
    rank = torch.arange(len(around), 0, -1, device=best.device, dtype=best.dtype).view(-1, 1, 1, 1)
    where = len(around) - ((around == best) * rank).amax(dim=0)  # the first of the least: faster than min's indices
    target = _shifts(first)[where.long()]
    jump = target.permute(2, 3, 0, 1) - glide
    return jump * (best.permute(2, 0, 1) + SHIFT_GAIN < stay)[:, None]


def _mean_of_three(values: Tensor, dim: int) -> Tensor:
    """Average with both neighbours along `dim`, with one at either end. No gradient."""
    size = values.shape[dim]
    total = values.clone()
    total.narrow(dim, 1, size - 1).add_(values.narrow(dim, 0, size - 1))
    total.narrow(dim, 0, size - 1).add_(values.narrow(dim, 1, size - 1))
    ends = (torch.arange(size, device=values.device) % max(1, size - 1) == 0).to(values.dtype)
    return total.div_((3 - ends).view(-1, *[1] * (values.ndim - dim - 1)))


def _detail(luma: Tensor) -> Tensor:
    """(N, h, w) without what is smooth: shading and clipped highlights change under flicker, edges stay."""
    return luma - _smooth(luma, SHADE)


def _smooth(maps: Tensor, window: int) -> Tensor:
    """Box average of (..., h, w), borders narrowed; `window` is odd. Products with a band are faster than pooling."""
    rows, columns = (_box(side, window, maps) for side in maps.shape[-2:])
    return rows @ (maps @ columns.T)


def _box(side: int, window: int, like: Tensor) -> Tensor:
    """(side, side) matrix whose product averages `window` neighbours, fewer at either end."""
    at = torch.arange(side, device=like.device)
    band = ((at[:, None] - at).abs() <= window // 2).to(like.dtype)
    return band / band.sum(1, keepdim=True)


class _Surface:
    """The slopes of N images (N, h, w) and their products, averaged per window: what Lucas-Kanade knows beforehand."""

    def __init__(self, first: Tensor) -> None:
        self.first, self.short = first, min(first.shape[-2:])
        self.slopes = torch.stack(slopes(first), dim=1) / self.short  # luma per pixel
        dx, dy = self.slopes.unbind(1)
        xx, self.xy, yy = _smooth(torch.stack([dx * dx, dx * dy, dy * dy], dim=1), WINDOW).unbind(1)
        self.xx, self.yy = xx + SLOPE_FLOOR**2, yy + SLOPE_FLOOR**2
        self.scale = 1 / (self.short * (self.xx * self.yy - self.xy * self.xy))

    def step(self, second: Tensor, flow: Tensor) -> Tensor:
        """One iteration (N, 2, h, w), the flow constant per window."""
        moved, inside = warp(second, flow)
        xe, ye = _smooth(self.slopes * ((moved - self.first) * inside)[:, None], WINDOW).unbind(1)
        step = torch.stack([self.yy * xe - self.xy * ye, self.xx * ye - self.xy * xe], dim=1) * self.scale[:, None]
        return flow - step.clamp(-LARGEST_STEP / self.short, LARGEST_STEP / self.short)


def _fastest(flow: Tensor) -> Tensor:
    """(N,) mean length of the fastest part of the flow (N, 2, h, w)."""
    length = (flow.square().sum(1) + 1e-12).sqrt().flatten(1) - 1e-6
    skip, last = (round(share * length.shape[1]) for share in FASTEST)
    return length.topk(max(1, last), dim=1).values[:, min(skip, last - 1) if last else 0:].mean(1)
