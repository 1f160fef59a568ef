"""Muon for all matrices at once, against torch's own, which goes one by one."""
import copy

import pytest
import torch
from torch import nn

from baselines import muon
from baselines.muon import FASTER, Muon, orthogonal


def named(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"blocks.0.a": (8, 8), "blocks.1.a": (8, 8), "blocks.0.up": (16, 8), "blocks.0.down": (8, 16),
              "blocks.0.table": (1, 6, 8), "patch.weight": (8, 4), "patch.bias": (8,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def take_steps(parameters, optimizers, count):
    for step in range(count):
        for k, parameter in enumerate(parameters.values()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + k))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon to compare with")
def test_it_computes_what_torchs_muon_and_adamw_do():
    ours, theirs = named(0), named(0)
    hidden = [p for name, p in theirs.items() if p.ndim == 2 and "blocks" in name]
    rest = [p for name, p in theirs.items() if not (p.ndim == 2 and "blocks" in name)]
    take_steps(ours, [Muon(ours, 1e-2, 0.0)], 3)
    take_steps(theirs, [torch.optim.Muon(hidden, lr=FASTER * 1e-2, weight_decay=0.0),
                        torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.0)], 3)
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=2e-2 if "blocks" in name else 1e-6), name  # bfloat16 inside


def test_a_few_matrices_at_a_time_are_turned_as_all_together(monkeypatch):
    together, apart = named(0), named(0)
    take_steps(together, [Muon(together, 1e-2, 0.01)], 2)
    monkeypatch.setattr(muon, "AT_ONCE", 64)  # one of 8 x 8, or less than one of the others
    take_steps(apart, [Muon(apart, 1e-2, 0.01)], 2)
    assert all(torch.allclose(together[name], apart[name], atol=2e-2) for name in together)


def test_singular_values_come_near_one_whatever_they_were():
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 32, 16)).float())
    assert values.min() > 0.3 and values.max() < 1.5


def test_its_state_can_be_saved_and_loaded():
    first, second = named(1), named(1)
    optimizer = Muon(first, 1e-2, 0.01)
    take_steps(first, [optimizer], 2)
    again = Muon(second, 1e-2, 0.01)
    with torch.no_grad():
        for name, parameter in second.items():
            parameter.copy_(first[name])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(first, [optimizer], 1)
    take_steps(second, [again], 1)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_parameters_without_blocks_are_an_error():
    with pytest.raises(ValueError, match="AdamW"):
        Muon({"weight": nn.Parameter(torch.ones(2, 2))}, 1e-3, 0.0)
