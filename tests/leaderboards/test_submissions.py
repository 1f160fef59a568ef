import json

import numpy as np
import pytest
from made_up_runs import METRICS, make_report

from evalkit.results import Report
from leaderboards import submissions
from leaderboards.boards_init import init_board
from leaderboards.checks import check_submission
from leaderboards.fields import BoardError
from leaderboards.reading import read_board, read_board_rows
from leaderboards.schema import Checkpoint, Generation
from leaderboards.submissions import add_run, slug_of, withdraw

HOW = Generation((0, 1), False, "euler", None, (64, 64), 8.0)


@pytest.fixture
def board(tmp_path):
    return init_board(tmp_path / "boards" / "t.json", metrics=METRICS)


def test_a_run_becomes_a_row_that_keeps_the_contract_and_reads_back_as_written(board, tmp_path):
    row, board = add_run(board, make_report(tmp_path / "run"), "Ours 1.0", generation=HOW, commit="0123abc",
                         links={"code": "https://example.org"}, checkpoint=Checkpoint("ours", 100))
    assert (row.slug, row.status) == ("ours-1.0", "reported")
    assert read_board_rows(read_board(board.path)) == [row]
    check_submission(row, read_board(board.path))
    assert row.generation == HOW and row.checkpoint.step == 100
    assert row.read_features()["fvd_mini"].shape == (8, 4)


def test_a_row_tells_nothing_of_the_machine_that_scored_it(board, tmp_path):
    row, _ = add_run(board, make_report(tmp_path / "run"), "ours", generation=HOW)
    assert "path" not in row.read_videos() and "/home/me" not in row.path.read_text()
    assert str(tmp_path) not in row.path.read_text()


def test_the_first_row_fixes_protocols_and_prompts(board, tmp_path):
    assert all(metric.protocol is None for metric in board.metrics.values()) and board.prompts is None
    add_run(board, make_report(tmp_path / "run"), "ours", generation=HOW)
    fixed = read_board(board.path)
    assert all(metric.protocol for metric in fixed.metrics.values()) and fixed.prompts.count == 4
    with pytest.raises(BoardError, match=r"clips\.num_frames: 16 != 32"):
        add_run(fixed, make_report(tmp_path / "other", frames=32), "theirs", generation=HOW)
    with pytest.raises(BoardError, match="other prompts than the board's 4"):
        add_run(fixed, make_report(tmp_path / "fewer", prompts=3), "theirs", generation=HOW)
    assert [path.name for path in sorted(board.folder.iterdir())] == ["ours", "ours.json"]
    assert read_board(board.path) == fixed


def test_a_reference_row_does_not_fix_the_prompts(board, tmp_path):
    _, board = add_run(board, make_report(tmp_path / "run", prompts=3), "real", kind="reference")
    assert board.prompts is None and board.metrics["farm"].protocol is not None
    add_run(board, make_report(tmp_path / "model"), "ours", generation=HOW)
    assert read_board(board.path).prompts.count == 4


@pytest.mark.parametrize("again", ["ours", "OURS", "Ours!"])
def test_a_name_stands_once_on_a_board(board, tmp_path, again):
    run = make_report(tmp_path / "run")
    row, board = add_run(board, run, "Ours", generation=HOW)
    before = row.path.read_bytes()
    with pytest.raises(BoardError, match="stands on board t already"):
        add_run(board, run, again, generation=HOW)
    assert row.path.read_bytes() == before


def test_a_metric_that_the_run_lacks_is_named_with_the_command(board, tmp_path):
    with pytest.raises(BoardError, match=r"lacks farm.*evalkit run … --metrics farm"):
        add_run(board, make_report(tmp_path / "run", without=("farm",)), "ours", generation=HOW)


def test_a_score_without_value_keeps_its_reason_in_one_line(board, tmp_path):
    row, board = add_run(board, make_report(tmp_path / "run", nulls=("farm",)), "ours", generation=HOW)
    assert row.scores["farm"].reason == "weights are missing" and board.metrics["farm"].protocol is None


def test_scores_that_the_board_does_not_have_stay_out_of_the_row(tmp_path):
    board = init_board(tmp_path / "boards" / "t.json", metrics=["farm"])
    row, _ = add_run(board, make_report(tmp_path / "run"), "ours", generation=HOW)
    assert set(row.scores) == {"farm"} and row.features is None
    assert "temporal_flicker" not in row.read_videos()


def test_a_row_interrupted_midway_leaves_nothing_and_can_be_added_again(board, tmp_path, monkeypatch):
    run, good = make_report(tmp_path / "run"), submissions._copy_clips

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submissions, "_copy_clips", stop)
    with pytest.raises(KeyboardInterrupt):
        add_run(board, run, "ours", generation=HOW)
    assert not list(board.folder.iterdir()) and read_board(board.path) == board
    monkeypatch.setattr(submissions, "_copy_clips", good)
    stale = board.folder / "ours"  # what a killed process leaves
    stale.mkdir()
    (stale / "videos.parquet").write_bytes(b"half")
    row, board = add_run(board, run, "ours", generation=HOW)
    check_submission(row, board)


def test_clips_of_the_first_the_best_and_the_worst_videos_are_copied(board, tmp_path):
    run = make_report(tmp_path / "run")
    for i in range(8):
        (run / f"{i}.mp4").write_bytes(b"video %d" % i)
    row, _ = add_run(board, run, "ours", generation=HOW, clips=1)
    ordered = row.read_videos().sort_values("temporal_flicker")["video"]
    assert list(row.clips) == list(dict.fromkeys(["0.mp4", ordered.iloc[0], ordered.iloc[-1]]))
    assert all(row.locate(clip).read_bytes() == f"video {video[0]}".encode() for video, clip in row.clips.items())


def test_a_withdrawn_row_stays_with_its_reason_and_is_withdrawn_once(board, tmp_path):
    row, board = add_run(board, make_report(tmp_path / "run"), "ours", generation=HOW)
    gone = withdraw(row, "trained on the prompts")
    assert gone.status == "withdrawn" and read_board_rows(board) == [gone]
    with pytest.raises(BoardError, match="was withdrawn on"):
        withdraw(gone, "again")
    with pytest.raises(BoardError, match="reason: expected printable text"):
        withdraw(row, "")
    assert read_board_rows(board) == [gone]


@pytest.mark.parametrize(("name", "slug"), [("Wan2.1 14B", "wan2.1-14b"), ("<script>", "script"), ("Modèle", "modele"),
                                            ("../../etc", "etc"), ("a" * 200, "a" * 80)])
def test_any_name_has_a_file_name_that_leads_nowhere_else(name, slug):
    assert slug_of(name) == slug


def test_a_name_without_a_latin_letter_is_refused():
    with pytest.raises(BoardError, match="expected a name with a Latin letter"):
        slug_of("模型")


# new boards

def test_a_board_of_a_suite_has_its_metrics_with_direction_range_and_summary(tmp_path):
    board = init_board(tmp_path / "boards" / "t.json", suite="quick")
    assert next(iter(board.metrics)) == board.rank_by == "temporal_flicker"
    assert not board.metrics["artifacts"].higher_is_better and board.metrics["artifacts"].range == (0.0, 1.0)
    assert all(metric.summary for metric in board.metrics.values())


def test_anchors_are_mean_and_spread_of_the_runs_given(tmp_path):
    runs = [Report.load(make_report(tmp_path / str(shift), shift=shift)) for shift in (0.0, 1.0)]
    board = init_board(tmp_path / "boards" / "t.json", metrics=METRICS[:2], rank_by="composite", anchors=runs)
    values = [run.scores["farm"].value for run in runs]
    assert board.metrics["farm"].anchor.mean == pytest.approx(np.mean(values))
    assert board.metrics["farm"].anchor.std == pytest.approx(np.std(values, ddof=1))


def test_a_score_that_evalkit_does_not_know_is_taken_from_the_run(tmp_path):
    run = Report.load(make_report(tmp_path / "run"))
    run.scores["arena_motion"] = run.scores.pop("farm")
    board = init_board(tmp_path / "boards" / "t.json", metrics=["arena_motion"], like=run)
    assert board.metrics["arena_motion"].protocol == run.scores["arena_motion"].protocol


@pytest.mark.parametrize(("path", "options", "message"), [
    ("t.json", {}, "expected boards/NAME.json"), ("boards/T.json", {}, "expected boards/NAME.json"),
    ("boards/t.json", {"metrics": ["fame"]}, "unknown metric fame"),
    ("boards/t.json", {"suite": "fame"}, "fame"),
    ("boards/t.json", {"metrics": ["farm"], "rank_by": "composite"}, "a composite needs an anchor"),
    ("boards/t.json", {"metrics": ["farm"], "weights": {"fvd": 1.0}}, "a weight for fvd"),
    ("boards/t.json", {"metrics": ["farm"], "weights": {}, "rank_by": "wins"}, "expected a metric with a weight"),
])
def test_a_board_that_cannot_work_is_not_written(tmp_path, path, options, message):
    with pytest.raises(BoardError, match=message):
        init_board(tmp_path / path, **options)
    assert not list(tmp_path.rglob("*.json"))


def test_a_board_is_not_written_over(board):
    with pytest.raises(BoardError, match="is there already"):
        init_board(board.path, metrics=METRICS)


def test_a_board_file_names_each_metric_on_lines_of_its_own(board):
    assert json.loads(board.path.read_text())["metrics"]["farm"]["protocol"] is None
    assert board.path.read_text().count("\n") > 20
