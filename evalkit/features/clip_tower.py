"""The eyes of the mini CLIP: they find up to three things in every frame, look at each, and read all over time."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES, SIDE = 16, 64
THINGS = 3  # the subject and what stands on either side of its way
GRID = 16  # cells a side in which things are found
LOOK = 64  # numbers seen of each thing


class Seen(NamedTuple):
    """embedding (B, D); where (B, T, 3, 256) logits of cells; things (B, 3, 128), what each looks like."""

    embedding: Tensor
    where: Tensor
    things: Tensor


class ShiftBlock(nn.Module):
    """(B * T, C, H, W): two convolutions of space around a shortcut; time is mixed by moving channels (TSM, Lin 2019).

    A quarter of the channels comes from the frame before, a quarter from the frame after. `shrink` halves space,
    `skip` keeps every second frame.
    """

    def __init__(self, before: int, after: int, frames: int, shrink: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.frames, self.skip = frames, skip
        stride = 2 if shrink else 1
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.GELU())
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        same = before == after and not shrink
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shifted = shift_in_time(x, self.frames)
        if self.skip:
            shifted, x = (every_second(part, self.frames) for part in (shifted, x))
        frames = self.frames // 2 if self.skip else self.frames
        return F.gelu(self.second(shift_in_time(self.first(shifted), frames)) + self.shortcut(x))


def shift_in_time(x: Tensor, frames: int) -> Tensor:
    """(B * T, C, H, W), a quarter of C taken from the frame before, a quarter from the one after; 0 beyond the ends."""
    clips = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))  # channels innermost, as the convolutions want them
    part = clips.shape[-1] // 4
    earlier = F.pad(clips[:, :-1, ..., :part], (0, 0, 0, 0, 0, 0, 1, 0))
    later = F.pad(clips[:, 1:, ..., part:2 * part], (0, 0, 0, 0, 0, 0, 0, 1))
    return torch.cat([earlier, later, clips[..., 2 * part:]], dim=-1).flatten(0, 1).permute(0, 3, 1, 2)


def every_second(x: Tensor, frames: int) -> Tensor:
    return x.unflatten(0, (-1, frames))[:, ::2].flatten(0, 1)


class ClipTower(nn.Module):
    """(B, 16, 3, 64, 64) in [0, 1] -> (B, embedding); `look` also tells where it looked, for its training."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(9, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.GELU(),
                                  nn.Conv2d(32, LOOK, 3, 2, 1, bias=False), nn.BatchNorm2d(LOOK), nn.GELU())
        self.early = nn.Sequential(*(ShiftBlock(LOOK, LOOK, FRAMES) for _ in range(3)))
        self.find, self.view = nn.Conv2d(LOOK, THINGS, 1), nn.Conv2d(LOOK, LOOK, 1)
        self.late = nn.Sequential(ShiftBlock(LOOK, 96, 16, shrink=True, skip=True), ShiftBlock(96, 96, 8),
                                  ShiftBlock(96, 128, 8, shrink=True, skip=True), ShiftBlock(128, 128, 4))
        self.mix = nn.Conv2d(128, 8, 1)  # read at every place and time: a camera's way is a pattern of them
        read = 2 * 128 + 8 * 64 + THINGS * (2 * LOOK + 2 * FRAMES)
        self.project = nn.Sequential(nn.Linear(read, 384), nn.GELU(), nn.Linear(384, embedding))

    def look(self, frames: Tensor) -> Seen:
        x = (frames - 0.5) * 4
        before, after = torch.cat([x[:, :1], x[:, :-1]], 1), torch.cat([x[:, 1:], x[:, -1:]], 1)
        seen = torch.cat([x, (x - before) * 2, (after - x) * 2], dim=2)
        early = self.early(self.stem(seen.flatten(0, 1).contiguous(memory_format=torch.channels_last)))
        where = self.find(early).flatten(2)  # (B * 16, 3, 256)
        there = where.float().softmax(dim=-1)
        views = torch.einsum("nkp,ncp->nkc", there.to(early.dtype), self.view(early).flatten(2))
        views = views.unflatten(0, (-1, FRAMES))
        things = torch.cat([views.mean(1), views.amax(1)], dim=-1)
        cells = torch.linspace(-1, 1, GRID, device=x.device)
        chance = there.unflatten(2, (GRID, GRID))
        paths = torch.stack([chance.sum(2) @ cells, chance.sum(3) @ cells], dim=-1).unflatten(0, (-1, FRAMES))
        late = self.late(early)
        clips = late.unflatten(0, (-1, 4))
        read = [clips.mean((1, 3, 4)), clips.amax((1, 3, 4)), self.mix(late).unflatten(0, (-1, 4)).flatten(1),
                things.flatten(1), paths.to(late.dtype).flatten(1)]
        return Seen(self.project(torch.cat(read, dim=1)), where.unflatten(0, (-1, FRAMES)), things)

    def forward(self, frames: Tensor) -> Tensor:
        return self.look(frames).embedding
