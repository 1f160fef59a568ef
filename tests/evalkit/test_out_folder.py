"""What a second command does to the results that a folder holds, and to files that cannot be written."""
import json
import sys
from pathlib import Path

import pytest

from evalkit import Report
from evalkit.cli import main
from evalkit.compare import check_gate
from evalkit.data.synthetic import render_clip
from evalkit.data.video import write_video
from evalkit.errors import UsageError

sys.path.insert(0, str(Path(__file__).parent))
import engine_metrics  # noqa: F401

ENGINE = ["--no-report", "--device", "cpu", "--workers", "1"]


def run(*arguments, capsys) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def samples(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "samples").mkdir()
    for i in range(2):
        write_video(tmp_path / "samples" / f"{i}.mp4", render_clip(seed=i, num_frames=8, size=32).frames, fps=8)
    return tmp_path / "samples"


def test_a_kept_score_keeps_its_failures(samples, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("run", samples, "--out", out, "--metrics", "long_clip", *ENGINE, capsys=capsys)[0] == 3
    code, text = run("run", samples, "--out", out, "--metrics", "colorfulness", "--max-failures", "5%", *ENGINE,
                     capsys=capsys)
    assert code == 3 and "2 found, 0 scored, 2 failed" in text
    report = Report.load(out)
    assert set(report.scores) == {"colorfulness", "long_clip"} and report.scores["colorfulness"].n == 2
    assert report.counts == {"found": 2, "scored": 0, "failed": 2}
    assert [failure["path"] for failure in report.failures] == ["0.mp4", "1.mp4"]


def test_scores_of_other_prompts_are_replaced_and_named(samples, tmp_path, capsys):
    out = tmp_path / "out"
    for prompt, metric in (("a red ball", "prompt_length"), ("a blue cube", "colorfulness")):
        lines = [json.dumps({"path": f"{i}.mp4", "prompt": prompt}) for i in range(2)]
        (tmp_path / "p.jsonl").write_text("\n".join(lines))
        code, text = run("run", samples, "--out", out, "--prompts", tmp_path / "p.jsonl", "--metrics", metric, *ENGINE,
                         capsys=capsys)
        assert code == 0
    assert "held prompt_length of other videos or prompts: replaced" in text
    assert list(Report.load(out).scores) == ["colorfulness"]


@pytest.mark.parametrize("tolerated", ["nan", "inf", "nan%", "-1", "%"])
def test_a_tolerance_that_is_no_number_is_refused(samples, tmp_path, capsys, tolerated):
    code, text = run("run", samples, "--out", tmp_path / "o", f"--max-failures={tolerated}", *ENGINE, capsys=capsys)
    assert code == 2 and "--max-failures" in text


def test_an_import_refuses_to_replace_a_score_of_another_protocol(samples, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("run", samples, "--out", out, "--metrics", "vbench_temporal_flickering", *ENGINE, capsys=capsys)[0] == 0
    entries = [{"video_path": f"a cat-{i}.mp4", "video_results": 0.9} for i in range(3)]
    (tmp_path / "x_eval_results.json").write_text(json.dumps({"temporal_flickering": [0.9, entries]}))
    arguments = ["import", "vbench", tmp_path / "x_eval_results.json", "--out", out]
    code, text = run(*arguments, capsys=capsys)
    assert code == 2 and "another protocol" in text
    assert run(*arguments, "--overwrite", capsys=capsys)[0] == 0


def test_a_reference_of_nothing_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.mp4").write_bytes(b"damaged")
    code, _ = run("reference", "build", tmp_path / "real", "--out", tmp_path / "r.safetensors", "--metrics",
                  "colour_distance", "--device", "cpu", "--workers", "1", capsys=capsys)
    assert code == 3 and not (tmp_path / "r.safetensors").exists()


def test_a_reference_that_cannot_be_written_is_refused_before_anything_is_decoded(samples, monkeypatch, capsys):
    monkeypatch.setattr("evalkit.scoring.read_clips", lambda *a, **k: pytest.fail("decoded"))
    code, text = run("reference", "build", samples, "--out", "/proc/no/r.safetensors", "--metrics", "colour_distance",
                     capsys=capsys)
    assert code == 2 and "cannot write there" in text


def test_a_comparison_that_cannot_be_written_exits_2_in_one_line(samples, tmp_path, capsys):
    out = tmp_path / "out"
    run("run", samples, "--out", out, "--metrics", "colorfulness", *ENGINE, capsys=capsys)
    code, text = run("compare", out, out, "--json", samples, capsys=capsys)
    assert code == 2 and "Traceback" not in text


def test_junit_of_runs_that_cannot_be_compared_is_empty(samples, tmp_path, capsys):
    for name, metric in (("a", "long_clip"), ("b", "long_clip")):
        run("run", samples, "--out", tmp_path / name, "--metrics", metric, *ENGINE, capsys=capsys)
    code, _ = run("compare", tmp_path / "a", tmp_path / "b", "--junit", tmp_path / "j.xml", capsys=capsys)
    assert code == 0 and 'tests="0"' in (tmp_path / "j.xml").read_text()


@pytest.mark.parametrize("gate", [
    {"metrics": {"farm": 0.02}}, {"metrics": {"farm": {"margin": "0.02"}}}, {"metrics": {"farm": {"margin": -1}}},
    {"metrics": {"farm": {"margin": float("nan")}}}, {"metrics": []}, {"metrics": 3}, {},
])
def test_a_gate_that_is_none_is_refused(gate):
    with pytest.raises(UsageError, match=r"gate: expected \[metrics\.NAME\]"):
        check_gate([], gate)
