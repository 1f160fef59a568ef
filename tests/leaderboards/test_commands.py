import pytest
from boards import make_board
from made_up_runs import METRICS, make_report

from evalkit.cli import main
from leaderboards.reading import read_board, read_board_rows

HOW = ["--seeds", "0,1", "--prompts-rewritten", "no", "--sampler", "euler", "--guidance", "none", "--size", "64x64",
       "--fps", "8"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return main(["leaderboard", *words])


def test_from_two_runs_to_a_ranking_in_the_terminal(place, capsys):
    assert run("init", "boards/t.json", "--metrics", ",".join(METRICS), "--title", "Ours and theirs") == 0
    for name, shift in (("ours", 0.2), ("theirs", 0.0)):
        make_report(place / name, shift=shift, prompts=12)
        assert run("add", name, "--board", "t", "--name", name, *HOW) == 0
    make_report(place / "real", prompts=12)
    assert run("add", "real", "--board", "t", "--name", "real", "--reference-row") == 0
    capsys.readouterr()
    assert run("rank", "--board", "t") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:3] == ["Ours", "and", "theirs,"]
    assert [line[:3] for line in lines[3:5]] == [["1", "1", "*"], ["2", "2", "theirs"]] and lines[3][3] == "ours"
    assert lines[5][0] == "real" and lines[5][-2:] == ["reference", "row"]
    assert run("withdraw", "ours", "--board", "t", "--reason", "a leak") == 0
    capsys.readouterr()
    run("rank", "--board", "t")
    assert "withdrawn: a leak" in capsys.readouterr().out


def test_a_board_like_a_run_takes_its_protocols_and_prompts(place, capsys):
    make_report(place / "run")
    assert run("init", "boards/t.json", "--metrics", "farm", "--like", "run", "--weights", "farm=2") == 0
    assert capsys.readouterr().out == "boards/t.json\n"
    board = read_board("boards/t.json")
    assert board.prompts.count == 4 and board.metrics["farm"].protocol and board.metrics["farm"].weight == 2


def test_a_checkpoint_and_links_stand_in_the_row(place):
    make_report(place / "run")
    run("init", "boards/t.json", "--metrics", "farm")
    assert run("add", "run", "--board", "boards/t.json", *HOW, "--checkpoint", "runs@dpo@300", "--steps", "20",
               "--link", "code=https://example.org/?a=b") == 0
    (row,) = read_board_rows(read_board("boards/t.json"))
    assert (row.name, row.checkpoint.run, row.checkpoint.step) == ("model", "runs@dpo", 300)
    assert row.links == {"code": "https://example.org/?a=b"} and row.generation.num_steps == 20


def test_a_link_that_is_none_leaves_no_row(place, capsys):
    make_report(place / "run")
    run("init", "boards/t.json", "--metrics", "farm")
    assert run("add", "run", "--board", "t", *HOW, "--link", "code=ftp://a") == 2
    assert "expected an http or https link" in capsys.readouterr().err and not list(place.glob("submissions/t/*"))


@pytest.mark.parametrize(("words", "message"), [
    (["rank", "--board", "fame"], "no board 'fame'; there are: simulated"),
    (["rank", "--board", "simulated", "--by", "fame"], "cannot rank by 'fame'"),
    (["rank", "--board", "simulated", "--draws", "1"], "expected --draws from 100"),
    (["withdraw", "fame", "--board", "simulated", "--reason", "no"], "no row 'fame' on board simulated; there"),
    (["add", "nothing", "--board", "simulated", "--name", "a", *HOW], "no results at nothing"),
    (["add", "nothing", "--board", "simulated", *HOW], "no results at nothing"),
    (["add", "run", "--board", "simulated", "--name", "a"], "give --seeds, --prompts-rewritten, --sampler, --guidance"),
    (["add", "run", "--board", "simulated", "--name", "a", *HOW[:-4], "--size", "64", "--fps", "8"], "WIDTHxHEIGHT"),
    (["add", "run", "--board", "simulated", "--name", "a", *HOW, "--link", "https://a"], "--link: expected NAME=URL"),
    (["add", "run", "--board", "simulated", "--name", "a", *HOW, "--checkpoint", "300"], "expected RUN@STEP"),
    (["add", "run", "--board", "simulated", "--name", "a", *HOW], "the run lacks clip_alignment, artifacts, dynamic"),
    (["init", "boards/u.json", "--weights", "farm"], "--weights: expected NAME=NUMBER"),
    (["init", "boards/u.json", "--weights", "farm=nan"], "--weights: expected numbers"),
    (["init", "boards/u.json", "--like", "nothing"], "no results at nothing"),
    (["verify", "model-00", "--board", "simulated", "--samples", "nothing", "--reference", "real"], "are not there"),
])
def test_what_cannot_be_done_is_said_with_exit_code_2(place, capsys, words, message):
    make_board(place, models=2, prompts=4, references=False)
    make_report(place / "run")
    before = sorted(place.rglob("*"))
    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_rank_checks_the_files_of_every_row(place, capsys):
    board = make_board(place, models=2, prompts=4, references=False)
    (board.folder / "model-01" / "videos.parquet").write_bytes(b"other")
    assert run("rank", "--board", "simulated") == 2
    assert "the file was changed" in capsys.readouterr().err
