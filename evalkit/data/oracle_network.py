"""The oracle's eyes: convolutions over space and time of sixteen frames, one answer per factor of the world."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES = 16
WIDTHS = (32, 56, 88, 128)
HIDDEN = 256
THINGS = 3  # the subject and what stands on either side of its way


class TimeConv(nn.Module):
    """Every pixel with the same one of the frames before and after, as one matrix product; (B * T, C, H, W) both ways.

    stride 2 keeps every second frame.
    """

    def __init__(self, channels: int, frames: int, stride: int = 1) -> None:
        super().__init__()
        self.frames, self.stride = frames, stride
        self.mix = nn.Conv2d(3 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, self.frames))
        nothing = torch.zeros_like(clips[:, :1])
        before = torch.cat([nothing, clips[:, :-1]], dim=1)
        after = torch.cat([clips[:, 1:], nothing], dim=1)
        seen = torch.cat([before, clips, after], dim=2)[:, ::self.stride]
        return self.mix(seen.flatten(0, 1).contiguous(memory_format=torch.channels_last))


class Block(nn.Module):
    """Twice space then time, around a shortcut; `shrink` halves space, `skip` time, in the first."""

    def __init__(self, before: int, after: int, frames: int, shrink: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.frames, self.skip = frames, skip
        left = frames // 2 if skip else frames
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, 3, 2 if shrink else 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            TimeConv(after, frames, 2 if skip else 1), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            TimeConv(after, left), nn.BatchNorm2d(after))
        same = before == after and not shrink
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, 2 if shrink else 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        short = x.unflatten(0, (-1, self.frames))[:, ::2].flatten(0, 1) if self.skip else x
        return F.relu(self.layers(x) + self.shortcut(short))


class OracleNetwork(nn.Module):
    """(B, 16, 3, 64, 64) in [0, 1] -> logits: what is asked -> (B, answers), by `sizes`.

    It first finds the subject and up to two others in every frame, on a grid of 16 x 16 ("where", (B, 16, 3, 256)
    logits), and looks there. Shape and colour of each ("shapes" (B, 3, S), "colours" (B, 3, C)) are read by one and
    the same head from what is seen there alone, so that no combination of them is new to it; the places over time are
    the paths.
    """

    def __init__(self, sizes: dict[str, int], shapes: int, colours: int) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(9, a, 5, 2, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(),
                                  nn.Conv2d(a, a, 3, 1, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU(),
                                  nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        self.early = nn.Sequential(Block(b, b, 16), Block(b, b, 16))
        self.find, self.look = nn.Conv2d(b, THINGS, 1), nn.Conv2d(b, b, 1)
        self.late = nn.Sequential(Block(b, c, 16, shrink=True, skip=True), Block(c, c, 8),
                                  Block(c, d, 8, shrink=True, skip=True), Block(d, d, 4))
        self.mix = nn.Conv2d(d, 16, 1)  # read at the full 4 x 4 x 4 grid: where and when something is says what it is
        self.kinds = (shapes, colours)
        self.name = nn.Sequential(nn.Linear(2 * b, 96), nn.ReLU(), nn.Linear(96, shapes + colours))
        self.hidden = nn.Sequential(nn.Linear(2 * d + 16 * 64 + THINGS * (2 * b + 2 * FRAMES), HIDDEN), nn.ReLU(),
                                    nn.Dropout(0.1))
        self.sizes = dict(sizes)
        self.heads = nn.Linear(HIDDEN, sum(sizes.values()))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        x = (frames - 0.5) * 4
        seen = torch.cat([torch.cat([x[:, :1], x[:, :-1]], 1), x, torch.cat([x[:, 1:], x[:, -1:]], 1)], dim=2)
        early = self.early(self.stem(seen.flatten(0, 1).contiguous(memory_format=torch.channels_last)))
        where = self.find(early).flatten(2)  # (B * 16, 3, 256)
        there = where.float().softmax(dim=-1)
        views = torch.einsum("nkp,ncp->nkc", there.to(early.dtype), self.look(early).flatten(2))
        views = views.unflatten(0, (-1, FRAMES))
        things = torch.cat([views.mean(1), views.amax(1)], dim=-1)
        cells = torch.linspace(-1, 1, 16, device=x.device)
        chance = there.unflatten(2, (16, 16))
        paths = torch.stack([chance.sum(2) @ cells, chance.sum(3) @ cells], dim=-1).unflatten(0, (-1, FRAMES))
        maps = self.late(early)
        grid = maps.unflatten(0, (len(frames), 4))
        pooled = [grid.mean((1, 3, 4)), grid.amax((1, 3, 4)), self.mix(maps).unflatten(0, (len(frames), 4)).flatten(1),
                  things.flatten(1), paths.to(maps.dtype).flatten(1)]
        answers = self.heads(self.hidden(torch.cat(pooled, dim=1))).split(list(self.sizes.values()), dim=1)
        shapes, colours = self.name(things).split(self.kinds, dim=-1)
        return dict(zip(self.sizes, answers, strict=True)) | {
            "shapes": shapes, "colours": colours, "where": where.unflatten(0, (-1, FRAMES))}
