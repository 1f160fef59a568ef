from dataclasses import replace

import numpy as np
import pytest
from boards import METRICS, make_board, protocol_of, write_row

from evalkit.results import protocol_id
from leaderboards.bradley_terry import fit_strengths, outcomes
from leaderboards.fields import BoardError
from leaderboards.rank_ranges import rank_ranges
from leaderboards.ranking import composite, rank_board
from leaderboards.reading import read_board_rows
from leaderboards.schema import Withdrawal


def names(ranking):
    return [row.submission.slug for row in ranking.rows if row.rank is not None]


def by_slug(ranking):
    return {row.submission.slug: row for row in ranking.rows}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return make_board(tmp_path_factory.mktemp("board"), models=5, prompts=60, gap=1.0)


@pytest.mark.parametrize("by", ["farm", "artifacts", "fvd_mini", "composite", "wins"])
def test_models_far_apart_are_ranked_in_their_true_order(board, by):
    ranking = rank_board(board, read_board_rows(board), by)
    assert names(ranking) == [f"model-{i:02d}" for i in range(5)]
    for i, row in enumerate(ranking.rows[:5], 1):
        assert row.rank_range[0] <= i <= row.rank_range[1] and row.rank == row.rank_range[0]
    values = [row.value for row in ranking.rows[:5]]
    assert sorted(values, reverse=ranking.higher_is_better) == values


def test_reference_rows_are_shown_and_not_ranked(board):
    rows = by_slug(rank_board(board, read_board_rows(board)))
    for name in ("frozen", "noise", "real"):
        assert rows[name].rank is None and rows[name].reason == "reference row" and not rows[name].pareto
        assert rows[name].value == rows[name].submission.scores["farm"].value


def test_adding_a_row_changes_no_composite_of_another(tmp_path):
    board = make_board(tmp_path, models=4, prompts=20)
    before = {row.slug: composite(board, row) for row in read_board_rows(board)}
    for name, quality in {"new-worst": -50.0, "new-best": 50.0}.items():
        write_row(board, name, quality, np.zeros(20), 1, np.random.default_rng(0))
    after = rank_board(board, read_board_rows(board), "composite")
    assert len(after.rows) == len(before) + 2
    assert {slug: by_slug(after)[slug].composite for slug in before} == before


def test_the_composite_is_the_weighted_mean_of_anchored_scores(board):
    row = read_board_rows(board)[1]
    weighted = {**board.metrics, "farm": replace(board.metrics["farm"], weight=3.0)}
    z = {name: (1 if better else -1) * (row.scores[name].value - mean) / std
         for name, (better, mean, std, _) in METRICS.items()}
    expected = (sum(z.values()) + 2 * z["farm"]) / 6
    assert composite(replace(board, metrics=weighted), row) == pytest.approx(expected)


def test_a_null_is_unranked_and_not_zero(board):
    rows = read_board_rows(board)
    score = replace(rows[1].scores["farm"], value=None, ci95=None, reason="no frames")
    rows[1] = replace(rows[1], scores={**rows[1].scores, "farm": score})
    row = by_slug(rank_board(board, rows))["model-00"]
    assert (row.rank, row.value, row.composite, row.reason) == (None, None, None, "farm: no frames")
    assert by_slug(rank_board(board, rows, "fvd_mini"))["model-00"].rank == 1


def test_a_withdrawn_row_has_no_rank_and_frees_it(board):
    rows = read_board_rows(board)
    rows[1] = replace(rows[1], withdrawal=Withdrawal("2026-11-02", "trained on the prompts"))
    ranking = rank_board(board, rows)
    assert by_slug(ranking)["model-00"].reason == "withdrawn: trained on the prompts"
    assert names(ranking)[0] == "model-01" and by_slug(ranking)["model-01"].rank == 1


def test_rows_of_another_protocol_are_refused_with_the_field(board):
    rows = read_board_rows(board)
    changed = protocol_of("farm") | {"decoder": "other/2"}
    key = protocol_id(changed)
    rows[1] = replace(rows[1], protocols={**rows[1].protocols, key: changed},
                      scores={**rows[1].scores, "farm": replace(rows[1].scores["farm"], protocol=key)})
    with pytest.raises(BoardError, match=r"model-00.json: scores.farm.*decoder: 'pyav/1' != 'other/2'"):
        rank_board(board, rows)


@pytest.mark.parametrize(("by", "message"), [("fame", "cannot rank by 'fame'"), ("composite", "no anchor for farm")])
def test_ranking_by_what_the_board_does_not_have_is_refused(board, by, message):
    bare = replace(board, metrics={**board.metrics, "farm": replace(board.metrics["farm"], anchor=None)})
    with pytest.raises(BoardError, match=message):
        rank_board(bare, read_board_rows(board), by)


def test_models_that_cannot_be_told_apart_share_a_rank(tmp_path):
    board = make_board(tmp_path, models=4, prompts=30, gap=0.0, references=False)
    for by in ("farm", "wins", "composite"):
        assert {row.rank_range for row in rank_board(board, read_board_rows(board), by).rows} == {(1, 4)}


@pytest.mark.parametrize("by", ["farm", "wins"])
def test_one_prompt_tells_nothing_apart(tmp_path, by):
    board = make_board(tmp_path, models=3, prompts=1, gap=9.0, references=False)
    assert {row.rank_range for row in rank_board(board, read_board_rows(board), by).rows} == {(1, 3)}


def test_a_board_without_rows_has_an_empty_ranking(board):
    for by in ("farm", "wins", "composite"):
        assert rank_board(board, [], by).rows == ()


def test_the_pareto_mark_is_of_rows_that_no_other_beats_in_all_weighted_metrics(board):
    rows = read_board_rows(board)
    marked = {row.submission.slug for row in rank_board(board, rows).rows if row.pareto}
    assert marked == {"model-00"}  # a whole standard deviation ahead in everything
    lone = replace(rows[3].scores["dynamic_degree"], value=99.0, ci95=(98.0, 100.0))
    rows[3] = replace(rows[3], scores={**rows[3].scores, "dynamic_degree": lone})
    marked = {row.submission.slug for row in rank_board(board, rows).rows if row.pareto}
    assert marked == {"model-00", rows[3].slug}


def test_the_same_seed_gives_the_same_ranking(board):
    rows = read_board_rows(board)
    assert rank_board(board, rows, "wins", seed=3) == rank_board(board, rows, "wins", seed=3)


# Bradley–Terry with ties

def test_strengths_of_two_models_have_their_closed_form():
    won, lost, drawn = 6000, 2000, 3000
    difference = np.repeat([1.0, -1.0, 0.0], [won, lost, drawn])
    fitted = fit_strengths([np.stack([difference, np.zeros_like(difference)], 1)], [1.0], [0.0])
    assert np.diff(fitted.log_strength)[0] == pytest.approx(-np.log(won / lost), abs=1e-3)
    assert fitted.log_tie == pytest.approx(np.log(drawn / np.sqrt(won * lost)), abs=1e-3)


def test_strengths_are_recovered_from_games_that_follow_the_model():
    truth, tie, rng = np.array([1.0, 0.3, -0.4, -0.9]), 0.5, np.random.default_rng(0)
    strength = np.exp(truth)
    results = []
    for _ in range(4000):  # a prompt of each pair alone: scores that realise that pair's result
        i, j = rng.choice(4, 2, replace=False)
        draw = tie * np.sqrt(strength[i] * strength[j])
        chances = np.array([strength[i], draw, strength[j]])
        row = np.full(4, np.nan)
        row[i], row[j] = [(1, 0), (0, 0), (0, 1)][rng.choice(3, p=chances / chances.sum())]
        results.append(row)
    fitted = fit_strengths([np.array(results)], [1.0], [0.0])
    assert np.abs(fitted.log_strength - truth).max() < 0.15
    assert fitted.log_tie == pytest.approx(np.log(tie), abs=0.15)


def test_influence_spreads_as_fitting_every_resample_anew_does():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 5)) + np.linspace(1, 0, 5)
    fitted = fit_strengths([scores], [1.0], [0.1])
    index = rng.integers(0, 40, (200, 40))
    refitted = np.array([fit_strengths([scores[rows]], [1.0], [0.1]).log_strength for rows in index])
    weights = np.array([np.bincount(rows, minlength=40) for rows in index])
    quick = fitted.log_strength + (weights - 1) @ fitted.influence
    assert np.corrcoef(quick.ravel(), refitted.ravel())[0, 1] > 0.99
    assert np.allclose(quick.std(0), refitted.std(0), rtol=0.15)


def test_a_model_that_wins_everything_has_a_finite_strength():
    fitted = fit_strengths([np.tile([2.0, 1.0, 0.0], (30, 1))], [1.0], [0.0])
    assert np.isfinite(fitted.log_strength).all() and (np.diff(fitted.log_strength) < -1).all()


def test_a_difference_up_to_the_tie_margin_is_a_tie():
    found = outcomes(np.array([0.0, 0.05, 0.2, np.nan]), tie=0.1)
    assert found[0, 1] == found[1, 0] == 0.5 and found[2, 0] == 1.0 and found[0, 2] == 0.0
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()


# rank ranges

def simulate(gap, models, prompts, seed):
    """Ranges of models whose true order is that of their columns."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(prompts, 1)) + rng.standard_t(5, (prompts, models)) - gap * np.arange(models)
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=300)
    return rank_ranges(scores.mean(0), weights @ scores / prompts, prompts=prompts)


@pytest.mark.parametrize("prompts", [6, 30])
@pytest.mark.parametrize("gap", [0.001, 0.4])
def test_all_true_ranks_lie_in_their_ranges_in_95_of_100_boards(gap, prompts):
    truth = np.arange(1, 7)
    held = [((low <= truth) & (truth <= high)).all()
            for low, high in (simulate(gap, 6, prompts, seed).T for seed in range(300))]
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize("by", ["farm", "composite", "wins", "fvd_mini"])
def test_the_true_ranks_of_boards_on_disk_lie_in_their_ranges(tmp_path, by):  # 500 in benchmarks/rank_coverage.md
    for seed in range(6):
        board = make_board(tmp_path / str(seed), models=4, prompts=12, gap=0.3, references=False, seed=seed)
        ranges = {row.submission.slug: row.rank_range for row in rank_board(board, read_board_rows(board), by).rows}
        assert all(ranges[f"model-{i:02d}"][0] <= i + 1 <= ranges[f"model-{i:02d}"][1] for i in range(4))


def test_more_prompts_narrow_the_ranges():
    few, many = (np.mean([np.ptp(simulate(0.4, 6, prompts, seed), axis=1) for seed in range(20)])
                 for prompts in (20, 200))
    assert many < 0.5 * few


def test_a_model_of_unknown_error_may_have_any_rank_and_narrows_no_other():
    rng = np.random.default_rng(0)
    values, draws = np.array([3.0, 2.0, 1.0]), np.array([3.0, 2.0, 1.0]) + 0.01 * rng.normal(size=(500, 3))
    assert rank_ranges(values, draws).tolist() == [[1, 1], [2, 2], [3, 3]]
    draws[:, 1] = np.inf
    assert rank_ranges(values, draws).tolist() == [[1, 2], [1, 3], [2, 3]]


def test_equal_rows_are_never_told_apart_and_certain_differences_always():
    assert rank_ranges(np.zeros(3), np.zeros((100, 3))).tolist() == [[1, 3]] * 3
    assert rank_ranges(np.array([1.0, 0.0]), np.tile([1.0, 0.0], (100, 1))).tolist() == [[1, 1], [2, 2]]
