import pytest
import torch

from rewards import load_reward
from rewards.frames import stratified_triples


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(batch, length):
    """(B, T, 1): every frame is its own number."""
    return torch.arange(length).expand(batch, length)[..., None]


def test_triples_are_adjacent_frames_in_order_one_from_every_part():
    for seed in range(20):
        found = stratified_triples(numbered(3, 49), 4, generator(seed))[..., 0]
        assert found.shape == (3, 4, 3)
        assert (found.diff(dim=2) == 1).all()
        starts = found[..., 0]
        parts = torch.arange(5) * 47 / 4
        assert (starts >= parts[:4].floor()).all() and (starts <= parts[1:]).all() and (found < 49).all()


def test_triples_are_those_of_the_generator_and_other_ones_for_every_clip():
    frames = torch.rand(4, 30, 3, 2, 2, generator=generator())
    first, again = (stratified_triples(frames, 3, generator(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, stratified_triples(frames, 3, generator(6)))
    starts = stratified_triples(numbered(4, 30), 3, generator(5))[..., 0, 0]
    assert len({tuple(row) for row in starts.tolist()}) > 1


def test_every_triple_of_a_clip_is_equally_likely():
    starts = stratified_triples(numbered(20_000, 10), 3, generator())[..., 0, 0]
    shares = torch.bincount(starts.flatten(), minlength=8) / starts.numel()
    assert shares.tolist() == pytest.approx([1 / 8] * 8, abs=0.006)


@pytest.mark.parametrize("length, expected", [(3, 1), (5, 3), (20, 4)])
def test_short_clips_give_fewer_triples(length, expected):
    assert stratified_triples(numbered(2, length), 4, generator()).shape == (2, expected, 3, 1)


@pytest.mark.parametrize("length, count", [(2, 1), (5, 0)])
def test_nothing_to_draw_is_refused(length, count):
    with pytest.raises(ValueError, match="expected at least"):
        stratified_triples(numbered(1, length), count, generator())


def test_gradient_of_a_reward_of_motion_reaches_the_drawn_frames_alone():
    frames = torch.rand(1, 20, 3, 32, 32, generator=generator()).requires_grad_()
    triples = stratified_triples(frames, 3, generator(1))
    load_reward("farm")(triples.flatten(0, 1), fps=8).mean().backward()
    drawn = stratified_triples(numbered(1, 20), 3, generator(1)).flatten().unique()
    reached = (frames.grad.abs().amax((0, 2, 3, 4)) > 0).nonzero().flatten()
    assert torch.equal(reached, drawn)
