"""Training objectives as pure functions of tensors; nothing here knows a network, a schedule of steps or a data set.

`x` is clean, `x_t = (1 - t) x + t noise`, and the velocity that a model predicts is `noise - x`: t is 0 for data and 1
for noise. Every loss comes back per sample (B,), so that whoever calls it decides what is averaged, and after what.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SCHEDULES = ("constant", "(1-t)^2")
CONVENTIONS = ("diffusion-dpo", "diffusers", "sum")


# --- denoising ---

def add_noise(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t on the straight line from `x` (B, ...) at t = 0 to `noise` at t = 1, for t (B,)."""
    t = _like(t, x)
    return (1 - t) * x + t * noise


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """What a flow-matching model predicts: d x_t / d t."""
    return noise - x


def sample_t(count: int, generator: torch.Generator | None = None, shift: float = 1.0, mean: float = 0.0,
             std: float = 1.0, even: float = 0.0) -> Tensor:
    """(count,) times in (0, 1): logit-normal (Esser et al., 2024), then shifted; on the generator's device.

    even: share of times that are drawn evenly instead. Where shift is 3, one in 2000 is below .1 otherwise.
    """
    device = "cpu" if generator is None else generator.device
    t = shift_t((mean + std * torch.randn(count, generator=generator, device=device)).sigmoid(), shift)
    if not even:
        return t
    flat, chance = torch.rand(2, count, generator=generator, device=device)
    return torch.where(chance < even, flat, t)


def shift_t(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): moves times towards noise where s > 1, as large pictures need."""
    return shift * t / (1 + (shift - 1) * t)


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(B,) mean over all axes but the first, in float32 or wider. ValueError where shapes differ."""
    if predicted.shape != target.shape:
        raise ValueError(f"expected equal shapes, got {tuple(predicted.shape)} and {tuple(target.shape)}")
    return (_wide(predicted) - _wide(target)).square().flatten(1).mean(1)


def segment_errors(predicted: Tensor, target: Tensor, segments: int, axis: int = 2) -> Tensor:
    """(B, segments) mean squared error of equal stretches of time, which is `axis`; ValueError where T < segments."""
    if not 0 < segments <= predicted.shape[axis]:
        raise ValueError(f"expected 1 to {predicted.shape[axis]} segments, got {segments}")
    parts = zip(predicted.tensor_split(segments, axis), target.tensor_split(segments, axis), strict=True)
    return torch.stack([squared_error(*part) for part in parts], dim=1)


def flow_matching_loss(predicted: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """(B,) mean squared error of the velocity (Lipman et al., 2023)."""
    return squared_error(predicted, velocity(x, noise))


def add_noise_ddpm(x: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise, for alpha_bar (B,) in (0, 1): the variance-preserving path."""
    a = _like(alpha_bar, x)
    return a.sqrt() * x + (1 - a).sqrt() * noise


def eps_loss(predicted: Tensor, noise: Tensor, snr: Tensor | None = None, gamma: float = 5.0) -> Tensor:
    """(B,) error of the predicted noise (Ho et al., 2020), Min-SNR weighted where `snr` (B,) is given."""
    weights = 1.0 if snr is None else min_snr_weight(snr, gamma, "eps")
    return weights * squared_error(predicted, noise)


def v_target(x: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x (Salimans & Ho, 2022)."""
    a = _like(alpha_bar, x)
    return a.sqrt() * noise - (1 - a).sqrt() * x


def velocity_of_v(v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The velocity on the straight path that a v (B, ...), at x_t and times t (B,), stands for.

    Of data of variance 1, v has variance 1 at all times, and is not correlated with x_t: a network whose output is v
    never has to carry x_t through, which at the end of sampling costs more than the noise that is left (Karras et al.,
    2022, preconditioning with a standard deviation of 1).
    """
    t = _like(t, x_t)
    power = (1 - t).square() + t.square()  # of x_t
    return (2 * t - 1) / power * x_t + v / power.sqrt()


def v_loss(predicted: Tensor, x: Tensor, noise: Tensor, alpha_bar: Tensor, gamma: float | None = None) -> Tensor:
    """(B,) error of the predicted v, Min-SNR weighted where `gamma` is given."""
    weights = 1.0 if gamma is None else min_snr_weight(alpha_bar / (1 - alpha_bar), gamma, "v")
    return weights * squared_error(predicted, v_target(x, noise, alpha_bar))


def min_snr_weight(snr: Tensor, gamma: float, prediction: Literal["eps", "v", "x"]) -> Tensor:
    """Weight of each sample's loss by signal-to-noise ratio (Hang et al., 2023): the same x loss, capped at `gamma`."""
    divisor = {"eps": snr, "v": snr + 1, "x": torch.ones_like(snr)}
    if prediction not in divisor:
        raise ValueError(f"expected a prediction of {', '.join(divisor)}, got {prediction!r}")
    return snr.clamp_max(gamma) / divisor[prediction]


# --- preferences ---

@dataclass(frozen=True)
class PairErrors:
    """Mean squared prediction errors (B,) or, by segment, (B, S): of policy and ref_model, on chosen and rejected.

    All four at the same t, chosen and rejected with the same noise; those of ref_model without gradient.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor

    def margin(self) -> Tensor:
        """How much more the policy has gained on the chosen than on the rejected, over ref_model: h = -(...) / 2.

        The implicit reward margin of Diffusion-DPO divided by beta; 0 where policy equals ref_model.
        """
        return -((self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)) / 2


def canonical_beta(beta: float, convention: str, elements: int = 1) -> float:
    """The beta used here, from one published under another convention.

    Here: L = -log sigmoid(-(beta / 2) [(e_w - e_w_ref) - (e_l - e_l_ref)]), e a mean over elements, that of Wallace et
    al. (2023) and of their code ("diffusion-dpo": 2000 to 5000 there). "diffusers" leaves out the half, and "sum" adds
    errors up over `elements` instead of averaging. Errors here are of velocities; a beta for errors of eps, constant
    in t, is the same beta on velocities with the schedule (1 - t)^2.
    """
    factors = {"diffusion-dpo": 1.0, "diffusers": 2.0, "sum": float(elements)}
    if convention not in factors:
        raise ValueError(f"expected a convention of {', '.join(factors)}, got {convention!r}")
    return beta * factors[convention]


def schedule_weight(t: Tensor, schedule: str) -> Tensor:
    """(B,) by which beta is multiplied: 1, or (1 - t)^2, which Liu et al. (2025) find worse on flows."""
    if schedule not in SCHEDULES:
        raise ValueError(f"expected a schedule of {', '.join(SCHEDULES)}, got {schedule!r}")
    return torch.ones_like(t) if schedule == "constant" else (1 - t).square()


def dpo_logit(errors: PairErrors, beta: float, weight: Tensor | float = 1.0) -> Tensor:
    """(B,) the log odds that the policy gives to the rater's choice; 0 where policy equals ref_model."""
    return beta * weight * errors.margin()


def dpo_loss(errors: PairErrors, beta: float, weight: Tensor | float = 1.0) -> Tensor:
    """(B,) Diffusion-DPO (Wallace et al., 2023), on velocities Flow-DPO (Liu et al., 2025); log 2 at the start.

    The sigmoid is each pair's own: averaging errors over the batch before it is another, wrong, loss.
    """
    return -F.logsigmoid(dpo_logit(errors, beta, weight))


def reference_free_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(B,) -log sigmoid(beta (log p(chosen) - log p(rejected))) with -e / 2 for log p, taken literally: no ref_model.

    An ablation: nothing holds the policy, and the rejected's error grows without bound.
    """
    return -F.logsigmoid(-beta / 2 * (chosen - rejected))


def ipo_loss(errors: PairErrors, beta: float) -> Tensor:
    """(B,) (h - 1 / (2 beta))^2 (Azar et al., 2023): the margin has a goal, and confident pairs stop pushing."""
    return (errors.margin() - 1 / (2 * beta)).square()


def segment_dpo_loss(errors: PairErrors, labels: Tensor, beta: float, weight: Tensor | float = 1.0) -> Tensor:
    """(B,) mean over the segments that have a winner (Wu et al., 2025, DenseDPO), 0 where none has.

    errors (B, S); labels (B, S): 1 where "chosen" is better in the segment, -1 where "rejected" is, 0 a tie.
    """
    logits = dpo_logit(errors, beta, weight[:, None] if isinstance(weight, Tensor) else weight)
    losses = -F.logsigmoid(labels * logits) * (labels != 0)
    return losses.sum(1) / (labels != 0).sum(1).clamp_min(1)


def loser_scale(winner: Tensor, loser: Tensor, slack: float = 0.0) -> Tensor:
    """(B,) in [0, 1] by which to scale the loser's gradient so that the winner's error cannot rise to first order.

    Diffusion-SDPO (2025): winner and loser (B, ...) are gradients of their two errors with respect to the same thing,
    a step descends the winner's and ascends the loser's, and min(1, (1 - slack) |g_w|^2 / <g_w, g_l>) is safe; where
    the two do not agree, any scale is. Residuals of the two predictions serve as gradients where both are taken to
    move with the network alike.
    """
    winner, loser = _wide(winner).flatten(1), _wide(loser).flatten(1)
    along = (winner * loser).sum(1)
    safe = (1 - slack) * winner.square().sum(1) / along.clamp_min(1e-12)
    return torch.where(along > 0, safe.clamp_max(1), 1.0)


def scale_gradient(value: Tensor, scale: Tensor) -> Tensor:
    """`value` itself, whose gradient arrives multiplied by `scale`."""
    return scale * value + ((1 - scale) * value).detach()


# --- rewards ---

def reward_weights(rewards: Tensor, temperature: float, largest: float = 20.0) -> Tensor:
    """(B,) exp(reward / temperature), of mean 1, none above `largest`: reward-weighted regression (Peters, 2007)."""
    if not temperature > 0:
        raise ValueError(f"temperature: expected more than 0, got {temperature}")
    return (rewards / temperature).softmax(0).mul(len(rewards)).clamp_max(largest)


def optimality(rewards: Tensor, groups: Sequence[int] | Tensor) -> Tensor:
    """(B,) in [0, 1]: half, plus half of what a sample has above the mean of its group, in 2 of all deviations.

    The chance with which DiffusionNFT takes a sample for an optimal one; 1/2 everywhere where rewards do not differ.
    """
    groups = torch.as_tensor(groups, device=rewards.device)
    _, index = groups.unique(return_inverse=True)
    counts = torch.zeros(int(index.max()) + 1, device=rewards.device).index_add_(0, index, torch.ones_like(rewards))
    sums = torch.zeros_like(counts).index_add_(0, index, rewards)
    gain = rewards - (sums / counts)[index]
    spread = gain.square().mean().sqrt()
    return 0.5 + 0.5 * (gain / (2 * spread).clamp_min(1e-6)).clamp(-1, 1)


def nft_loss(predicted: Tensor, old: Tensor, target: Tensor, optimal: Tensor, beta: float = 1.0) -> Tensor:
    """(B,) DiffusionNFT (Zheng et al., 2025): fit the optimal part of the samples and flee the rest, by one network.

    predicted, old, target: velocities (B, ...) of the policy, of the policy that made the samples, and of the samples;
    optimal (B,) in [0, 1]. At predicted = old the gradient is that of 2 beta (2 optimal - 1) <old - target, predicted>.
    """
    towards = squared_error((1 - beta) * old + beta * predicted, target)
    away = squared_error((1 + beta) * old - beta * predicted, target)
    return optimal * towards + (1 - optimal) * away


def overoptimization(distance: Tensor, reward: Tensor) -> tuple[float, float]:
    """(a, b) of R(d) = d (a - b d), least squares (Gao et al., 2023); d = sqrt(KL). ValueError below 2 points."""
    if len(distance) < 2 or distance.shape != reward.shape:
        raise ValueError(f"expected at least 2 distances and as many rewards, got {tuple(distance.shape)}")
    d = distance.double()
    solved = torch.linalg.lstsq(torch.stack([d, -d.square()], 1), reward.double()[:, None]).solution[:, 0]
    return float(solved[0]), float(solved[1])


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _like(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...) with the axes of x."""
    return values.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
