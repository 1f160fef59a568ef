"""Weight-free statistics of looks and motion that the learned preference reads beside the embedded networks."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.frames import to_luma
from rewards.temporal_artifacts import STEP

FRAMES, SIDE = 16, 64  # of the clips that are read
CELL = 8  # pixels; side of the cells in which change is followed


def clip_statistics(frames: Tensor) -> Tensor:
    """(B, K) float32 from (B, 16, 3, 64, 64) in [0, 1]; differentiable, finite for black, still and clipped clips.

    Most are logarithms: a network then reads ratios of measurements as differences.
    """
    luma = to_luma(frames)  # (B, 16, 64, 64)
    red, _, blue = frames.float().unbind(2)
    chroma = torch.stack([blue - luma, red - luma], dim=2)
    per_frame = [_tones(frames.float(), luma, chroma), _detail(luma), _places(luma)]
    series = torch.cat(per_frame, dim=2)  # (B, 16, n): how every frame looks
    bends = series[:, 2:] - 2 * series[:, 1:-1] + series[:, :-2]
    pooled = [series.mean(1), _log(_spread(series)), _log(bends.abs().mean(1)), _log(bends.abs().amax(1))]
    return torch.cat([*pooled, _grids(luma), _edges(luma), _order(luma, chroma), _motion(luma), _fading(luma),
                      _spikes(luma)], dim=1)


def _log(x: Tensor, floor: float = 0.05 * STEP) -> Tensor:
    return (x + floor).log()


def _spread(x: Tensor) -> Tensor:
    return (x.var(1, correction=0) + 1e-10).sqrt()


def _tones(frames: Tensor, luma: Tensor, chroma: Tensor) -> Tensor:
    """Per frame: luma and chroma, their spread and quantiles, saturation, shares of pixels near black and white."""
    flat, colour = luma.flatten(2), chroma.flatten(3)
    high, low = frames.amax(2).flatten(2), frames.amin(2).flatten(2)
    some = slice(1, None, 5)  # every fifth pixel: sorting all would cost more than everything else together
    high, low = high[..., some], low[..., some]
    quantiles = flat[..., some].sort(dim=2).values[..., [8, 41, 205, 410, 614, 778, 811]]
    saturation = (high - low).sort(dim=2).values[..., [82, 410, 737, 811]]
    shares = [torch.sigmoid((high - at) * 100) for at in (0.97, 0.995)] + [torch.sigmoid((at - low) * 100)
                                                                        for at in (0.03, 0.005)]
    dark = torch.sigmoid((0.03 - high) * 100)
    single = [flat.mean(2), (flat.var(2) + 1e-8).sqrt(), (high - low).mean(2), dark.mean(2),
              *(share.mean(2) for share in shares)]
    return torch.cat([torch.stack(single, 2), quantiles, saturation, _log(saturation[..., 2:]), colour.mean(3),
                      (colour.var(3) + 1e-8).sqrt()], dim=2)


def _detail(luma: Tensor) -> Tensor:
    """Per frame: slopes and curvatures at three scales, their tails, the smoothest tiles, shares of flat pixels."""
    found, level = [], luma.flatten(0, 1)[:, None]
    for scale in range(3):
        across, down = level.diff(dim=3)[:, 0], level.diff(dim=2)[:, 0]
        bend = (level[..., 1:-1, 1:-1] * 4 - level[..., :-2, 1:-1] - level[..., 2:, 1:-1] - level[..., 1:-1, :-2]
                - level[..., 1:-1, 2:]).abs()
        found += [_log(part.abs().mean((1, 2))) for part in (across, down)] + [_log(bend.mean((1, 2, 3)))]
        found += [_log(part.square().mean((1, 2)), 1e-6) for part in (across, down)]
        found.append(_log(bend.square().mean((1, 2, 3)), 1e-6))
        if scale == 0:
            noise = level.diff(dim=2).diff(dim=2).diff(dim=3).diff(dim=3)
            tiles = F.avg_pool2d(noise.abs() / 6, 6).flatten(1).sort(1).values
            found += [_log(tiles[:, k]) for k in (3, 10, 30, 60, 90)]
            steps = torch.cat([across.abs().flatten(1), down.abs().flatten(1)], 1)[:, ::9]
            found += [torch.exp(-(steps / (width * STEP)).square()).mean(1) for width in (0.5, 1.5, 4)]
            order = steps.sort(1).values
            found += [_log(order[:, int(share * order.shape[1])]) for share in (0.3, 0.5, 0.7, 0.9, 0.97, 0.995)]
            found.append(_log(F.relu(-across[:, :, 1:] * across[:, :, :-1]).mean((1, 2)),
                              1e-6))  # slopes that turn at once: halos, noise
        level = F.avg_pool2d(level, 2)
    return torch.stack(found, 1).unflatten(0, luma.shape[:2])


def _places(luma: Tensor) -> Tensor:
    """Per frame: luma and slope of strips along the four edges, and of bands from top to bottom: borders, writing."""
    slope = F.pad(luma.diff(dim=3).abs(), (0, 1))
    strips = []
    for picture in (luma, slope):
        bands = picture.unflatten(2, (16, 4)).mean((3, 4))[:, :, 6:]
        rims = [torch.stack([picture[..., k, :].mean(2), picture[..., -1 - k, :].mean(2), picture[..., k].mean(2),
                             picture[..., -1 - k].mean(2)], 2) for k in (0, 1, 2, 4, 7, 12)]
        strips.append(torch.cat([bands, *(rim.amax(2, keepdim=True) for rim in rims)], 2))
    return torch.cat([strips[0], _log(strips[1])], 2)


def _grids(luma: Tensor) -> Tensor:
    """Periods of the mean slope across columns and rows: block codecs and grids leave lines."""
    found = []
    for dim, other in ((3, 2), (2, 3)):
        profile = luma.diff(dim=dim).abs().mean((1, other))  # (B, 63)
        profile = _log(profile) - _log(profile).mean(1, keepdim=True)
        waves = torch.fft.rfft(F.pad(profile, (0, 1)), dim=1).abs()[:, 1:] / 8
        found += [_log(waves, 0.02), profile.unflatten(1, (9, 7)).amax(2)[:, ::2]]
        columns = luma.mean((1, other))
        comb = torch.stack([columns[:, k::8].mean(1) for k in range(8)], 1)
        around = (comb.roll(1, 1) + comb.roll(-1, 1)) / 2
        found += [_log((around - comb).amax(1, keepdim=True).clamp_min(0)), profile[:, 7::8].mean(1, keepdim=True)]
    return torch.cat(found, 1)


def _edges(luma: Tensor) -> Tensor:
    """How soft the sharpest edges are: the largest slopes of a clip over its largest steps within 2, 4 and 8 pixels."""
    found, some = [], luma[:, ::5]
    for dim in (2, 3):
        for reach in (1, 2, 4, 8):
            step = (some.narrow(dim, reach, SIDE - reach) - some.narrow(dim, 0, SIDE - reach)).abs().flatten(1)
            found.append(_log(step.topk(step.shape[1] // 100, dim=1).values.mean(1)))
    return torch.stack(found, 1)


def _order(luma: Tensor, chroma: Tensor) -> Tensor:
    """How unlike any two frames are, after their mean luma is taken off: order, pace, stills, repeats; and colours."""
    rows = (luma - luma.mean((2, 3), keepdim=True)).flatten(2)
    first, second = torch.triu_indices(FRAMES, FRAMES, 1, device=luma.device)
    apart = _log((rows[:, first] - rows[:, second]).abs().mean(2))
    near = [apart[:, second - first == lag] for lag in (1, 2, 3)]
    steps = [near[0].sort(1).values, near[1].mean(1, keepdim=True) - near[0].mean(1, keepdim=True),
             near[2].mean(1, keepdim=True) - near[0].mean(1, keepdim=True), near[0].diff(dim=1).abs().mean(1, True)]
    # a frame between its neighbours is nearer to both than they are to each other; one out of order is not
    turned = torch.cat([near[1] - near[0][:, 1:], near[1] - near[0][:, :-1]], 1)
    return torch.cat([apart, *steps, turned.sort(1).values], 1)


def _motion(luma: Tensor) -> Tensor:
    """Shift from frame to frame of the whole, of its quarters and of its middle (least squares), and its jerks."""
    found = []
    for scale in (1, 2):
        level = F.avg_pool2d(luma, scale) if scale > 1 else luma
        mean = (level[:, 1:] + level[:, :-1]) / 2
        across = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2
        down = (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
        change = level.diff(dim=1)[..., 1:-1, 1:-1]
        change = change - change.mean((2, 3), keepdim=True)
        shift = torch.stack(_shifts(across, down, change), 2)
        jerks = shift.diff(dim=1)
        found += [shift.flatten(1), _log(jerks.abs().mean(1)), _log(jerks.diff(dim=1).abs().mean(1)),
                  _log(jerks.abs().amax(1)), (jerks[:, 1:] * jerks[:, :-1]).mean(1).clamp(-4, 4)]
        left = change + shift[..., 0, None, None] * across + shift[..., 1, None, None] * down
        found.append(_log(left.abs().mean((2, 3))) - _log(change.abs().mean((2, 3))))
        if scale == 2:
            for rows in (slice(0, 16), slice(15, 31), slice(8, 24)):
                parts = [part[..., rows, columns] for columns in (slice(0, 16), slice(15, 31))
                         for part in (across, down, change)]
                for k in (0, 3):
                    local = torch.stack(_shifts(*parts[k:k + 3]), 2)
                    found += [local.mean(1), _log(local.diff(dim=1).abs().mean(1))]
    return torch.cat(found, 1)


def _shifts(across: Tensor, down: Tensor, change: Tensor) -> list[Tensor]:
    """(B, 15) pixels in x and in y: the Lucas-Kanade step with a ridge, softly bounded at 4 pixels."""
    xx, xy, yy = ((one * two).mean((2, 3)) for one, two in ((across, across), (across, down), (down, down)))
    xt, yt = (-(one * change).mean((2, 3)) for one in (across, down))
    xx, yy = xx + 2e-6, yy + 2e-6
    area = xx * yy - xy.square() + 1e-12
    return [4 * torch.tanh(part / area / 4) for part in (yy * xt - xy * yt, xx * yt - xy * xt)]


def _fading(luma: Tensor) -> Tensor:
    """Per triple of frames: share of change that is linear in time, and the bend over the change, at two lags."""
    found = []
    for lag in (1, 2):
        before, middle, after = luma[:, :-2 * lag], luma[:, lag:-lag], luma[:, 2 * lag:]
        change, bend = 0.5 * (after - before).abs(), after - 2 * middle + before
        linear = torch.exp(-(bend / (0.25 * change + 0.5 * STEP)).square())
        share = (change * linear).mean((2, 3)) / (change.mean((2, 3)) + 0.5 * STEP)
        ratio = _log(bend.abs().mean((2, 3))) - _log(change.mean((2, 3)))
        found += [share, ratio, share.mean(1, True), ratio.mean(1, True), share.amax(1, True), ratio.amax(1, True)]
    # an echo of the frame before: change correlates with the change before it
    step = luma.diff(dim=1)
    energy = step.square().mean((2, 3))
    for lag in (1, 2):
        both = (step[:, lag:] * step[:, :-lag]).mean((2, 3))
        found.append(both / ((energy[:, lag:] * energy[:, :-lag]) + 1e-10).sqrt())
    return torch.cat(found, 1)


def _spikes(luma: Tensor) -> Tensor:
    """Per pair of frames: how far the most changed cell stands out from its own change before and after."""
    cells = F.avg_pool2d(luma.diff(dim=1).abs(), CELL).flatten(2)  # (B, 15, 64)
    spike = F.relu(cells[:, 1:-1] - torch.maximum(cells[:, :-2], cells[:, 2:]))
    spike = F.relu(spike - spike.median(2, keepdim=True).values)
    detail = F.avg_pool2d((luma - F.avg_pool2d(luma, 5, 1, 2)).abs(), CELL).flatten(2)  # (B, 16, 64)
    gone = F.relu(detail[:, :-1] - detail[:, 1:]).amax(2)
    halves = [part.mean(1).sort(1).values[:, [0, 8, 32, 56, 63]] for part in (detail[:, :8], detail[:, 8:])]
    peak = spike.pow(4).mean(2).add(1e-14).pow(0.25)
    return torch.cat([_log(spike.amax(2)), _log(peak.amax(1, True)), _log(gone), *map(_log, halves),
                      _log(cells.amax(2).sort(1).values)], 1)
