"""The arena without its server: what is asked next, what is stored, and what is made of the votes."""
from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from arenas import write_models

from evalkit.errors import UsageError
from evalkit.results import Report, write_atomic
from leaderboards.arena_pairing import Chooser, fit_strengths, worth
from leaderboards.arena_results import export_pairs, export_runs, make_chooser, summarise
from leaderboards.arena_samples import fill, pair_up, read_gold, read_samples
from leaderboards.arena_store import ArenaStore, overall
from leaderboards.ranking import rank_board
from leaderboards.reading import read_board, read_board_rows
from leaderboards.schema import Board, BoardMetric, Generation, format_json
from leaderboards.submissions import add_run
from rewards.data import read_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of 8 prompts, gold questions of a third and fourth, and a database of both without votes."""
    folder = tmp_path_factory.mktemp("arena")
    names = ("one", "two", "good", "bad")
    one, two, good, bad = write_models(folder, 8, names)
    store = ArenaStore(str(folder / "votes.db"))
    fill(store, [one, two], None, (good, bad), None, folder / "media")
    store.engine.dispose()
    return folder


@pytest.fixture
def store(tmp_path, folder):
    return ArenaStore(str(shutil.copy(folder / "votes.db", tmp_path / "votes.db")))


def vote(store: ArenaStore, rater: str, count: int, answer, gold_every: int = 10) -> None:
    """`answer(task, pair)` -> the answers to each question, seen for 3 s."""
    choose = make_chooser(store, gold_every, seed=1)
    for k in range(count):
        task = store.next_task(rater, choose, lambda k=k: k % 2 == 0)
        store.answer(task.token, rater, answer(task, store.pairs[task.pair]), 3.0)


def prefer(model: str):
    """Always the side of this model, in all dimensions; on gold questions the better one."""
    def answer(task, pair):
        is_a = pair.a.model == model or pair.gold is not None
        side = "left" if is_a == task.a_left else "right"
        return dict.fromkeys(("visual", "motion", "text"), side)
    return answer


def test_overall_is_what_was_asked_or_the_side_of_more_dimensions():
    assert overall({"visual": "left", "motion": "left", "text": "right"}, a_left=True) == 1
    assert overall({"visual": "left", "motion": "left", "text": "right"}, a_left=False) == -1
    assert overall({"visual": "left", "motion": "right", "text": "bad"}, a_left=True) == 0
    assert overall({"visual": "left", "motion": "left", "overall": "right"}, a_left=True) == -1
    assert overall({}, a_left=True) is None


def test_a_database_goes_on_where_it_was(tmp_path, store, folder):
    vote(store, "ann", 3, prefer("one"))
    again = ArenaStore(str(tmp_path / "votes.db"))
    fill(again, [str(folder / "one"), str(folder / "two")], None, (), None, folder / "media")
    assert again.pairs == store.pairs
    assert again.votes() == store.votes()
    with pytest.raises(UsageError, match="expected the same --dimensions"):
        ArenaStore(str(tmp_path / "votes.db"), ["overall"])


def test_videos_that_changed_under_their_votes_are_refused(store):
    pair = next(iter(store.pairs.values()))
    with pytest.raises(UsageError, match="has changed since it came into the arena"):
        store.add([(replace(pair.a, digest="another"), pair.b, None)])


def test_many_windows_of_one_rater_never_ask_a_pair_twice(store):
    def answer_all() -> None:
        choose = make_chooser(store, 10)
        while (task := store.next_task("ann", choose, lambda: True)) is not None:
            store.answer(task.token, "ann", dict.fromkeys(store.dimensions, "tie"), 1.0)

    threads = [threading.Thread(target=answer_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.pair for each in store.votes()) == sorted(store.pairs)


def test_samples_are_paired_by_prompt_and_seed(tmp_path):
    one, two = write_models(tmp_path, 2)
    rows = [{"path": "0.mp4", "prompt": "p", "seed": 9}, {"path": "1.mp4", "prompt": "p", "seed": 2}]
    for place in (one, two):
        Path(place, "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(two, "prompts.jsonl").write_text("".join(json.dumps(row | {"seed": -row["seed"]}) + "\n" for row in rows))
    models = dict(map(read_samples, (one, two)))
    assert [(a.seed, b.seed) for a, b, _ in pair_up(models)] == [(2, -9), (9, -2)]


def test_samples_that_cannot_be_compared_are_named(tmp_path, folder, store):
    one, other = str(folder / "one"), write_models(tmp_path, 2, ("one",))[0]
    for samples, message in (([one, other], "two models are named 'one'"), ([one, f"../x={other}"], "no path")):
        with pytest.raises(UsageError, match=message):
            fill(store, samples, None, (), None, tmp_path)
    Path(other, "prompts.jsonl").write_text('{"path": "0.mp4", "prompt": "another"}\n')
    with pytest.raises(UsageError, match="no prompt in common"):
        fill(store, [one, f"x={other}"], None, (), None, tmp_path)
    Path(other, "prompts.jsonl").unlink()
    with pytest.raises(UsageError, match="have no prompt"):
        fill(store, [one, f"x={other}"], None, (), None, tmp_path)


def test_the_export_is_read_by_rewards_and_says_what_was_voted(tmp_path, store):
    vote(store, "ann", 16, prefer("one"))
    vote(store, "bob", 16, prefer("two"))
    rows = export_pairs(store, tmp_path / "out" / "pairs.jsonl")
    found = read_pairs(tmp_path / "out" / "pairs.jsonl")
    assert len(found.pairs) == rows == 2 * 8 * 4
    assert {pair.dimension for pair in found.pairs} == {"visual", "motion", "text", "overall"}
    for pair in found.pairs:
        assert Path(pair.chosen).parent.name == {"ann": "one", "bob": "two"}[pair.rater]
        assert Path(pair.chosen).name == Path(pair.rejected).name
        assert not pair.tie


def test_ties_and_both_bad_are_exported_as_ties_and_skipped_questions_not_at_all(tmp_path, store):
    vote(store, "ann", 5, lambda *_: {"visual": "tie", "motion": "bad", "text": "bad"}, gold_every=10**9)
    vote(store, "bob", 3, lambda *_: {}, gold_every=10**9)
    export_pairs(store, tmp_path / "pairs.jsonl")
    found = read_pairs(tmp_path / "pairs.jsonl").pairs
    assert len(found) == 20
    assert all(pair.tie and pair.rater == "ann" for pair in found)


def test_raters_who_fail_gold_questions_can_be_left_out(tmp_path, store):
    vote(store, "ann", 16, prefer("one"))
    vote(store, "guess", 16, lambda *_: dict.fromkeys(store.dimensions, "left"))
    export_pairs(store, tmp_path / "pairs.jsonl", min_gold=0.9)
    assert {pair.rater for pair in read_pairs(tmp_path / "pairs.jsonl").pairs} == {"ann"}
    with pytest.raises(UsageError, match="at least one vote"):
        export_pairs(ArenaStore(str(tmp_path / "none.db")), tmp_path / "pairs.jsonl")


def test_gold_questions_come_from_a_file_of_pairs_too(tmp_path, folder):
    rows = [{"chosen": "one/0.mp4", "rejected": "two/0.mp4", "prompt": "p", "dimension": "visual"},
            {"chosen": "two/0.mp4", "rejected": "one/0.mp4", "prompt": "p", "dimension": "motion"},
            {"chosen": "one/0.mp4", "rejected": "two/0.mp4", "prompt": "p", "dimension": "text", "tie": True}]
    path = folder / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [(a, b, answers)] = read_gold(path, ("visual", "motion", "text"))
    assert (Path(a.path).parent.name, Path(b.path).parent.name) == ("one", "two")
    assert answers == {"visual": 1, "motion": -1, "text": 0}
    with pytest.raises(UsageError, match="line 1: raters are not asked for 'visual'"):
        list(read_gold(path, ("motion",)))
    path.write_text('{"chosen": "one/0.mp4", "rejected": "no.mp4", "prompt": "p"}\n')
    with pytest.raises(UsageError, match=r"line 1: .*no\.mp4"):
        list(read_gold(path, ("motion",)))


def test_the_summary_sees_care_side_bias_and_agreement(store):
    vote(store, "ann", 16, prefer("one"))
    vote(store, "bob", 16, prefer("one"))
    vote(store, "left", 16, lambda *_: dict.fromkeys(store.dimensions, "left"))
    found = summarise(store, make_chooser(store, 10))
    raters = {row["rater"]: row for row in found["raters"]}
    assert raters["ann"]["gold"]["value"] == 1.0
    assert raters["left"]["gold"]["value"] == 0.5
    assert raters["left"]["left"] == {"value": 1.0, "n": 48, "ci95": raters["left"]["left"]["ci95"]}
    assert raters["left"]["left"]["ci95"][0] > 0.9 > raters["ann"]["left"]["ci95"][1]
    kappas = {tuple(row["raters"]): row["kappa"] for row in found["kappa"]}
    assert kappas["ann", "left"] == pytest.approx(0.0)
    assert [row["model"] for row in found["models"]] == ["one", "two"]
    assert found["models"][0]["shares"]["overall"]["value"] == pytest.approx((8 + 8 + 4) / 24)
    json.dumps(found, allow_nan=False)


def test_scores_go_into_the_run_of_the_same_videos_and_beside_what_it_has(tmp_path, store):
    vote(store, "ann", 16, prefer("one"))
    paths = export_runs(store, tmp_path / "runs")
    first = {path.parent.name: Report.load(path.parent) for path in paths}
    assert first["one"].scores["arena_overall"].value == 1.0
    assert first["two"].scores["arena_motion"].value == 0.0
    assert first["one"].scores["arena_text"].protocol == first["two"].scores["arena_text"].protocol
    assert first["one"].videos["arena_visual"].tolist() == [1.0] * 8
    other = first["two"]
    other.scores["farm"], other.videos["farm"] = other.scores["arena_text"], 0.5
    other.videos["error"] = ["broken", *other.videos["error"][1:]]
    other.save(tmp_path / "runs" / "two")
    vote(store, "bob", 16, prefer("two"))
    export_runs(store, tmp_path / "runs")
    found = Report.load(tmp_path / "runs" / "two")
    assert found.scores["arena_overall"].value == 0.5
    assert found.videos["farm"].tolist() == [0.5] * 8
    assert found.videos["error"].tolist()[0] == "broken"
    assert found.counts == {"found": 8, "scored": 7, "failed": 1}
    other.videos["content"] = "x"
    other.save(tmp_path / "runs" / "two")
    with pytest.raises(UsageError, match="holds farm of other videos"):
        export_runs(store, tmp_path / "runs")


def test_a_video_without_a_vote_says_so_until_it_has_one(tmp_path, store):
    vote(store, "ann", 5, prefer("one"), gold_every=10**9)
    found = Report.load(export_runs(store, tmp_path)[0])
    assert found.counts == {"found": 8, "scored": 5, "failed": 3}
    assert found.videos["arena_text"].isna().tolist() == found.videos["error"].notna().tolist()
    assert found.scores["arena_text"].n == 5
    vote(store, "bob", 8, prefer("one"), gold_every=10**9)
    assert Report.load(export_runs(store, tmp_path)[0]).counts == {"found": 8, "scored": 8, "failed": 0}


def test_the_scores_stand_on_a_board_beside_others(tmp_path, store):
    vote(store, "ann", 5, prefer("one"), gold_every=10**9)
    paths = export_runs(store, tmp_path / "runs")
    board = Board("t", "t", "arena_overall", {name: BoardMetric(True, range=(0.0, 1.0)) for name in (
        "arena_overall", "arena_text")}, path=tmp_path / "boards" / "t.json")
    write_atomic(board.path, format_json(board.to_json()))
    how = Generation((0,), False, "none", None, (48, 32), 8.0)
    for path in paths:
        run = Report.load(path.parent)
        run.videos["content"] = [f"{i:064x}" for i in range(len(run.videos))]  # the clips of this arena are copies
        run.save(path.parent)
        _, board = add_run(read_board(board.path), path.parent, path.parent.name, generation=how)
    ranking = rank_board(board, read_board_rows(board))
    assert [(one.submission.name, one.value) for one in ranking.rows] == [("one", 1.0), ("two", 0.0)]


def test_strengths_are_the_log_odds_of_the_wins():
    found = fit_strengths(np.array([[0.0, 7500.0], [2500.0, 0.0]]))
    assert found.theta == pytest.approx([np.log(3) / 2, -np.log(3) / 2], abs=1e-3)
    expected = 1 / (10_000 * 0.25 * 0.75)  # of the difference, by Fisher's information
    assert found.variance(np.array([0]), np.array([1]))[0] == pytest.approx(expected, rel=0.01)


def test_votes_on_one_prompt_are_worth_ever_less():
    assert np.all(np.diff(worth(np.arange(10.0)), 2) < 0)
    assert worth(np.array(1e9)) == pytest.approx(4.0)  # 1 / (w PROMPT) fresh prompts, however many there are


def ask(chooser: Chooser, true: dict[int, float], count: int, rng: np.random.Generator, adaptive: bool):
    """The standing after `count` votes, each by a new rater, drawn with the pair's chance that a wins."""
    standing: dict[int, tuple[int, float]] = {}
    for _ in range(count):
        pair = chooser(standing, set()) if adaptive else int(rng.choice(list(true)))
        n, total = standing.get(pair, (0, 0.0))
        standing[pair] = (n + 1, total + (1.0 if rng.random() < true[pair] else -1.0))
    return standing


def test_adaptive_questions_go_to_close_models_and_tell_more_of_the_order():
    strengths = {"a": 3.0, "b": 0.2, "c": 0.0, "d": -3.0}
    names = list(strengths)
    pairs = [(k, one, two) for k, (one, two) in enumerate(
        (one, two) for i, one in enumerate(names) for two in names[i + 1:] for _ in range(60))]
    true = {k: 1 / (1 + np.exp(strengths[two] - strengths[one])) for k, one, two in pairs}
    variance = {}
    for adaptive in (True, False):
        found = []
        for seed in range(10):
            chooser = Chooser(pairs, seed=seed)
            standing = ask(chooser, true, 150, np.random.default_rng(seed), adaptive)
            fitted = chooser.strengths(standing)
            found.append(fitted.variance(np.array([1]), np.array([2]))[0])  # of b - c, the order that is in doubt
            if adaptive and seed == 0:
                close = sum(n for pair, (n, _) in standing.items() if {*pairs[pair][1:]} == {"b", "c"})
                far = sum(n for pair, (n, _) in standing.items() if {*pairs[pair][1:]} == {"a", "d"})
                assert close > 2 * far
        variance[adaptive] = np.mean(found)
    assert variance[True] < 0.9 * variance[False]


def test_fresh_prompts_come_before_those_that_have_votes_and_some_are_asked_of_two_raters():
    pairs = [(k, "a", "b") for k in range(400)]
    standing = ask(Chooser(pairs, seed=0), dict.fromkeys(range(400), 0.5), 300, np.random.default_rng(0), True)
    counts = [n for n, _ in standing.values()]
    assert 0.1 < sum(n > 1 for n in counts) / len(counts) < 0.35
    assert max(counts) == 2


def test_gold_questions_are_about_one_in_n_and_never_twice_to_one_rater():
    chooser, asked, gold = Chooser([(k, "a", "b") for k in range(900)], range(1000, 1200), 10, seed=0), set(), 0
    for _ in range(900):
        pair = chooser({}, asked)
        assert pair not in asked
        asked.add(pair)
        gold += pair >= 1000
    assert 60 < gold < 120
