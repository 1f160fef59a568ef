"""Objectives against closed forms, finite differences and the conventions that others publish."""
import math

import pytest
import torch
import torch.nn.functional as F

from baselines import objectives as o
from baselines.objectives import PairErrors


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(seed=0, count=6, scale=0.1):
    return PairErrors(*(draw(count, seed=seed + k).abs() * scale for k in range(4)))


def test_the_velocity_leads_from_data_to_noise():
    x, noise, t = draw(3, 2, 4), draw(3, 2, 4, seed=1), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    x_t = o.add_noise(x, noise, t)
    assert torch.allclose(x_t[0], x[0]) and torch.allclose(x_t[2], noise[2])
    moved = o.add_noise(x, noise, t + 1e-6)
    assert torch.allclose((moved - x_t) / 1e-6, o.velocity(x, noise), atol=1e-6)


def test_a_shift_moves_times_towards_noise_and_keeps_both_ends():
    t = torch.linspace(0, 1, 11)
    assert (o.shift_t(t, 3)[1:-1] > t[1:-1]).all()
    assert o.shift_t(t, 3)[0] == 0 and o.shift_t(t, 3)[-1] == 1 and torch.equal(o.shift_t(t, 1), t)
    drawn = o.sample_t(20_000, torch.Generator().manual_seed(0), shift=3)
    assert abs(float(drawn.median()) - 0.75) < 0.01  # of a logit-normal 1/2, shifted 3/4


def test_times_drawn_evenly_are_many_where_a_shift_leaves_few():
    shares = {even: float((o.sample_t(20_000, torch.Generator().manual_seed(0), 3, even=even) < 0.1).double().mean())
              for even in (0.0, 0.5, 1.0)}
    assert shares[0] < 0.002 and abs(shares[0.5] - 0.05) < 0.005 and abs(shares[1] - 0.1) < 0.007


def test_a_velocity_from_the_true_v_is_the_true_velocity_and_v_has_unit_variance_at_all_times():
    """v as Salimans & Ho have it, of the same point scaled to the variance-preserving path."""
    x, noise = draw(5, 4000), draw(5, 4000, seed=1)
    t = torch.tensor([0.0, 0.05, 0.5, 0.9, 1.0], dtype=torch.float64)
    power = (1 - t) ** 2 + t**2
    v = o.v_target(x, noise, (1 - t) ** 2 / power)
    x_t = o.add_noise(x, noise, t)
    assert torch.allclose(o.velocity_of_v(v, x_t, t), o.velocity(x, noise))
    assert torch.allclose(v.var(1), torch.ones(5, dtype=torch.float64), atol=0.06)
    assert ((v * x_t).mean(1).abs() < 0.06).all()
    guess = o.add_noise(x, noise, t) - t[:, None] * o.velocity_of_v(0 * v, x_t, t)  # where the network says nothing
    assert torch.allclose(guess, ((1 - t) / power)[:, None] * x_t)  # the best linear one of what is clean


def test_v_and_eps_losses_are_one_loss_under_min_snr():
    """The same error of x, weighted by min(snr, gamma), whatever is predicted."""
    x, noise, alpha_bar = draw(5, 7), draw(5, 7, seed=1), torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    x_t = o.add_noise_ddpm(x, noise, alpha_bar)
    guess = x + 0.1 * draw(5, 7, seed=2)
    a, s = alpha_bar.sqrt()[:, None], (1 - alpha_bar).sqrt()[:, None]
    eps = (x_t - a * guess) / s
    snr = alpha_bar / (1 - alpha_bar)
    by_x = o.min_snr_weight(snr, 5, "x") * o.squared_error(guess, x)
    assert torch.allclose(o.eps_loss(eps, noise, snr), by_x, rtol=1e-5)
    assert torch.allclose(o.v_loss(a * eps - s * guess, x, noise, alpha_bar, 5), by_x, rtol=1e-5)


def test_equal_policy_and_reference_lose_log_2():
    errors = draw(4).abs()
    same = PairErrors(errors, errors + 1, errors, errors + 1)
    assert torch.allclose(o.dpo_loss(same, 5000), torch.full((4,), math.log(2), dtype=torch.float64))
    assert torch.allclose(o.nft_loss(draw(4, 3), draw(4, 3), draw(4, 3, seed=1), torch.tensor([0, 0.3, 0.7, 1])),
                          o.squared_error(draw(4, 3), draw(4, 3, seed=1)))


def test_swapping_winner_and_loser_turns_the_odds():
    errors = pair()
    swapped = PairErrors(errors.rejected, errors.chosen, errors.ref_rejected, errors.ref_chosen)
    assert torch.allclose(o.dpo_logit(swapped, 10), -o.dpo_logit(errors, 10))
    assert torch.allclose(torch.exp(-o.dpo_loss(errors, 10)) + torch.exp(-o.dpo_loss(swapped, 10)),
                          torch.ones(6, dtype=torch.float64))


def test_the_gradient_of_dpo_is_its_closed_form():
    errors, beta = pair(), 7.0
    chosen = errors.chosen.clone().requires_grad_()
    loss = o.dpo_loss(PairErrors(chosen, errors.rejected, errors.ref_chosen, errors.ref_rejected), beta)
    loss.sum().backward()
    assert torch.allclose(chosen.grad, beta / 2 * torch.sigmoid(-o.dpo_logit(errors, beta)))
    assert torch.autograd.gradcheck(lambda a, b: o.dpo_loss(PairErrors(a, b, errors.ref_chosen, errors.ref_rejected),
                                                            beta), (chosen, errors.rejected.requires_grad_()))
    assert torch.autograd.gradcheck(lambda a: o.ipo_loss(PairErrors(a, errors.rejected, errors.ref_chosen,
                                                                    errors.ref_rejected), 0.5), chosen)


def test_betas_of_other_codes_give_the_same_loss():
    predicted, target = [draw(5, 30, seed=k) for k in range(4)], [draw(5, 30, seed=9), draw(5, 30, seed=10)]
    squares = [(guess - target[k % 2]).square() for k, guess in enumerate(predicted)]
    errors = PairErrors(*(one.mean(1) for one in squares))
    model, reference = squares[0].mean(1) - squares[1].mean(1), squares[2].mean(1) - squares[3].mean(1)
    salesforce = -F.logsigmoid(-0.5 * 3.0 * (model - reference))
    diffusers = -F.logsigmoid(-3.0 * (model - reference))
    summed = [one.sum(1) for one in squares]
    by_sum = -F.logsigmoid(-0.5 * 3.0 * ((summed[0] - summed[2]) - (summed[1] - summed[3])))
    for theirs, convention in ((salesforce, "diffusion-dpo"), (diffusers, "diffusers"), (by_sum, "sum")):
        assert torch.allclose(o.dpo_loss(errors, o.canonical_beta(3.0, convention, 30)), theirs)
    with pytest.raises(ValueError, match="diffusers"):
        o.canonical_beta(1, "mine")


def test_a_constant_beta_on_eps_is_the_falling_schedule_on_velocities():
    """For a given x_t, eps = x_t + (1 - t) velocity: its error is (1 - t)^2 that of the velocity."""
    x, noise, t = draw(5, 12), draw(5, 12, seed=1), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x_t, guess = o.add_noise(x, noise, t), draw(5, 12, seed=2)
    eps = x_t + (1 - t[:, None]) * guess
    assert torch.allclose(o.squared_error(eps, noise), o.schedule_weight(t, "(1-t)^2")
                          * o.squared_error(guess, o.velocity(x, noise)), rtol=1e-5)


def test_the_sigmoid_comes_before_the_mean():
    """One sure pair and one wrong one: the mean of losses is not the loss of the mean."""
    zero = torch.zeros(2)
    errors = PairErrors(torch.tensor([-4.0, 4.0]), zero, zero, zero)
    assert o.dpo_loss(errors, 1).mean() > 1 > math.log(2)


def test_segments_are_judged_by_their_own_labels():
    errors = PairErrors(*(draw(3, 4, seed=k).abs() for k in range(4)))
    labels = torch.tensor([[1, -1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    loss = o.segment_dpo_loss(errors, labels, 5)
    logits = o.dpo_logit(errors, 5)
    assert torch.allclose(loss[0], (-F.logsigmoid(logits[0, 0]) - F.logsigmoid(-logits[0, 1])) / 2)
    assert loss[1] == 0
    assert torch.allclose(loss[2], -F.logsigmoid(logits[2]).mean())
    whole = o.squared_error(draw(2, 3, 8), draw(2, 3, 8, seed=1))
    assert torch.allclose(o.segment_errors(draw(2, 3, 8), draw(2, 3, 8, seed=1), 4).mean(1), whole)


def test_a_scaled_loser_cannot_make_the_winner_worse():
    """One parameter vector that both predictions are: plain DPO's step can raise the winner's error, SDPO's cannot."""
    winner, loser = draw(64, 5), draw(64, 5) + 0.3 * draw(64, 5, seed=1)
    loser = loser * 3  # a loser's larger error overwhelms the winner's
    rise = -((winner - loser) * winner).sum(1)  # of the winner's error along the step, to first order
    assert (rise > 0).any()
    scale = o.loser_scale(winner, loser)
    safe = -((winner - scale[:, None] * loser) * winner).sum(1)
    assert (safe <= 1e-9).all() and ((scale >= 0) & (scale <= 1)).all()
    assert (o.loser_scale(winner, -winner) == 1).all()


def test_a_scaled_gradient_leaves_the_value():
    value = draw(3).requires_grad_()
    scale = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    scaled = o.scale_gradient(value, scale)
    scaled.sum().backward()
    assert torch.allclose(scaled, value) and torch.allclose(value.grad, scale)


def test_without_a_reference_the_same_start_is_not_log_2():
    errors = pair()
    loss = o.reference_free_loss(errors.chosen, errors.rejected, 10)
    assert torch.allclose(loss, F.softplus(5 * (errors.chosen - errors.rejected)))
    assert not torch.allclose(loss, torch.full_like(loss, math.log(2)))


def test_ipo_stops_at_its_goal():
    zero = torch.zeros(3)
    at_goal = PairErrors(torch.full((3,), -2 / (2 * 0.5)), zero, zero, zero)
    assert torch.allclose(o.ipo_loss(at_goal, 0.5), zero)
    assert (o.ipo_loss(PairErrors(at_goal.chosen * 2, zero, zero, zero), 0.5) > 0).all()


def test_reward_weights_have_mean_one_and_grow_with_the_reward():
    rewards = torch.tensor([0.0, 1.0, 2.0, 3.0])
    weights = o.reward_weights(rewards, 1.0)
    assert abs(float(weights.mean()) - 1) < 1e-6 and (weights.diff() > 0).all()
    assert torch.allclose(weights[1] / weights[0], torch.tensor(math.e))
    with pytest.raises(ValueError, match="more than 0"):
        o.reward_weights(rewards, 0)


def test_optimality_compares_within_a_group_only():
    rewards = torch.tensor([0.0, 1.0, 100.0, 101.0])
    optimal = o.optimality(rewards, [0, 0, 1, 1])
    assert torch.allclose(optimal, torch.tensor([0.25, 0.75, 0.25, 0.75]))
    assert torch.equal(o.optimality(torch.ones(4), [0, 0, 1, 1]), torch.full((4,), 0.5))


def test_nft_starts_with_the_gradient_of_its_closed_form():
    old, target = draw(4, 6), draw(4, 6, seed=1)
    optimal = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    predicted = old.clone().requires_grad_()
    o.nft_loss(predicted, old, target, optimal, beta=0.7).sum().backward()
    closed = 2 * 0.7 * (2 * optimal - 1)[:, None] * (old - target) / 6
    assert torch.allclose(predicted.grad, closed, atol=1e-6)


def test_the_overoptimization_curve_is_read_back():
    d = torch.linspace(0, 3, 20)
    a, b = o.overoptimization(d, d * (2.0 - 0.5 * d))
    assert abs(a - 2) < 1e-6 and abs(b - 0.5) < 1e-6
