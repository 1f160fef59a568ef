import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.cli import COMMANDS, main
from evalkit.commands.compare import print_comparison
from evalkit.compare import compare_reports
from evalkit.data.synthetic import write_samples
from evalkit.results import Report, protocol_id


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two made-up models, scored: `good` and `flickering`."""
    root = tmp_path_factory.mktemp("runs")
    os.environ["EVALKIT_CACHE"] = str(root / "cache")
    for quality in ("good", "flickering"):
        samples = root / f"{quality}-samples"
        write_samples(samples, 8, quality=quality, num_frames=16, size=64)
        code = main(["run", str(samples), "--prompts", str(samples / "prompts.jsonl"), "--out", str(root / quality),
                     "--metrics", "temporal_flicker,vbench_temporal_flickering", "--device", "cpu", "--workers", "1"])
        assert code == 0
    return root


def run(*arguments, capsys) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_run_writes_results_table_and_report(runs):
    report = Report.load(runs / "good")
    assert set(report.scores) == {"temporal_flicker", "vbench_temporal_flickering"}
    assert report.videos["temporal_flicker"].notna().all()
    page = (runs / "good" / "report.html").read_text()
    assert "temporal_flicker" in page


def test_compare_reads_like_a_finding(runs, capsys):
    code, text = run("compare", runs / "good", runs / "flickering", "--json", runs / "c.json", capsys=capsys)
    assert code == 0 and "temporal_flicker" in text
    found = {one["name"]: one for one in json.loads((runs / "c.json").read_text())["scores"]}
    assert found["temporal_flicker"]["verdict"] == "worse" and found["temporal_flicker"]["n_prompts"] == 8


def test_gate_exits_4_on_a_regression_and_0_within_the_margin(runs, capsys):
    gate = runs / "gate.toml"
    gate.write_text("[metrics.temporal_flicker]\nmargin = 0.0\n")
    code, text = run("compare", runs / "good", runs / "flickering", "--gate", gate, "--junit", runs / "j.xml",
                     capsys=capsys)
    assert code == 4 and "FAIL" in text and 'failures="1"' in (runs / "j.xml").read_text()
    assert run("compare", runs / "good", runs / "good", "--gate", gate, capsys=capsys)[0] == 0
    gate.write_text("[metrics.temporal_flicker]\nmargin = 5.0\n")
    assert run("compare", runs / "good", runs / "flickering", "--gate", gate, capsys=capsys)[0] == 0


@pytest.mark.parametrize("gate, code, message", [
    ("[metrics.fvd]\nmargin = 1\n", 4, "cannot be judged"),
    ("[metrics.temporal_flicker]\nmarginn = 1\n", 2, "marginn"),
    ("nonsense", 2, "gate.toml"),
])
def test_gate_that_cannot_be_judged_never_passes(runs, capsys, gate, code, message):
    (runs / "gate.toml").write_text(gate)
    found, text = run("compare", runs / "good", runs / "good", "--gate", runs / "gate.toml", capsys=capsys)
    assert found == code and message in text


def as_older_version(run_folder: Path, out: Path) -> Path:
    """The same run as if an older version of temporal_flicker had made it."""
    report = Report.load(run_folder)
    score = report.scores["temporal_flicker"]
    protocol = report.protocols[score.protocol] | {"version": 0}
    report.protocols[protocol_id(protocol)] = protocol
    report.scores["temporal_flicker"] = replace(score, protocol=protocol_id(protocol))
    report.save(out)
    return out


def test_videos_that_only_one_run_has_prompts_of_are_counted_and_said(runs, capsys):
    one, other = Report.load(runs / "good"), Report.load(runs / "flickering")
    whole, fewer = compare_reports(one, other), replace(one, videos=one.videos.iloc[3:])
    found = compare_reports(fewer, other)
    assert {score.n_unpaired for score in whole} == {0} and {score.n_unpaired for score in found} == {3}
    assert {score.n_prompts for score in found} == {5}
    print_comparison(one, other, whole)
    assert "hold" not in capsys.readouterr().out
    print_comparison(fewer, other, found)
    assert "base and new hold 3 videos of other prompts, too" in capsys.readouterr().out


def test_videos_of_one_name_are_paired_only_where_their_prompts_do_not_differ(runs, capsys):
    one = Report.load(runs / "good")
    other, without = (replace(one, videos=one.videos.assign(prompt=prompts)) for prompts in (
        [f"another {k}" for k in range(len(one.videos))], None))
    assert {found.paired_by for found in compare_reports(one, one)} == {"prompt"}
    assert {found.paired_by for found in compare_reports(one, without)} == {"video"}
    assert {found.verdict for found in compare_reports(one, other)} == {
        "not comparable: videos of the same name have other prompts"}
    print_comparison(one, without, compare_reports(one, without))
    assert "paired by file name" in capsys.readouterr().out


def test_other_protocols_are_not_compared_and_the_field_is_named(runs, capsys, tmp_path):
    older = as_older_version(runs / "good", tmp_path)
    code, _ = run("compare", older, runs / "flickering", "--json", tmp_path / "c.json", capsys=capsys)
    found = {one["name"]: one for one in json.loads((tmp_path / "c.json").read_text())["scores"]}
    assert code == 0 and "version: 0 != " in found["temporal_flicker"]["verdict"]
    assert found["temporal_flicker"]["difference"] is None
    assert found["vbench_temporal_flickering"]["difference"] is not None


def test_out_refuses_a_score_of_another_protocol_until_told_to_overwrite(runs, capsys, tmp_path):
    out = as_older_version(runs / "good", tmp_path / "out")
    again = ["run", runs / "good-samples", "--out", out, "--metrics", "temporal_flicker", "--device", "cpu",
             "--workers", "1", "--no-report", "--prompts", runs / "good-samples/prompts.jsonl"]
    code, text = run(*again, capsys=capsys)
    assert code == 2 and "another protocol" in text and "version: 0 != " in text
    assert run(*again, "--overwrite", capsys=capsys)[0] == 0
    kept = Report.load(out)
    assert set(kept.scores) == {"temporal_flicker", "vbench_temporal_flickering"}, "the other score is kept"
    assert kept.protocols[kept.scores["temporal_flicker"].protocol]["version"] >= 1


@pytest.mark.parametrize("arguments, message", [
    (["run", "no/such/folder", "--out", "OUT"], "no/such/folder"),
    (["run", "SAMPLES", "--out", "OUT", "--metrics", "fdv"], "unknown metric 'fdv'; there are:"),
    (["run", "SAMPLES", "--out", "OUT", "--metrics", "fvd"], "--reference"),
    (["run", "SAMPLES", "--out", "OUT", "--max-failures", "many"], "--max-failures"),
    (["run", "SAMPLES", "--out", "/proc/no", "--metrics", "temporal_flicker"], "cannot write there"),
    (["compare", "no/run", "no/other"], "no results at"),
    (["weights", "fetch", "no_such"], "unknown weights"),
    (["nonsense"], "unknown command; there are: quickstart"),
])
def test_what_cannot_be_done_exits_2_with_one_clear_line(runs, capsys, tmp_path, arguments, message):
    arguments = [{"OUT": tmp_path, "SAMPLES": runs / "good-samples"}.get(word, word) for word in arguments]
    code, text = run(*arguments, capsys=capsys)
    assert code == 2 and message in text and "Traceback" not in text


def test_failed_videos_exit_3_and_are_tolerated_when_told(runs, capsys, tmp_path):
    folder = tmp_path / "samples"
    write_samples(folder, 3, num_frames=8, size=32)
    (folder / "broken.mp4").write_bytes(b"\0" * 100)
    base = ["run", folder, "--metrics", "temporal_flicker", "--device", "cpu", "--workers", "1", "--no-report"]
    code, text = run(*base, "--out", tmp_path / "a", capsys=capsys)
    assert code == 3 and "broken.mp4" in text and "4 found, 3 scored, 1 failed" in text
    assert run(*base, "--out", tmp_path / "b", "--max-failures", "1", capsys=capsys)[0] == 0
    assert run(*base, "--out", tmp_path / "c", "--max-failures", "25%", capsys=capsys)[0] == 0


def test_cite_names_protocols_and_sources(runs, capsys):
    code, text = run("cite", runs / "good", capsys=capsys)
    score = Report.load(runs / "good").scores["temporal_flicker"]
    assert code == 0 and score.protocol in text and r"\pm" in text and "@software{evalkit" in text


def test_vbench_results_gain_intervals_and_compare(tmp_path, capsys):
    entries = [{"video_path": f"samples/a cat-{i}.mp4" if i < 3 else f"samples/a dog-{i}.mp4",
                "video_results": 0.9 + i / 100} for i in range(6)]
    mean = sum(entry["video_results"] for entry in entries) / 6
    (tmp_path / "x_eval_results.json").write_text(json.dumps({"subject_consistency": [mean, entries]}))
    code, _ = run("import", "vbench", tmp_path / "x_eval_results.json", "--out", tmp_path / "vb", capsys=capsys)
    report = Report.load(tmp_path / "vb")
    one = report.scores["vbench_subject_consistency"]
    assert code == 0 and one.value == pytest.approx(mean) and one.ci95 is not None
    assert report.scores["vbench_total_score"].value is None
    assert run("compare", tmp_path / "vb", tmp_path / "vb", capsys=capsys)[0] == 0


def test_catalogue_is_fresh():
    from evalkit.catalogue import PATH, build_catalogue
    from evalkit.features.base import available_extractors
    from evalkit.metrics.base import available_metrics

    tests_own = {name for name, made in (available_metrics() | dict(available_extractors())).items()
                 if made.__module__.split(".")[0] not in ("evalkit", "rewards")}
    shipped, built = json.loads(PATH.read_text()), json.loads(json.dumps(build_catalogue()))
    for kind, rows in built.items():
        rows = [row for row in rows if row["name"] not in tests_own]
        assert rows == shipped[kind], f"run `python -m evalkit.catalogue` ({kind} changed)"


@pytest.mark.parametrize("kind", ["metrics", "features", "datasets", "suites", "protocols"])
def test_list_prints_every_name(kind, capsys):
    from evalkit.commands.list import rows_of

    code, text = run("list", kind, capsys=capsys)
    assert code == 0 and all(row["name"] in text for row in rows_of(kind))


def test_help_and_list_import_no_torch_and_answer_at_once():
    for arguments in (["--help"], ["run", "--help"], ["world", "--help"], ["world", "read", "--help"],
                      ["list", "metrics"], ["list", "suites"]):
        check = f"import sys; from evalkit.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n" \
                "assert not {'torch', 'pandas', 'transformers'} & set(sys.modules), 'heavy import'"
        started = time.process_time()
        subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, timeout=60)
        assert time.process_time() - started < 1


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and len(capsys.readouterr().out) > 80
