"""What gives the dialled defects away in clips of the made-up world, measured: a few hundred numbers per clip.

Each group below looks for what a few defects leave behind: linear relations between frames, levels that a rescaled
histogram cannot reach, gains that jump, edges too soft or too hard, patterns at fixed places.
"""
from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.data.corruptions import CORRUPTIONS, SEVERITIES, Dial
from evalkit.data.rendering import FADED, GAINS
from evalkit.data.scene import COLOURS, FPS, NUM_FRAMES, SIZE
from evalkit.data.spatial_defects import LUMA, luma

SHAPE = (NUM_FRAMES, 3, SIZE, SIZE)
MIXERS = ("slow_motion", "crossfade", "temporal_blur", "repeat", "static", "freeze")  # frames mixed by fixed weights
EXPOSURES = (1.15, 1.35, 1.65, 2.1, 2.8, 0.8, 0.62, 0.46, 0.32, 0.2)
LEVELS = (32, 20, 13, 9, 6)  # of banding
HUES = 32  # cells per unit of relative chroma
BLOCK_STEPS = (2.0, 3.5, 6.0, 10.0, 18.0)


@torch.no_grad()
def defect_statistics(frames: Tensor) -> Tensor:
    """(B, K) statistics of (B, 16, 3, 64, 64) frames in [0, 1], each clip's from its own pixels alone.

    ValueError for another shape.
    """
    if frames.ndim != 5 or frames.shape[1:] != SHAPE:
        raise ValueError(f"defect statistics: expected (B, {', '.join(map(str, SHAPE))}), got {tuple(frames.shape)}")
    x = frames.float() * 255
    y = luma(x.flatten(0, 1)).reshape(*x.shape[:2], SIZE, SIZE)  # no matrix product: its rounding depends on the batch
    some_x, some_y = x[:, 1::4], y[:, 1::4]  # enough for what every frame shows alike
    return torch.cat([_order(x), _mixtures(x), _afterimages(y), _gains(x), _trembling(y), _levels(x), _palette(some_x),
                      _sharpness(some_y), _blocks(some_y), _overlays(x, y), _vanishing(y)], 1)


def _log(values: Tensor, least: float) -> Tensor:
    return (values + least).log()


def _spread(values: Tensor, least: float) -> Tensor:
    """(B, 4) logs of mean, median, third quartile and maximum of (B, n)."""
    ranks = values.sort(1).values
    n = values.shape[1]
    return _log(torch.stack([values.mean(1), ranks[:, n // 2], ranks[:, 3 * n // 4], ranks[:, -1]], 1), least)


def _order(x: Tensor) -> Tensor:
    """Distances between frames, and how far each step is longer than the nearest pair across it: a seam."""
    small = F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2]).flatten(2)
    distances = _log(torch.cdist(small, small, p=1) / small.shape[2], 0.02)
    lags = [distances.diagonal(lag, 1, 2) for lag in (1, 2, 3, 4)]
    seams = [lags[0][:, t] - distances[:, :t + 1, t + 1:].flatten(1).amin(1) for t in range(NUM_FRAMES - 1)]
    seam = torch.stack(seams, 1)
    nearest = (distances + 99 * torch.eye(NUM_FRAMES, device=x.device)).argmin(2)
    away = (nearest - torch.arange(NUM_FRAMES, device=x.device)).abs() - 1.0
    growth = torch.stack([lag.mean(1) - lags[0].mean(1) for lag in lags[1:]], 1)
    bends = (lags[0][:, 1:] - lags[0][:, :-1]).abs()
    return torch.cat([*lags, lags[0].sort(1).values, seam, seam.sort(1).values[:, -4:], seam.mean(1, keepdim=True),
                      (away > 0).float().mean(1, keepdim=True), away.mean(1, keepdim=True), growth,
                      bends.sort(1).values[:, ::2]], 1)


@lru_cache(maxsize=1)
def _lost_directions() -> tuple[Tensor, ...]:
    """Per mixer and severity, (16, n) orthonormal mixtures of frames that the defect leaves nearly empty."""
    marked = torch.zeros(NUM_FRAMES, 3, NUM_FRAMES, NUM_FRAMES, dtype=torch.uint8)
    marked[:, :, 0] = 255 * torch.eye(NUM_FRAMES, dtype=torch.uint8)[:, None]  # frame t has its pixel t lit
    found = []
    for name in MIXERS:
        for severity in SEVERITIES:
            dial = Dial(severity, np.random.default_rng(0), FPS)
            mixing = CORRUPTIONS[name].function(marked, dial)[:, 0, 0].double() / 255
            directions, sizes, _ = torch.linalg.svd(mixing)
            found.append(directions[:, sizes < max(0.1, 1.01 * float(sizes.min()))])
    return tuple(found)


def _mixtures(x: Tensor) -> Tensor:
    """Power in those directions and over temporal frequencies: frames that are mixtures of others leave holes."""
    moving = (x - x.mean(1, keepdim=True)).flatten(2).double()
    gram = moving @ moving.transpose(1, 2) / moving.shape[2]
    powers = [torch.einsum("ti,bts,si->b", n.to(gram), gram, n.to(gram)) / n.shape[1] for n in _lost_directions()]
    waves = _cosines(NUM_FRAMES).to(gram)[1:]
    spectrum = _log((waves @ gram * waves).sum(2).clamp_min(0), 0.05)
    sizes = _log(torch.linalg.eigvalsh(gram).clamp_min(0), 0.05)
    lost = _log(torch.stack(powers, 1).clamp_min(0), 0.05)
    return torch.cat([lost, lost - spectrum.mean(1, keepdim=True), spectrum, spectrum.diff(dim=1), sizes,
                      sizes.diff(dim=1)], 1).float()


def _cosines(n: int) -> Tensor:
    """(n, n) orthonormal DCT-II."""
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (k + 0.5) * k[:, None]) * math.sqrt(2 / n)
    basis[0] *= math.sqrt(0.5)
    return basis


def _counts(index: Tensor, bins: int, weight: Tensor | None = None) -> Tensor:
    """(B, bins) how often each value occurs in the whole numbers `index` (B, n)."""
    weight = torch.ones((), device=index.device).expand(index.shape) if weight is None else weight
    return torch.zeros(len(index), bins, device=index.device).scatter_add_(1, index, weight)


def _afterimages(y: Tensor) -> Tensor:
    """(B, 26) where a pixel steps from one steady value to another: how far along the frame between is.

    In the world nearly all are at either end; ghosting, dissolves and temporal blur pile them up at their weights.
    """
    before, here, after = y[:, 1:-3], y[:, 2:-2], y[:, 3:-1]
    step = before - after
    steady = torch.maximum((y[:, :-4] - before).abs(), (y[:, 4:] - after).abs()) < 2 + 0.1 * step.abs()
    valid = (steady & (step.abs() > 20)).flatten(1)
    share = ((here - after) / torch.where(step == 0, 1.0, step)).clamp(-0.1, 1.1).flatten(1)
    counts = _counts(((share + 0.125) * 20).long(), 25, valid.float())
    total = counts.sum(1, keepdim=True)
    return torch.cat([(counts / (total + 20)).sqrt(), _log(total, 1)], 1)


def _gains(x: Tensor) -> Tensor:
    """Flicker: jumps of the gain from frame to frame, the median over places, whatever moves there."""
    places = _log(F.avg_pool2d(x.flatten(0, 1), 4).unflatten(0, x.shape[:2]).flatten(3), 1)
    gains = places.diff(dim=1).median(3).values
    common = gains.mean(2, keepdim=True)
    means = _log(x.mean((3, 4)), 1).diff(dim=1, n=2)
    tints = (gains - common).abs().mean(2)
    return torch.cat([_spread(common.diff(dim=1).abs()[..., 0], 3e-4), _spread(common[..., 0].abs(), 3e-4),
                      _spread((gains - common).diff(dim=1).abs().mean(2), 3e-4), _spread(tints, 3e-4),
                      _spread(means.mean(2).abs(), 1e-3), _spread((means - means.mean(2, keepdim=True)).abs().mean(2),
                                                                  1e-3)], 1)


def _trembling(y: Tensor) -> Tensor:
    """Shifts (pixels) of 16 places per frame by least squares on gradients; how suddenly most of them change."""
    smooth = F.avg_pool2d(F.avg_pool2d(y, 3, 1, 1), 3, 1, 1)
    pair = (smooth[:, 1:] + smooth[:, :-1]) / 2
    dx, dy = (F.pad(g, p) for g, p in ((pair[..., 2:] - pair[..., :-2], (1, 1)),
                                       (pair[:, :, 2:] - pair[:, :, :-2], (0, 0, 1, 1))))
    dt = smooth.diff(dim=1)
    xx, yy, xy, xt, yt = (F.avg_pool2d(a * b, 16) for a, b in
                          ((dx / 2, dx / 2), (dy / 2, dy / 2), (dx / 2, dy / 2), (dx / 2, dt), (dy / 2, dt)))
    xx, yy = xx + 0.05, yy + 0.05
    size = xx * yy - xy**2
    shifts = torch.stack([(xy * yt - yy * xt) / size, (xy * xt - xx * yt) / size], 2).clamp(-4, 4).flatten(3)
    jerks = shifts.diff(dim=1)
    middle = jerks.median(3).values.norm(dim=2)
    waver = shifts.median(3).values.diff(dim=1, n=2).norm(dim=2)
    detail = _log(dx.square().mean((2, 3)), 1).diff(dim=1, n=2).abs()
    turns = (shifts[:, 1:] * shifts[:, :-1]).sum(2).median(2).values
    quiet = jerks.norm(dim=2).kthvalue(5, dim=2).values
    return torch.cat([_spread(middle, 3e-3), _spread(waver, 3e-3), _spread(quiet, 3e-3), _spread(detail, 1e-3),
                      turns.clamp(-4, 4).sort(1).values[:, ::3]], 1)


@lru_cache(maxsize=1)
def _level_tables() -> tuple[Tensor, Tensor]:
    """(256, 10) distance to the levels of banding, and whether an exposure cannot reach a level; (256, 10) how many
    source levels an exposure maps to each, relative to those around."""
    levels = torch.arange(256, dtype=torch.float64)
    off = [(levels - (levels * (n - 1) / 255).round() * 255 / (n - 1)).round().abs() for n in LEVELS]
    many = []
    for gain in EXPOSURES:
        reached = torch.bincount((levels * gain).round().clamp(0, 255).long(), minlength=256).double()
        reached[255] = 1
        many.append(reached)
    missed = [(reached == 0).double() for reached in many[:5]]
    many = torch.stack(many)
    return torch.stack(off + missed, 1).float(), (_unevenness(many)[0].T).float()


def _unevenness(counts: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) counts relative to their surroundings, less 1, faded out where they are rare; and how far they count."""
    around = F.avg_pool1d(counts.flatten(0, -2)[:, None], 9, 1, 4, count_include_pad=False)[:, 0].view(counts.shape)
    total = counts.sum(-1, keepdim=True)
    weight = (around * 1000 / total).clamp_max(1)
    return ((counts / (around + 1e-6 * total)).clamp_max(3) - 1) * weight, weight


def _levels(x: Tensor) -> Tensor:
    """Combs in the histograms of the channels and of their differences: rounding after a change of scale.

    A gain of 1.35 skips every fourth level, one of 0.7 fills some twice; the world itself rounds once.
    """
    whole = x[:, ::2].round().clamp(0, 255).long().transpose(1, 2).flatten(3).flatten(2)  # (B, 3, n)
    n = whole.shape[2]
    counts = _counts(whole.flatten(0, 1), 256).unflatten(0, (-1, 3))
    across = (whole - whole.roll(1, 1)).flatten(0, 1) + 256
    differences = _counts(across, 512).unflatten(0, (-1, 3))
    off, many = (table.to(x) for table in _level_tables())
    uneven, weight = _unevenness(counts)
    inner = counts[..., 1:-1] / counts[..., 1:-1].sum(-1, keepdim=True).clamp_min(1)
    match = (uneven @ many).mean(1) / weight.sum(-1).mean(1, keepdim=True).clamp_min(1)
    combs = [torch.fft.rfft(_unevenness(c)[0], dim=-1).abs().square().mean(1).sqrt()
             / _unevenness(c)[1].square().sum(-1).mean(1, keepdim=True).sqrt().clamp_min(1) for c in
             (counts, differences)]
    combs = [F.max_pool1d(combs[0][:, 24:], 2), F.max_pool1d(combs[1][:, 48:], 4)]
    used = (counts > 0).float().mean(-1)
    extremes = _log(torch.stack([counts[..., 0], counts[..., -1], counts[..., :6].sum(-1), counts[..., 250:].sum(-1)],
                                -1) / n, 1e-4).flatten(1)
    holes = ((counts == 0) & (weight > 0.5)).float().sum(-1) / (weight > 0.5).float().sum(-1).clamp_min(1)
    return torch.cat([_log(inner @ off[1:-1], 1e-3).mean(1), match, *combs, used, used.mean(1, keepdim=True), extremes,
                      holes.mean(1, keepdim=True)], 1)


def _palette(x: Tensor) -> Tensor:
    """Quantiles of luma, saturation and channels, and which hues there are: the world's paints are few."""
    small = x[..., 1::2, ::2].transpose(1, 2).flatten(2)  # (B, 3, n)
    y = (small * small.new_tensor(LUMA)[:, None]).sum(1)
    n = y.shape[1]
    chroma = small.amax(1) - small.amin(1)
    ranks = torch.stack([y, chroma, chroma / (y + 16), *small.unbind(1)], 1).sort(2).values
    quantiles = ranks[..., [int(q * (n - 1)) for q in (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)]]
    quantiles[:, :2], quantiles[:, 3:] = quantiles[:, :2] / 64, quantiles[:, 3:] / 64
    hues = []
    for lift in (0.0, FADED[1]):
        u, v = (((small[:, c] - y) / (y - lift).clamp_min(8) + 1).clamp(0, 2.99) for c in (0, 2))
        counts = _counts((u * HUES).long() * 3 * HUES + (v * HUES).long(), (3 * HUES) ** 2) / n
        coarse = F.avg_pool2d(counts.view(-1, 1, 3 * HUES, 3 * HUES), 8)[:, 0, :9, :9].flatten(1)
        hues += [_log(counts @ _paints().to(y), 0.01), (64 * coarse).sqrt()]
    return torch.cat([quantiles.flatten(1), small.mean(2) / 64, y.std(1, keepdim=True) / 64, *hues], 1)


@lru_cache(maxsize=1)
def _paints() -> Tensor:
    """(cells of hue, 48): near which of them the world's paints lie, per white balance and factor of saturation.

    A cell is a place of red and blue less luma, over luma; saturation scales it, whatever the light.
    """
    paints = torch.tensor(list(COLOURS.values()), dtype=torch.float64)
    grounds = 0.6 * paints + 0.4 * 132
    every = torch.cat([paints, grounds, (grounds + 238) / 2])  # the last: beyond a horizon
    places = torch.stack(torch.meshgrid(*2 * [(torch.arange(3 * HUES) + 0.5) / HUES - 1], indexing="ij"), -1)
    found = []
    for gain in (GAINS["neutral"], GAINS["warm"], GAINS["cold"]):
        tinted = every * torch.tensor(gain, dtype=torch.float64)
        y = tinted @ torch.tensor(LUMA, dtype=torch.float64)
        hues = (tinted[:, [0, 2]] - y[:, None]) / y[:, None]
        for factor in (0.12 * 1.22**k for k in range(16)):
            apart = (places.view(-1, 1, 2) - factor * hues).norm(dim=2)
            width = 0.02 + 0.05 * factor * hues.norm(dim=1)
            found.append((-0.5 * (apart / width).square()).exp().amax(1))
    return torch.stack(found, 1).float()


@lru_cache(maxsize=1)
def _rings() -> Tensor:
    """(64 * 33, 12) shares of a spectrum's cells in 12 rings from low to high frequency."""
    down, across = torch.fft.fftfreq(SIZE), torch.fft.rfftfreq(SIZE)
    ring = ((down[:, None] ** 2 + across**2).sqrt() * 17).long().clamp_max(11).flatten()
    members = F.one_hot(ring, 12).float()
    return members / members.sum(0)


def _sharpness(y: Tensor) -> Tensor:
    """Spectrum, noise in the flattest places, and along rows and columns how abrupt edges are and what overshoots."""
    window = torch.hann_window(SIZE, device=y.device)
    power = torch.fft.rfft2((y - y.mean((2, 3), keepdim=True)) * window * window[:, None]).abs().square()
    rings = _log(power.flatten(2).mean(1) @ _rings().to(y), 100.0)
    cross = y[..., 1:, 1:] + y[..., :-1, :-1] - y[..., 1:, :-1] - y[..., :-1, 1:]
    ranks = cross.abs().flatten(1).sort(1).values
    quiet = _log(ranks[:, [int(q * (ranks.shape[1] - 1)) for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.995)]], 0.1)
    return torch.cat([rings, rings.diff(dim=1), quiet, _edges(y), _edges(y.transpose(2, 3))], 1)


def _edges(y: Tensor) -> Tensor:
    """(B, 13) of stretches of 7 pixels along rows whose ends differ: largest step and overshoot over the difference."""
    runs = y.unfold(3, 7, 1)
    rise = (runs[..., 6] - runs[..., 0]).abs()
    low, high = torch.minimum(runs[..., 0], runs[..., 6]), torch.maximum(runs[..., 0], runs[..., 6])
    beyond = torch.maximum(runs.amax(-1) - high, low - runs.amin(-1)) / (rise + 1)
    step = runs.diff(dim=-1).abs().amax(-1) / (rise + 1)
    steep = ((rise > 25) & (runs[..., 2] - runs[..., 4]).abs().gt(0.5 * rise)).flatten(1)
    count = steep.sum(1, keepdim=True)
    steps = _counts((step.flatten(1) * 10).long().clamp_(0, 13), 14, steep.float())[:, 3:] / (count + 5)
    over = _counts((beyond.flatten(1) * 20).long().clamp_(0, 7), 8, steep.float()) / (count + 5)
    return torch.cat([steps.sqrt(), over.sqrt(), _log(count, 5)], 1)


def _blocks(y: Tensor) -> Tensor:
    """(B, 12) how far DCT coefficients of 8x8 blocks are from the multiples that coarse quantisation leaves."""
    basis = _cosines(8).to(y)
    tiles = (y - 128).unflatten(3, (8, 8)).unflatten(2, (8, 8)).transpose(3, 4)
    wanted = basis @ tiles @ basis.T
    k = torch.arange(8, device=y.device)
    found = []
    for dial in BLOCK_STEPS:
        share = wanted / (dial * (14 + 6.0 * (k + k[:, None])))
        share[..., 0, 0] = wanted[..., 0, 0] / 16
        off = (share - share.round()).abs()
        large = share.abs() > 0.5
        found += [off[..., 0, 0].flatten(1).mean(1), (off * large).flatten(1).sum(1) / (large.flatten(1).sum(1) + 1)]
    rows, columns = ((y.diff(dim=d).abs().mean((1, 5 - d))) for d in (2, 3))
    steps = [_log(s[:, 7::8].mean(1), 0.1) - _log(s.mean(1), 0.1) for s in (rows, columns)]
    return torch.stack([found[0], *found[1::2], *steps], 1)


def _overlays(x: Tensor, y: Tensor) -> Tensor:
    """Dark lines 8 pixels apart, a black frame, writing in the bottom rows."""
    mean = y.mean(1)
    lines = []
    for m in (mean, mean.transpose(1, 2)):
        middle, sides = m[:, 8:-7:8, 1:], (m[:, 7:-8:8, 1:] + m[:, 9:-6:8, 1:]) / 2
        lines.append((_log(middle, 4) - _log(sides, 4)).flatten(1).median(1).values * 10)
    edge = torch.stack([torch.cat([y[:, :, k, k:SIZE - k], y[:, :, SIZE - 1 - k, k:SIZE - k], y[:, :, k:SIZE - k, k],
                                   y[:, :, k:SIZE - k, SIZE - 1 - k]], 2).flatten(1).mean(1)
                        for k in (0, 1, 2, 3, 4, 6, 9, 12, 16, 20)], 1)
    pure = ((x < 0.5) | (x > 254.5)).float().mean((1, 2))
    rows = torch.stack([pure[:, -7 * s:][:, :7].mean((1, 2)) for s in range(1, 6)], 1)
    return torch.cat([torch.stack(lines, 1), _log(edge, 1), rows], 1)


def _vanishing(y: Tensor) -> Tensor:
    """Per frame and for three sizes of spot: the largest drop of detail between the two frames before and after."""
    detail = (y - F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)).abs()
    found = []
    for size, stride in ((7, 2), (13, 4), (19, 5)):
        local = F.avg_pool2d(detail, size, stride)
        jumps = F.avg_pool2d(y.diff(dim=1).abs(), size, stride)
        earlier, later = local[:, 1:-2] + local[:, :-3], local[:, 2:-1] + local[:, 3:]
        drop = (_log(earlier, 0.6) - _log(later, 0.6)).flatten(2)  # (B, 13, places): at frames 2 to 14
        jump = (_log(jumps[:, 1:-1], 1) - _log(torch.maximum(jumps[:, 2:], jumps[:, :-2]), 1)).flatten(2)
        never = (_log(local[:, 6:8].mean(1), 0.6) - _log(local[:, 8:].amax(1), 0.6)).flatten(1)  # shown again
        both = drop.clamp_max(2) + jump.clamp_max(2)
        gone = torch.minimum(never.clamp_min(0), drop[:, 6].clamp_min(0)) + jump[:, 6].clamp(-1, 2)
        found += [drop.amax(2), (drop.amax(2) - drop.median(2).values)[:, 3:10], jump.amax(2)[:, 4:9],
                  both.amax(2)[:, 3:10], torch.stack([never.amax(1), (never + both[:, 6]).amax(1), gone.amax(1)], 1)]
    return torch.cat(found, 1)


@lru_cache(maxsize=1)
def num_statistics() -> int:
    """K, how many there are."""
    return defect_statistics(torch.zeros(1, *SHAPE)).shape[1]
