import json
import os
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import make_report
from safetensors.numpy import save

from evalkit import evaluate
from evalkit.cli import main
from evalkit.compare import check_gate
from evalkit.errors import UsageError
from evalkit.results import Report
from leaderboards.checkpoints import find_checkpoints, is_whole, snapshot
from leaderboards.reading import read_board, read_board_rows
from leaderboards.watching import Gate, Watcher, judge, split_command, start_watch

SAMPLER = """
import json, sys
from pathlib import Path
import numpy as np
checkpoint, prompts, out = map(Path, sys.argv[1:])
flicker = json.loads((checkpoint / "config.json").read_text())["flicker"]
for i, line in enumerate(prompts.read_text().splitlines()):
    rng = np.random.default_rng([i, int(10 * flicker)])
    light = 120 + flicker * rng.normal(size=(12, 1, 1, 1)) + rng.normal(size=(1, 24, 24, 1)) * 20
    np.save(out / json.loads(line)["path"], np.repeat(light.clip(0, 255).astype(np.uint8), 3, axis=3))
"""


def age(path, seconds=60):
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(file, (time.time() - seconds,) * 2)


def write_zip(path, cut=0):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", "x" * 1000)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])


# which checkpoints are whole

def test_checkpoints_are_found_by_the_number_in_their_name_and_in_the_order_of_steps(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", "tmp-checkpoint-30", ".hidden-40", "checkpoint-50.partial", "logs"):
        (tmp_path / name).mkdir()
    for name in ("epoch=3-step=7.ckpt", "last.ckpt", "events.123", "8.safetensors.tmp"):
        (tmp_path / name).touch()
    names = [one.name for one in find_checkpoints(tmp_path)]
    assert names == ["epoch=3-step=7.ckpt", "checkpoint-20", "checkpoint-100"]
    assert find_checkpoints(tmp_path / "not there yet") == []


def test_two_files_of_one_stem_are_two_checkpoints(tmp_path):
    for name in ("model-100.pt", "model-100.safetensors"):
        (tmp_path / name).touch()
    assert len({one.name for one in find_checkpoints(tmp_path)}) == 2


def test_a_safetensors_file_is_whole_from_its_last_byte_on(tmp_path):
    data = save({"a": np.zeros(100, np.float32), "b": np.ones(3, np.float32)})
    path = tmp_path / "step-1.safetensors"
    for end in (0, 4, 8, 40, len(data) - 1, len(data)):
        path.write_bytes(data[:end])
        age(path)
        assert is_whole(path, 10) == (end == len(data))


def test_what_torch_saves_is_whole_once_its_zip_has_a_directory(tmp_path):
    for cut in (0, 10, 900):
        write_zip(tmp_path / "step-1.pt", cut)
        age(tmp_path / "step-1.pt")
        assert is_whole(tmp_path / "step-1.pt", 10) == (cut == 0)


def test_a_folder_is_whole_with_all_its_shards_and_no_unfinished_file(tmp_path):
    folder = tmp_path / "step-1"
    folder.mkdir()
    assert not is_whole(folder, 0)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (folder / "1.safetensors").write_bytes(save({"a": np.zeros(2)}))
    age(folder)
    assert not is_whole(folder, 10)
    (folder / "2.safetensors").write_bytes(save({"b": np.zeros(2)}))
    age(folder)
    assert is_whole(folder, 10)
    (folder / "optimizer.bin.tmp").touch()
    age(folder)
    assert not is_whole(folder, 10)


def test_a_checkpoint_that_was_written_to_just_now_waits(tmp_path):
    path = tmp_path / "step-1.bin"
    path.write_bytes(b"old format")
    before = snapshot(path)
    assert not is_whole(path, 10) and is_whole(path, 0)
    path.write_bytes(b"old format, longer")
    assert snapshot(path) != before and not is_whole(tmp_path / "gone", 0)


# what is done with them

@pytest.fixture
def training(tmp_path):
    """A folder of checkpoints, prompts, and a sampler whose videos flicker as the checkpoint says."""
    (tmp_path / "sampler.py").write_text(SAMPLER)
    (tmp_path / "prompts.jsonl").write_text("".join(
        json.dumps({"path": f"{i:02d}.npy", "prompt": f"prompt {i}"}) + "\n" for i in range(12)))
    return tmp_path


def write_checkpoint(place, step, flicker):
    folder = place / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"flicker": flicker}))
    age(folder)


def test_a_regression_is_a_row_of_the_board_ends_with_4_and_names_prompts(training, monkeypatch, capsys):
    monkeypatch.chdir(training)
    write_checkpoint(training, 100, 0.0)
    write_checkpoint(training, 200, 30.0)
    (training / "checkpoints" / "step-300.partial").mkdir()
    (training / "base").mkdir()
    os.system(f"{sys.executable} sampler.py checkpoints/step-100 prompts.jsonl base")
    evaluate("base", prompts="prompts.jsonl", metrics=["temporal_flicker"], cache=None, workers=1).save("base-run")
    (training / "gate.toml").write_text("[metrics.temporal_flicker]\nmargin = 0.01\n")
    assert main(["leaderboard", "init", "boards/t.json", "--metrics", "temporal_flicker"]) == 0
    words = ["watch", "checkpoints", "--sample", f"{sys.executable} sampler.py {{checkpoint}} {{prompts}} {{out}}",
             "--prompts", "prompts.jsonl", "--metrics", "temporal_flicker", "--out", "watched", "--once",
             "--board", "t", "--run-name", "dpo", "--gate", "gate.toml", "--base", "base-run", "--workers", "1",
             "--device", "cpu", "--seeds", "0", "--prompts-rewritten", "no", "--sampler", "none", "--guidance", "none",
             "--size", "24x24", "--fps", "8"]
    assert main(words) == 4
    out = capsys.readouterr().out
    assert "step-200: temporal_flicker: loss" in out and "margin 0.01: regression; most on: 'prompt " in out
    assert "step-100: temporal_flicker" not in out and "step-300" not in out
    rows = read_board_rows(read_board("boards/t.json"))
    assert [(row.name, row.checkpoint.run, row.checkpoint.step) for row in rows] == [
        ("dpo 100", "dpo", 100), ("dpo 200", "dpo", 200)]
    assert main(words) == 0  # all done: a second look finds nothing new
    assert capsys.readouterr().out == ""


def test_a_command_that_fails_is_tried_twice_and_holds_up_no_other_checkpoint(training):
    write_checkpoint(training, 1, 0.0)
    said = []
    watcher = Watcher(training / "checkpoints", training / "out", "prompts",
                      f"{sys.executable} -c 1/0 {{checkpoint}} {{out}}", say=said.append)
    for _ in range(4):
        assert watcher.step() == 0
    assert watcher.failures == {"step-1": 2} and sum("ZeroDivisionError" in line for line in said) == 2
    watcher = replace(watcher, sample="no-such-command {checkpoint} {out}", failures={})
    watcher.step()
    assert said[-1] == "step-1: no command 'no-such-command'"


def test_a_checkpoint_that_changes_while_it_is_sampled_is_sampled_again(training):
    write_checkpoint(training, 1, 0.0)
    code = "import sys; open(sys.argv[1] + '/late', 'a').write('x')"
    (training / "late.py").write_text(code)
    said = []
    watcher = Watcher(training / "checkpoints", training / "out", "prompts",
                      f"{sys.executable} {training / 'late.py'} {{checkpoint}} {{out}}", settle=0, say=said.append)
    assert watcher.step() == 0 and not watcher.failures
    assert "written to while it was sampled" in said[-1] and not list((training / "out" / "step-1").iterdir())


@pytest.mark.parametrize("command", ["", "sample {checkpoint}", "sample {out}", "sample {checkpoint} {out} {seed}",
                                     "sample {checkpoint} {out} {", "sample '{checkpoint} {out}"])
def test_a_command_without_its_places_is_refused(command):
    with pytest.raises(UsageError, match="--sample: expected"):
        split_command(command)


def test_paths_reach_the_command_as_one_word_each_and_no_shell():
    assert split_command("run --a {checkpoint} '{out}/x y'") == ["run", "--a", "{checkpoint}", "{out}/x y"]


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "no folder nowhere"), ([".", "--every", "0"], "expected --every and --nights above 0"),
    ([".", "--gate", "gate.toml"], "expected --gate and --base together"),
    ([".", "--gate", "gate.toml", "--base", "run"], "expected [metrics.NAME] tables"),
    ([".", "--board", "fame"], "no board 'fame'")])
def test_what_cannot_be_watched_is_said_at_once(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.toml").write_text("margin = 1\n")
    make_report(tmp_path / "run")
    assert main(["watch", *words, "--prompts", "p", "--out", "out", "--once"]) == 2
    assert message in capsys.readouterr().err


def test_one_line_in_a_training_script_starts_the_command(tmp_path):
    assert start_watch(tmp_path / "nowhere", "--prompts", "p", "--out", str(tmp_path / "out")).wait(60) == 2


# the gate

def nights(base, shift, seed):
    """Reports of 30 nights: `base` with other noise, `shift` lower."""
    rng = np.random.default_rng(seed)
    for _ in range(30):
        videos = base.videos.assign(farm=base.videos["farm"] - shift + 0.05 * rng.standard_t(5, len(base.videos)))
        yield replace(base, videos=videos)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Report.load(make_report(tmp_path_factory.mktemp("base"), prompts=10))


def test_a_gate_raises_a_false_alarm_in_30_nights_in_fewer_than_1_of_20_cases(base):
    gate = Gate(base, {"metrics": {"farm": {"margin": 0.0}}})
    alarms = [any(judge(gate, report) for report in nights(base, 0.0, seed)) for seed in range(40)]
    once = replace(gate, nights=1)
    careless = [any(judge(once, report) for report in nights(base, 0.0, seed)) for seed in range(40)]
    assert sum(alarms) <= 2 and sum(careless) > 8  # without the correction, many a month has one


def test_a_loss_beyond_the_margin_is_seen_on_every_night_and_a_smaller_one_on_none(base):
    for margin, seen in ((0.05, True), (0.25, False)):
        gate = Gate(base, {"metrics": {"farm": {"margin": margin}}})
        assert {bool(judge(gate, report)) for report in list(nights(base, 0.2, 0))[:5]} == {seen}


def test_a_metric_of_the_gate_that_was_not_scored_cannot_be_judged(base):
    assert judge(Gate(base, {"metrics": {"fvd": {"margin": 1.0}}}), base) == ["fvd: cannot be judged: not in both runs"]


def test_one_look_judges_as_compare_does(base):
    from evalkit.compare import compare_reports

    found = compare_reports(base, next(nights(base, 0.2, 0)), ["farm"])
    (one,) = check_gate(found, {"metrics": {"farm": {}}})
    (thirty,) = check_gate(found, {"metrics": {"farm": {}}}, looks=30)
    assert f"[{-found[0].ci95[1]:.4g}, {-found[0].ci95[0]:.4g}]" in one.message
    assert not one.passed and thirty.message != one.message
