import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from evalkit.data.corruptions import CORRUPTIONS
from evalkit.data.synthetic import write_samples
from evalkit.metrics.base import PerClipMetric, available_metrics

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ladders.py"


@pytest.fixture(scope="module")
def ladders():
    spec = importlib.util.spec_from_file_location("ladders", SCRIPT)
    sys.modules["ladders"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def falling(clips=20):
    return np.random.default_rng(0).random((clips, 1)) - np.arange(6) / 10


def test_every_answer_names_a_corruption_and_a_per_clip_metric(ladders):
    assert set(ladders.ANSWERS) <= set(CORRUPTIONS)
    for score in ladders.ANSWERS.values():
        assert issubclass(available_metrics()[score.split(".")[0]], PerClipMetric)


def test_a_falling_score_passes_and_its_printed_mean_keeps_its_sign(ladders):
    ladder = ladders.Ladder("blur", "artifacts", -1, falling())
    assert ladder.passed and ladder.spearman == pytest.approx(1) and ladder.auc[0] == 1
    assert ladder.means == sorted(ladder.means)


def test_each_of_the_three_demands_can_fail_alone(ladders):
    flat_step, noisy, tied = falling(), falling(), falling()
    flat_step[:, 1] = flat_step[:, 0] + 0.001  # the mean rises once, each order of six is nearly right
    for row, order in zip(noisy[:11], np.random.default_rng(1).permuted(np.tile(np.arange(1, 6), (11, 1)), axis=1),
                          strict=True):
        row[1:] = row[0] - 0.001 * order - 1e-6 * np.arange(5)
    tied[:3] = np.arange(6) / 100  # 15 % of the clips get better
    verdicts = [(one.monotone, one.spearman >= 0.9, one.auc[0] >= 0.9)
                for one in (ladders.Ladder("blur", "x", 1, scores) for scores in (flat_step, noisy, tied))]
    assert verdicts == [(False, True, True), (True, False, True), (True, True, False)]


def test_a_score_that_ignores_the_defect_fails(ladders):
    ladder = ladders.Ladder("blur", "x", 1, np.ones((5, 6)))
    assert (ladder.monotone, ladder.spearman, ladder.auc[0], ladder.passed) == (False, 0, 0.5, False)


def test_a_clip_climbs_and_an_unreadable_one_says_why(ladders, tmp_path):
    write_samples(tmp_path, 1, num_frames=12, size=64)
    wanted = {"luma_flicker": ("temporal_flicker",)}
    scores = ladders.climb(ladders.Task(0, tmp_path / "0000-0.mp4", wanted, 12))
    values = [scores["luma_flicker", severity, "temporal_flicker"] for severity in range(6)]
    assert values == sorted(values, reverse=True) and values[0] > values[3]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert ladders.climb(ladders.Task(0, tmp_path / "bad.mp4", wanted, 12)).startswith("bad.mp4: ")


def test_clips_are_spread_over_the_list_and_their_absence_is_an_error(ladders, tmp_path):
    with pytest.raises(ValueError, match="got none"):
        ladders.find_clips(tmp_path, 3)
    (tmp_path / "data/ucf101/A").mkdir(parents=True)
    for name in "abcde":
        (tmp_path / f"data/ucf101/A/{name}.avi").touch()
    assert [path.stem for path in ladders.find_clips(tmp_path, 3)] == ["a", "c", "e"]


def test_an_unknown_corruption_is_refused_before_anything_is_read(ladders):
    with pytest.raises(ValueError, match="no ladder for blurr"):
        ladders.wanted_scores(ladders.Config(corruptions="blurr"))
