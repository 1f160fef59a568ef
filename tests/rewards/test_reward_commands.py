"""evalkit rewards score, label and serve on the command line, and names that no file can shadow."""
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli import main
from evalkit.data.synthetic import write_samples
from evalkit.data.video import read_video
from evalkit.features.weights import sha256_of
from evalkit.mini.weights import save_weights
from evalkit.runner import evaluate
from rewards import load_reward
from rewards.data import read_pairs
from rewards.farm import Farm
from rewards.preference import PreferenceNetwork

BROKEN = "9-broken.mp4"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two prompts with two samples each, 8 frames of 48 x 48, and prompts.jsonl beside them."""
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder, 2, 2, num_frames=8, size=48)
    return folder


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `evalkit rewards …` with a cache of its own: (exit code, stdout, stderr)."""
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))

    def run(*words):
        code = main(["rewards", *map(str, words), "--workers", "1"])
        return code, *capsys.readouterr()

    return run


def prompts_of(folder):
    return folder / "prompts.jsonl"


def test_score_prints_each_videos_reward_and_their_mean_with_interval(samples, tmp_path, command):
    out = tmp_path / "scores.json"
    code, printed, _ = command("score", samples, "--reward", "farm", "--prompts", prompts_of(samples), "--json", out)
    assert code == 0
    told = json.loads(out.read_text())
    values = [row["reward"] for row in told["videos"]]
    clip = read_video(samples / told["videos"][0]["video"], Farm.spec)
    assert values[0] == pytest.approx(Farm()(clip.frames[None].float() / 255, fps=clip.fps).item(), abs=1e-5)
    assert told["n"] == 4 and told["mean"] == pytest.approx(sum(values) / 4)
    assert told["ci95"][0] <= told["mean"] <= told["ci95"][1]
    assert "coherence" in told["videos"][0]["components"]
    for row in told["videos"]:
        assert f"{row['video']}  {row['reward']:.4f}  aesthetic" in printed
    assert f"farm: mean {told['mean']:.4f} [" in printed and "n = 4" in printed


def test_score_is_the_metrics_number_times_its_sign(samples, tmp_path, command):
    out = tmp_path / "scores.json"
    report = evaluate(samples, metrics=["artifacts"], cache=tmp_path / "cache", workers=1)  # one cache for both
    assert command("score", samples, "--reward", "artifacts", "--json", out)[0] == 0
    assert json.loads(out.read_text())["mean"] == pytest.approx(-report.scores["artifacts"].value, abs=1e-6)


def test_score_prints_csv(samples, command):
    code, printed, _ = command("score", samples, "--reward", "temporal_flicker", "--csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert code == 0 and len(rows) == 4
    assert set(rows[0]) == {"video", "prompt", "reward", "luma", "colour", "local", "cuts"}
    assert all(0 < float(row["reward"]) <= 1 for row in rows)


def test_video_that_cannot_be_read_is_told_and_the_rest_is_scored(samples, tmp_path, command):
    folder = tmp_path / "with-broken"
    folder.mkdir()
    for path in samples.glob("*.mp4"):
        (folder / path.name).symlink_to(path)
    (folder / BROKEN).write_bytes(b"no video")
    code, printed, errors = command("score", folder, "--reward", "farm")
    assert code == 3 and "n = 4, failed 1" in printed and f"failed: {BROKEN}" in errors
    assert command("score", folder, "--reward", "farm", "--max-failures", "1")[0] == 0


def test_prompts_that_a_reward_needs_are_asked_for_before_anything_is_decoded(samples, tmp_path, command):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.mp4").write_bytes(b"never read")
    code, _, errors = command("score", tmp_path / "bare", "--reward", "clip_alignment_mini")
    assert code == 2 and "needs prompts" in errors and "--prompts" in errors


@pytest.mark.parametrize("words, why", [
    (("--reward", "no_such"), "no such folder"),
    (("--reward", "farm", "--device", "tpu"), "--device"),
    (("--reward", "farm", "--max-failures", "x"), "--max-failures"),
    (("--reward", "farm", "--prompts", "nowhere.txt"), "nowhere.txt"),
])
def test_bad_options_are_one_clear_error(samples, command, words, why):
    code, _, errors = command("score", samples, *words)
    assert code == 2 and why in errors and "Traceback" not in errors


def test_folder_that_holds_no_trained_reward_is_told(samples, tmp_path, command):
    (tmp_path / "empty").mkdir()
    code, _, errors = command("score", samples, "--reward", tmp_path / "empty")
    assert code == 2 and "empty" in errors and "Traceback" not in errors


def test_folder_of_a_trained_reward_is_scored_like_a_name(tmp_path, command):
    folder, trained, out = tmp_path / "videos", tmp_path / "my-reward", tmp_path / "scores.json"
    write_samples(folder, 1, 2, size=32)
    trained.mkdir()
    save_weights(PreferenceNetwork(), trained / "preference.safetensors")
    (trained / "card.json").write_text(json.dumps({"sha256": sha256_of(trained / "preference.safetensors")}))
    assert command("score", folder, "--reward", trained, "--prompts", prompts_of(folder), "--json", out)[0] == 0
    told = json.loads(out.read_text())
    assert told["reward"] == "preference" and told["n"] == 2
    assert set(told["videos"][0]["components"]) == {"visual", "motion", "text"}


def test_label_chooses_the_better_sample_of_each_prompt(samples, tmp_path, command):
    out = tmp_path / "pairs.jsonl"
    code, printed, _ = command("label", samples, "--reward", "farm", "--prompts", prompts_of(samples), "--out", out)
    assert code == 0 and "2 pairs of 2 prompts" in printed
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [set(row) for row in told] == [{"chosen", "rejected", "prompt", "tie", "dimension", "rater"}] * 2
    reward = load_reward("farm")
    for row in told:
        clips = [read_video(out.parent / row[side], Farm.spec) for side in ("chosen", "rejected")]
        better, worse = (reward(clip.frames[None].float() / 255, fps=clip.fps).item() for clip in clips)
        assert better > worse
        assert row["rater"] == "reward:farm" and row["dimension"] == "overall" and row["tie"] is False
    assert len({row["prompt"] for row in told}) == 2
    assert len(read_pairs(out).pairs) == 2  # and whoever trains on them finds the videos


def test_difference_below_the_margin_is_a_tie(samples, tmp_path, command):
    out = tmp_path / "pairs.jsonl"
    words = ("label", samples, "--reward", "farm", "--prompts", prompts_of(samples), "--out", out)
    assert command(*words, "--margin", "10")[0] == 0
    assert all(json.loads(line)["tie"] for line in out.read_text().splitlines())
    assert command(*words, "--margin", "-1")[0] == 2


def test_label_resumes_from_the_scores_it_has(samples, tmp_path, command, monkeypatch):
    out = tmp_path / "pairs.jsonl"
    words = ("label", samples, "--reward", "farm", "--prompts", prompts_of(samples), "--out", out)
    measured, measure = [], Farm.measure

    def stops_after_two(self, *args):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(1)
        return measure(self, *args)

    monkeypatch.setattr(Farm, "measure", stops_after_two)
    assert command(*words)[0] == 130
    assert not out.exists()  # nothing half written
    measured.clear()
    assert command(*words)[0] == 0
    assert len(measured) == 2  # the other two came from the cache
    first = out.read_text()
    assert command(*words)[0] == 0 and out.read_text() == first


def test_label_without_prompts_or_with_single_samples_is_a_clear_error(samples, tmp_path, command):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in samples.glob("*.mp4"):
        (bare / path.name).symlink_to(path)
    code, _, errors = command("label", bare, "--reward", "farm", "--out", tmp_path / "pairs.jsonl")
    assert code == 2 and "4 of 4 videos have none" in errors and "--prompts" in errors
    manifest = bare / "own.jsonl"
    manifest.write_text("".join(json.dumps({"path": path.name, "prompt": path.name}) + "\n"
                                for path in sorted(bare.glob("*.mp4"))))
    code, _, errors = command("label", manifest, "--reward", "farm", "--out", tmp_path / "pairs.jsonl")
    assert code == 2 and "two samples" in errors


def test_label_does_not_replace_what_people_said(samples, tmp_path, command):
    out = tmp_path / "pairs.jsonl"
    out.write_text(json.dumps({"chosen": "a.mp4", "rejected": "b.mp4", "prompt": "p", "rater": "ann"}) + "\n")
    words = ("label", samples, "--reward", "farm", "--prompts", prompts_of(samples), "--out", out)
    code, _, errors = command(*words)
    assert code == 2 and "pairs of ann" in errors and "ann" in out.read_text()
    assert command(*words, "--overwrite")[0] == 0 and "ann" not in out.read_text()


def test_reward_of_a_name_is_found_though_a_folder_of_that_name_lies_here(samples, tmp_path, command, monkeypatch):
    (tmp_path / "farm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert command("score", samples, "--reward", "farm")[0] == 0


def test_file_called_rewards_in_the_working_folder_does_not_shadow_ours(tmp_path):
    (tmp_path / "rewards.py").write_text("raise SystemExit('the wrong rewards')\n")
    (tmp_path / "farm.py").write_text("raise SystemExit('the wrong farm')\n")
    evalkit = Path(sys.executable).parent / "evalkit"
    found = subprocess.run([evalkit, "rewards", "list", "--json"], cwd=tmp_path, capture_output=True, text=True,
                           timeout=60)
    assert found.returncode == 0, found.stderr
    assert {"farm", "temporal_flicker"} <= set(json.loads(found.stdout))
