"""What is asked for is settled before anything is decoded: refused with one line, or meant as it is written."""
import os
import sys
from pathlib import Path

import pytest
import torch

from evalkit import Report, UsageError, build_reference, evaluate
from evalkit.cli import main
from evalkit.data.items import VideoItem
from evalkit.data.synthetic import render_clip
from evalkit.data.video import usable_decoder, write_video

sys.path.insert(0, str(Path(__file__).parent))
import engine_metrics


def frames(seed: int = 0) -> torch.Tensor:
    return render_clip(seed=seed, num_frames=8, size=32).frames


def score(samples, **options) -> Report:
    return evaluate(samples, **({"cache": None, "workers": 1, "device": "cpu", "metrics": ["colorfulness"]} | options))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "samples").mkdir()
    for i in range(2):
        write_video(tmp_path / "samples" / f"{i}.mp4", frames(i), fps=8)
    return tmp_path / "samples"


@pytest.mark.parametrize("options, message", [
    ({"fps": 0.0}, "--fps: expected a positive"),
    ({"fps": float("nan")}, "--fps: expected a positive"),
    ({"seed": -1}, "--seed: expected 0 or more"),
    ({"metrics": []}, "no metric named; there are:"),
    ({"device": "gpu"}, "expected auto, cpu, cuda"),
    ({"decoder": "ffmpeg"}, "--decoder: decoder: expected one of"),
    ({"metrics": None, "suite": "quick", "protocol": "ucf101_tats"}, "a suite or a protocol, got both"),
    ({"cache": "/proc/no"}, "cannot use the cache /proc/no"),
    ({"cache": __file__}, "cannot use the cache .* Not a directory"),
])
def test_what_makes_no_sense_is_refused_before_anything_is_decoded(folder, monkeypatch, options, message):
    monkeypatch.setattr("evalkit.scoring.read_clips", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(UsageError, match=message):
        score(folder, **options)


def test_a_rate_is_needed_also_where_only_the_sampling_reads_it():
    with pytest.raises(UsageError, match="vbench_dynamic_degree: needs a frame rate"):
        score([frames()], metrics=["vbench_dynamic_degree"])


def test_a_list_of_paths_takes_its_prompts_from_a_file(folder):
    (folder / "p.jsonl").write_text('{"path": "0.mp4", "prompt": "ab"}\n{"path": "1.mp4", "prompt": "abcd"}\n')
    report = score([folder / "1.mp4", folder / "0.mp4"], prompts=folder / "p.jsonl", metrics=["prompt_length"])
    assert report.videos["prompt_length"].tolist() == [4.0, 2.0]


def test_one_video_given_twice_is_refused(folder):
    with pytest.raises(UsageError, match=r"each video once, got '0\.mp4' twice"):
        score([folder / "0.mp4", folder / "0.mp4"])


def test_file_names_of_any_bytes_and_half_characters_are_scored_and_saved(folder, tmp_path):
    os.rename(folder / "0.mp4", os.fsencode(folder) + b"/caf\xe9.mp4")
    (folder / "broken\udcff.mp4").touch()
    report = score(folder)
    report.save(tmp_path / "out")
    loaded = Report.load(tmp_path / "out")
    assert sorted(loaded.videos["video"]) == ["1.mp4", r"broken\udcff.mp4", r"caf\udce9.mp4"]
    assert loaded.scores["colorfulness"].n == 2 and loaded.failures[0]["path"] == r"broken\udcff.mp4"
    prompted = score([frames()], prompts=["half \ud83d"], metrics=["prompt_length"], cache=tmp_path / "cache")
    prompted.save(tmp_path / "prompted")
    assert Report.load(tmp_path / "prompted").videos["prompt"].tolist() == [r"half \ud83d"]


@pytest.mark.parametrize("seeds, kept", [([2**53 + 1, None], [2**53 + 1, None]),
                                         ([2**64 - 1, 3], [str(2**64 - 1), "3"])])
def test_large_seeds_are_kept_to_the_last_digit(seeds, kept, tmp_path):
    report = score([VideoItem(frames(i), str(i), seed=seed) for i, seed in enumerate(seeds)])
    report.save(tmp_path)
    found = Report.load(tmp_path).videos["seed"]
    assert [None if found.isna()[i] else found[i] for i in range(2)] == kept


def test_whole_and_decimal_rates_are_one_protocol():
    scores = [score([frames()], fps=fps, metrics=["dynamic_degree"]).scores["dynamic_degree"] for fps in (8, 8.0)]
    assert scores[0] == scores[1]


def test_a_rate_given_for_some_videos_only_is_not_the_protocol_of_all(folder):
    items = [VideoItem(folder / "0.mp4", "0", fps=8.0), VideoItem(folder / "1.mp4", "1")]
    report = score(items, metrics=["dynamic_degree"])
    assert report.protocols[report.scores["dynamic_degree"].protocol]["fps_given"] == "per video"


def test_a_suites_protocol_rules_its_metrics(folder, tmp_path):
    suite = tmp_path / "mine.toml"
    suite.write_text('name = "mine"\nsummary = "s"\nmetrics = ["fvd", "colorfulness"]\nprotocol = "ucf101_10k"\n')
    report = score(folder, metrics=None, suite=str(suite))
    assert list(report.scores) == ["fvd", "colorfulness"]
    protocol = report.protocols[report.scores["fvd"].protocol]
    assert protocol["clips"]["placement"] == "random" and protocol["clips"]["crop"] == 256


def test_a_reference_file_of_another_protocol_is_refused_with_the_field_that_differs(folder, tmp_path, monkeypatch):
    features, _ = build_reference(folder, metrics=["colour_distance"], cache=None, workers=1, device="cpu")
    path = features.save(tmp_path / "real.safetensors")
    monkeypatch.setattr(engine_metrics.MeanColour, "version", 2)
    with pytest.raises(UsageError, match=r"colour_distance: the reference .*version: 1 != 2.*reference build"):
        score(folder, metrics=["colour_distance"], reference=path)
    suite = tmp_path / "mine.toml"
    suite.write_text('name = "mine"\nsummary = "s"\nmetrics = ["colour_distance", "colorfulness"]\n')
    report = score(folder, metrics=None, suite=str(suite), reference=path)
    assert "version: 1 != 2" in report.scores["colour_distance"].reason
    assert report.scores["colorfulness"].value is not None


def test_references_that_differ_in_their_suffix_alone_are_ambiguous(folder, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in ("0.mp4", "0.webm", "1.mp4"):
        (truth / name).touch()
    with pytest.raises(UsageError, match=r"--paired: 0\.mp4 and 0\.webm"):
        score(folder, metrics=["psnr"], paired=truth)


def test_automatic_decoder_is_settled_and_never_part_of_a_protocol(folder):
    assert usable_decoder("auto") in ("pyav", "torchcodec")
    report = score(folder, decoder="auto")
    assert report.protocols[report.scores["colorfulness"].protocol]["decoder"] == f"{usable_decoder('auto')}/1"


def test_a_model_is_named_after_its_folder_full_stops_and_all(folder, tmp_path, capsys):
    folder.rename(tmp_path / "Wan2.1")
    arguments = ["--metrics", "colorfulness", "--no-report", "--cache", "none", "--device", "cpu", "--workers", "1"]
    assert main(["run", str(tmp_path / "Wan2.1"), "--out", str(tmp_path / "out"), *arguments]) == 0
    assert Report.load(tmp_path / "out").model == "Wan2.1"
