import numpy as np
import pytest

from evalkit.pareto import bootstrap_interval, hypervolume, pareto_front


def dominated(values, i):
    return any((other >= values[i]).all() and (other > values[i]).any() for other in values)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_front_is_what_comparing_every_pair_finds(m):
    rng = np.random.default_rng(m)
    for _ in range(30):
        values = rng.integers(0, 5, (20, m)).astype(float)  # many ties and equal rows
        directions = rng.random(m) < 0.5
        upwards = np.where(directions, values, -values)
        assert pareto_front(values, directions).tolist() == [not dominated(upwards, i) for i in range(20)]


def test_a_row_with_nan_is_not_on_the_front_and_hides_no_other():
    assert pareto_front([[1.0, np.nan], [0.0, 0.0]], [True, True]).tolist() == [False, True]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_hypervolume_is_the_share_of_random_points_that_a_row_dominates(m):
    rng = np.random.default_rng(m)
    values = rng.random((12, m))
    probes = rng.random((200_000, m))
    covered = (values[None] >= probes[:, None]).all(2).any(1)
    error = 4 * np.sqrt(covered.mean() * (1 - covered.mean()) / len(probes))
    assert hypervolume(values, [0.0] * m, [True] * m) == pytest.approx(covered.mean(), abs=error)


def test_hypervolume_of_stairs_has_its_closed_form():
    stairs = [[i, 10 - i] for i in range(11)]  # the area under ten steps of width 1: 9 + 8 + … + 0
    assert hypervolume(stairs, [0, 0], [True, True]) == 45
    assert hypervolume([[1, 2, 3], [3, 2, 1]], [0, 0, 0], [True] * 3) == 6 + 6 - 2


def test_hypervolume_follows_the_directions_and_ignores_rows_beyond_the_reference_point():
    assert hypervolume([[2.0, 0.3]], [10.0, 0.1], [False, True]) == pytest.approx(8 * 0.2)
    assert hypervolume([[2.0, 0.3], [11.0, 0.9], [np.nan, 1.0]], [10.0, 0.1], [False, True]) == pytest.approx(8 * 0.2)
    assert hypervolume(np.empty((0, 2)), [0, 0], [True, True]) == 0.0


def test_a_dominated_row_changes_no_hypervolume():
    values = np.random.default_rng(0).random((8, 3))
    more = np.vstack([values, values[0] / 2])
    assert hypervolume(more, [0] * 3, [True] * 3) == pytest.approx(hypervolume(values, [0] * 3, [True] * 3))


def test_the_bootstrap_interval_narrows_with_prompts_and_covers_the_statistic():
    rng = np.random.default_rng(0)

    def volume(values):
        return hypervolume(values, [0, 0], [True, True])

    few, many = (bootstrap_interval(volume, 1 + 0.3 * rng.normal(size=(3, 2, k)), draws=200) for k in (20, 500))
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])
    assert few == bootstrap_interval(volume, 1 + 0.3 * np.random.default_rng(0).normal(size=(3, 2, 20)), draws=200)


@pytest.mark.parametrize("call", [
    lambda: pareto_front([1.0, 2.0], [True]), lambda: pareto_front([[1.0, 2.0]], [True]),
    lambda: hypervolume([[1.0] * 4], [0] * 4, [True] * 4), lambda: bootstrap_interval(len, np.zeros((2, 2)))])
def test_other_shapes_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
