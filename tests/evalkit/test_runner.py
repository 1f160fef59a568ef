import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit import Report, UsageError, build_reference, evaluate
from evalkit.data.synthetic import render_clip
from evalkit.data.video import write_video
from evalkit.metrics.base import PerClipMetric, SetMetric, available_metrics

sys.path.insert(0, str(Path(__file__).parent))
from engine_metrics import ALL


def write_videos(folder: Path, count: int, first_seed: int = 0, num_frames: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        clip = render_clip(seed=first_seed + i, num_frames=num_frames, size=64)
        write_video(folder / f"{i:03d}.mp4", clip.frames, fps=clip.fps)
        lines.append(json.dumps({"path": f"{i:03d}.mp4", "prompt": clip.prompt, "seed": i}))
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("samples"), 10)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("real"), 6, first_seed=100)


def score(videos, **options) -> Report:
    options = {"metrics": ALL[:-1], "cache": None, "workers": 1, "device": "cpu"} | options
    return evaluate(videos, **options)


def comparable(report: Report) -> dict:
    return {key: value for key, value in report.to_json().items() if key != "environment"}


def start(function, *arguments, **environment: str) -> multiprocessing.Process:
    """A forked process: this one's imports are its own, so that it starts at once."""

    def main():
        os.environ.update(environment)
        function(*arguments)

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    return process


def score_and_save(jobs: list[tuple[Path, Path]], real: Path, cache: Path | None = None) -> None:
    for samples, out in jobs:
        report = score(samples, metrics=ALL, reference=real, cache=cache)
        if os.environ.get("RANK", "0") == "0":
            report.save(out)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_every_score_has_value_interval_n_direction_and_protocol(videos, real):
    report = score(videos, metrics=ALL, reference=real, prompts=videos / "prompts.jsonl")
    assert list(report.scores) == ALL
    for name, one in report.scores.items():
        assert one.value is not None and one.n == 10, (name, one.reason)
        assert report.protocols[one.protocol]["metric"] == name
        assert one.higher_is_better is available_metrics()[name].higher_is_better
        if issubclass(available_metrics()[name], PerClipMetric):
            assert one.ci95[0] <= one.value <= one.ci95[1]
    assert report.counts == {"found": 10, "scored": 10, "failed": 0}
    assert report.videos["prompt"].notna().all() and len(report.videos) == 10
    assert report.protocols[report.scores["colour_distance"].protocol]["reference"]["n"] == 6


def test_interval_stays_within_the_metrics_range():
    frames = [render_clip(seed=i, num_frames=8, size=64).frames for i in range(2)]
    frames.append(frames[0][:1].expand(8, -1, -1, -1).clone())
    report = score(frames, fps=8, metrics=["vbench_temporal_flickering"])
    low, high = report.scores["vbench_temporal_flickering"].ci95
    assert 0 <= low < high <= 1


def test_mean_of_the_table_is_the_score(videos):
    report = score(videos)
    for name in ALL[:-1]:
        np.testing.assert_allclose(report.videos[name].mean(), report.scores[name].value, rtol=1e-12)


def test_one_worker_equals_two(videos, real):
    one = score(videos, metrics=ALL, reference=real, workers=1)
    two = score(videos, metrics=ALL, reference=real, workers=2)
    assert comparable(one) == comparable(two)


def test_adding_a_metric_changes_no_other_score_even_where_it_fails(videos):
    alone = score(videos, metrics=["colorfulness"])
    both = score(videos, metrics=["long_clip", "colorfulness"])
    assert both.scores["colorfulness"] == alone.scores["colorfulness"]
    assert both.scores["long_clip"].value is None and "too short" in both.scores["long_clip"].reason
    assert both.counts["failed"] == 10 and "long_clip: too short" in both.failures[0]["error"]


def test_cached_rerun_is_identical_and_decodes_nothing(videos, real, tmp_path, monkeypatch):
    first = score(videos, metrics=ALL, reference=real, cache=tmp_path)
    monkeypatch.setattr("evalkit.scoring.read_clips", lambda *a, **k: pytest.fail("decoded again"))
    again = score(videos, metrics=[name for name in ALL if name != "colour_distance"], cache=tmp_path)
    for name, one in again.scores.items():
        assert one == first.scores[name]


def test_a_second_metric_on_a_cached_run_equals_both_at_once(videos, tmp_path):
    score(videos, metrics=["colorfulness"], cache=tmp_path)
    stepwise = score(videos, cache=tmp_path)
    assert comparable(stepwise) == comparable(score(videos))


def test_changed_video_is_scored_anew(tmp_path):
    folder = write_videos(tmp_path / "v", 3)
    before = score(folder, metrics=["colorfulness"], cache=tmp_path / "c")
    write_video(folder / "001.mp4", render_clip(seed=77, num_frames=12, size=64).frames, fps=8)
    after = score(folder, metrics=["colorfulness"], cache=tmp_path / "c")
    changed = before.videos["colorfulness"] != after.videos["colorfulness"]
    assert changed.tolist() == [False, True, False]


def test_another_prompt_changes_the_cached_score_of_a_metric_that_reads_it(tmp_path):
    frames = [render_clip(seed=i, num_frames=4, size=32).frames for i in range(2)]
    for prompts, expected in ((["ab", "cd"], 2.0), (["abc", "def"], 3.0)):
        report = score(frames, prompts=prompts, metrics=["prompt_length"], cache=tmp_path)
        assert report.scores["prompt_length"].value == expected


def test_frames_in_memory_need_no_files():
    frames = torch.stack([render_clip(seed=i, num_frames=12, size=64).frames for i in range(3)])
    stacked = score(frames, fps=8)
    listed = score([one.float() / 255 for one in frames], fps=8)
    as_numpy = score(frames.permute(0, 1, 3, 4, 2).numpy(), fps=8)
    for other in (listed, as_numpy):
        np.testing.assert_allclose(other.scores["colorfulness"].value, stacked.scores["colorfulness"].value, rtol=1e-5)
    assert stacked.protocols[stacked.scores["colorfulness"].protocol]["decoder"].startswith("frames")


def test_files_and_frames_have_different_protocols(videos):
    frames = score([render_clip(seed=0, num_frames=12, size=64).frames], fps=8)
    assert frames.scores["colorfulness"].protocol != score(videos).scores["colorfulness"].protocol


def test_bad_videos_are_listed_and_the_rest_scored(videos, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(3):
        (folder / f"good{i}.mp4").write_bytes((videos / f"{i:03d}.mp4").read_bytes())
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video" * 50)
    (folder / "cut.mp4").write_bytes((videos / "000.mp4").read_bytes()[:700])
    report = score(folder, metrics=["colorfulness"], workers=2)
    assert report.counts == {"found": 6, "scored": 3, "failed": 3}
    assert {failure["path"] for failure in report.failures} == {"empty.mp4", "text.mp4", "cut.mp4"}
    assert report.scores["colorfulness"].n == 3
    assert report.videos["colorfulness"].isna().sum() == 3 and report.videos["error"].notna().sum() == 3


def test_a_process_that_dies_costs_only_its_own_video(videos, monkeypatch):
    from evalkit import scoring

    genuine = scoring.read_clips

    def deadly(source, *args, **kwargs):
        if source.name == "004.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(source, *args, **kwargs)

    monkeypatch.setattr(scoring, "read_clips", deadly)
    report = score(videos, metrics=["colorfulness"], workers=2)
    assert report.counts["failed"] == 1 and report.scores["colorfulness"].n == 9
    assert report.failures[0]["path"] == "004.mp4" and "ends the process" in report.failures[0]["error"]


@pytest.mark.parametrize("options, message", [
    ({"metrics": ["no_such"]}, "unknown metric 'no_such'; there are:"),
    ({"metrics": ["prompt_length"]}, "needs prompts"),
    ({"metrics": ["colour_distance"]}, "needs a reference"),
    ({"metrics": ["psnr"]}, "its own reference"),
    ({"metrics": None, "suite": "no_such"}, "unknown suite"),
    ({"metrics": None, "protocol": "no_such"}, "unknown protocol"),
    ({"reference": "missing.safetensors", "metrics": ["colour_distance"]}, "evalkit reference build"),
    ({"device": "cuda:7"}, "CUDA"),
])
def test_what_cannot_be_done_is_said_before_anything_is_decoded(videos, monkeypatch, options, message):
    monkeypatch.setattr("evalkit.scoring.read_clips", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(UsageError, match=message):
        score(videos, **options)


def test_no_videos_at_all_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="found no video"):
        score(tmp_path)


def test_a_suites_metric_that_lacks_an_input_is_null_with_the_reason(videos):
    report = score(videos, metrics=None, suite="standard")
    assert report.scores["fvd"].value is None and "--reference" in report.scores["fvd"].reason
    assert report.scores["clip_alignment"].value is None and "--prompts" in report.scores["clip_alignment"].reason
    assert report.scores["temporal_flicker"].value is not None


def test_reference_file_gives_the_same_score_as_the_videos_themselves(videos, real, tmp_path):
    features, failures = build_reference(real, metrics=["colour_distance"], cache=None, workers=1, device="cpu")
    path = features.save(tmp_path / "real.safetensors")
    from_file = score(videos, metrics=["colour_distance"], reference=path)
    assert failures == []
    assert from_file.scores == score(videos, metrics=["colour_distance"], reference=real).scores


def test_another_reference_is_another_protocol(videos, real):
    one = score(videos, metrics=["colour_distance"], reference=real)
    other = score(videos, metrics=["colour_distance"], reference=videos)
    assert one.scores["colour_distance"].protocol != other.scores["colour_distance"].protocol
    assert other.scores["colour_distance"].value == 0.0


def test_too_few_clips_are_null_with_the_reason(videos, real):
    few = [videos / "000.mp4", videos / "001.mp4"]
    one = score(few, metrics=["colour_distance"], reference=real).scores["colour_distance"]
    assert one.value is None and "at least 4" in one.reason


def test_paired_metrics_compare_each_video_with_its_own_reference(videos):
    report = score(videos, metrics=["psnr", "ssim"], paired=videos)
    assert report.scores["ssim"].value == pytest.approx(1.0, abs=1e-6)
    assert report.scores["psnr"].n == 10


def test_trivial_twins_of_the_videos_stand_beside_the_scores(videos):
    report = score(videos, metrics=["vbench_temporal_flickering"], trivial=True)
    twins = report.scores["vbench_temporal_flickering"].details["trivial"]
    assert set(twins) == {"frozen", "shuffled", "noise"}
    assert twins["frozen"] == pytest.approx(1.0) and twins["noise"] < report.scores["vbench_temporal_flickering"].value


def test_two_ranks_equal_one_process_also_when_one_has_no_video(videos, real, tmp_path):
    score_and_save([(videos, tmp_path / "alone")], real)
    jobs = [(videos, tmp_path / "many"), (videos / "000.mp4", tmp_path / "one")]
    port = free_port()
    ranks = [start(score_and_save, jobs, real, RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                   MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(2)]
    for rank in ranks:
        rank.join(timeout=120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert comparable(Report.load(tmp_path / "many")) == comparable(Report.load(tmp_path / "alone"))
    one = Report.load(tmp_path / "one")
    assert one.counts["found"] == 1 and one.scores["colorfulness"].value is not None


def test_killed_run_resumes_and_ends_identical(videos, real, tmp_path):
    score_and_save([(videos, tmp_path / "whole")], real)
    cache, out = tmp_path / "cache", tmp_path / "cut"
    for entries in (3, 12):
        process = start(score_and_save, [(videos, out)], real, cache)
        while process.is_alive() and sum(path.is_file() for path in cache.rglob("*")) < entries:
            time.sleep(0.002)
        process.kill()
        process.join()
    assert not (out / "results.json").exists()
    score_and_save([(videos, out)], real, cache)
    assert comparable(Report.load(out)) == comparable(Report.load(tmp_path / "whole"))


def test_every_registered_metric_declares_what_a_score_needs():
    for name, cls in available_metrics().items():
        assert isinstance(cls.higher_is_better, bool), name
        assert issubclass(cls, (PerClipMetric, SetMetric)), name
        assert cls.name == name and (cls.summary or cls.__doc__), name
