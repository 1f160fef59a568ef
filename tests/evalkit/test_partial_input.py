"""Videos that lack something which others of the set have: each costs its own score and no other."""
import sys
from pathlib import Path

import pytest
import torch

from evalkit import evaluate
from evalkit.cache import Cache
from evalkit.data.items import VideoItem
from evalkit.data.synthetic import render_clip
from evalkit.data.video import write_video
from evalkit.features.base import make_extractor
from evalkit.metrics.base import _METRICS, SetMetric, SetScore
from evalkit.scoring import Scorer, _Loaded

sys.path.insert(0, str(Path(__file__).parent))
import engine_metrics


class PromptsSeen(SetMetric):
    """How many clips it was given, and that each has a prompt."""

    name = "prompts_seen"
    higher_is_better = True
    needs_reference = ""
    group_by_prompt = True
    spec = engine_metrics.ColourDistance.spec
    extractor_keys = ("mean_colour",)

    def compute(self, generated, reference, prompts, seed):
        assert all(prompts)
        return SetScore(float(len(prompts)), None, len(prompts))


def frames(seed: int, count: int = 8, size: int = 32) -> torch.Tensor:
    return render_clip(seed=seed, num_frames=count, size=size).frames


def score(samples, **options):
    return evaluate(samples, **({"cache": None, "workers": 1, "device": "cpu"} | options))


@pytest.fixture
def pairs(tmp_path) -> tuple[Path, Path]:
    """Three videos; the reference has the first, a damaged second and no third."""
    samples, truth = tmp_path / "samples", tmp_path / "truth"
    samples.mkdir()
    truth.mkdir()
    for i in range(3):
        write_video(samples / f"{i}.mp4", frames(i), fps=8)
    write_video(truth / "0.mp4", frames(0), fps=8)
    (truth / "1.mp4").write_bytes(b"damaged")
    return samples, truth


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_or_damaged_pair_costs_the_paired_score_of_its_video_alone(pairs, workers):
    samples, truth = pairs
    report = score(samples, metrics=["psnr", "colorfulness"], paired=truth, workers=workers)
    assert report.scores["psnr"].n == 1 and report.scores["colorfulness"].n == 3
    reasons = {failure["path"]: failure["error"] for failure in report.failures}
    assert set(reasons) == {"1.mp4", "2.mp4"}
    assert reasons["1.mp4"].startswith("psnr: its reference: ")
    assert reasons["2.mp4"] == "psnr: its reference: there is none of this name in --paired"


def test_a_video_that_a_metric_refuses_is_a_failure_and_not_the_end(tmp_path):
    for name, size in (("small.mp4", 8), ("usual.mp4", 32)):
        write_video(tmp_path / name, torch.full((8, 3, size, size), 90, dtype=torch.uint8), fps=8)
    report = score(tmp_path, metrics=["ssim"], paired=tmp_path)
    assert report.scores["ssim"].n == 1
    assert report.failures == [{"path": "small.mp4", "error": "ssim: ValueError: ssim: expected frames of at least 11 "
                                                              "pixels a side, got (8, 8)"}]


def test_videos_without_prompt_are_no_samples_of_one_prompt(monkeypatch):
    monkeypatch.setitem(_METRICS, "prompts_seen", PromptsSeen)
    report = score([frames(i) for i in range(4)], prompts=["a ball", "a ball", "", None], metrics=["prompts_seen"])
    assert report.scores["prompts_seen"].value == 2
    assert [failure["error"] for failure in report.failures] == ["prompts_seen: no prompt for this video"] * 2


def test_trivial_twins_of_another_seed_are_not_taken_from_the_cache(tmp_path):
    def twins(seed, cache):
        report = score([frames(0, 16)], metrics=["vbench_temporal_flickering"], trivial=True, seed=seed, cache=cache)
        return report.scores["vbench_temporal_flickering"].details["trivial"]

    assert twins(0, tmp_path) == twins(0, None)
    assert twins(1, tmp_path) == twins(1, None) != twins(0, None)


def test_extractors_follow_the_device_also_where_their_features_are_cached(monkeypatch):
    moved = []
    extractor = make_extractor("mean_colour")
    monkeypatch.setattr(extractor, "to", lambda device: moved.append(device) or extractor)
    metric = PromptsSeen()
    loaded = _Loaded(None, VideoItem(None, "x"), features={(metric.spec, "mean_colour"): torch.zeros(1, 6)})
    Scorer({}, Cache(None))._features(metric, loaded)
    assert moved == ["cpu"]
