"""VBench's result files become tables without inventing a number, and its total is the published one."""
from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from evalkit.vbench_import import QUALITY, SEMANTIC, import_vbench_results, vbench_total


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def entry(video: str, result: object, **more: object) -> dict:
    return {"video_path": video, "video_results": result, **more}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One file with every form that VBench writes: numbers, booleans, lists, extra fields, percent."""
    return write(tmp_path / "results_2024_eval_results.json", {
        "subject_consistency": [0.93, [entry("./v/A cat.-0.mp4", 0.9), entry("./v/A cat.-10.mp4", 0.95)]],
        "dynamic_degree": [0.5, [entry("./v/A cat.-0.mp4", True), entry("./v/A cat.-10.mp4", False)]],
        "imaging_quality": [0.61, [entry("./v/A cat.-0.mp4", 60.0), entry("./v/A cat.-10.mp4", 0.5)]],
        "appearance_style": [0.2, [entry("./v/A dog, Van Gogh style-1.mp4", [0.1, 0.3], frame_results=[0.1, 0.3])]],
        "human_action": [1.0, [entry("./v/A person is riding a bike-0.mp4", True, cor_num_per_video=1)], "ignored"],
    })


def test_every_form_of_result_becomes_a_column(results):
    table = import_vbench_results(results).videos
    assert list(table.columns) == ["video", "prompt", "sample", "subject_consistency", "dynamic_degree",
                                   "imaging_quality", "appearance_style", "human_action"]
    assert table["video"].tolist() == ["A cat.-0.mp4", "A cat.-10.mp4", "A dog, Van Gogh style-1.mp4",
                                       "A person is riding a bike-0.mp4"]
    assert table["prompt"].tolist()[:3] == ["A cat.", "A cat.", "A dog, Van Gogh style"]
    assert table["sample"].tolist() == [0, 10, 1, 0]
    assert table["dynamic_degree"].tolist()[:2] == [1.0, 0.0]
    assert table["appearance_style"][2] == pytest.approx(0.2)


def test_a_dimension_that_a_video_lacks_is_missing_and_not_zero(results):
    table = import_vbench_results(results).videos
    assert table["human_action"].isna().tolist() == [True, True, True, False]
    assert (table["human_action"].count(), table["subject_consistency"].count()) == (1, 2)


def test_imaging_quality_is_brought_to_the_scale_of_its_aggregate(results):
    found = import_vbench_results(results)
    assert found.videos["imaging_quality"].tolist()[:2] == pytest.approx([0.6, 0.005])
    assert found.aggregates["imaging_quality"] == 0.61


def test_aggregates_are_vbenchs_own_and_not_our_mean(results):
    assert import_vbench_results(results).aggregates["subject_consistency"] == 0.93  # the videos' mean is 0.925


def test_a_folder_with_one_file_per_dimension_is_read_as_one(tmp_path):
    for name, value in (("Subject Consistency", 0.9), ("scene", 0.4)):
        write(tmp_path / name / "m_eval_results.json", {name: [value, [entry(f"/data/{name}/a-0.mp4", value)]]})
    write(tmp_path / "m_full_info.json", [])
    found = import_vbench_results(tmp_path)
    assert found.aggregates == {"subject_consistency": 0.9, "scene": 0.4}
    assert found.videos["video"].tolist() == ["scene/a-0.mp4", "Subject Consistency/a-0.mp4"]  # two videos, not one


@pytest.mark.parametrize(("content", "message"), [
    ("{", "expected JSON"),
    ([], "expected {dimension: "),
    ({"scene": 0.4}, "scene: expected"),
    ({"scene": [0.4, []]}, "scene: expected"),
    ({"scene": [None, [entry("a.mp4", 1)]]}, "scene: aggregate: expected a finite number"),
    ({"scene": [0.4, [entry("a.mp4", 1), {"video_path": "b.mp4"}]]}, r"entry 1 \(b.mp4\): expected a finite .*None"),
    ({"scene": [0.4, [{"video_results": 1}]]}, "entry 0: expected an object with video_path"),
    ({"scene": [0.4, [entry("a.mp4", "good")]]}, "got 'good'"),
    ({"scene": [0.4, [entry("a.mp4", [])]]}, r"got \[\]"),
    ({"scene": [0.4, [entry("a.mp4", math.nan)]]}, r"scene: entry 0 \(a.mp4\): .*got nan"),
    ({"scene": [math.inf, [entry("a.mp4", 1)]]}, "aggregate: .*got inf"),
    ({"scene": [0.4, [entry("a.mp4", 1), entry("a.mp4", 0)]]}, "a.mp4 scores 0 here and 1 before"),
    ({"scene": [0.4, [entry("a.mp4", 1)]], "Scene": [0.4, [entry("a.mp4", 1)]]}, "Scene: this dimension was read"),
])
def test_nonsense_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        import_vbench_results(write(tmp_path / "x_eval_results.json", content))


def test_a_missing_file_or_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a VBench result file"):
        import_vbench_results(tmp_path)
    with pytest.raises(ValueError, match="expected a VBench result file"):
        import_vbench_results(tmp_path / "nowhere.json")


def test_the_best_and_worst_of_every_dimension_normalise_to_one_and_zero():
    ranges = QUALITY | SEMANTIC
    best = vbench_total({name: high for name, (_, high) in ranges.items()})
    worst = vbench_total({name: low for name, (low, _) in ranges.items()})
    assert (best.quality, best.semantic, best.total) == pytest.approx((1, 1, 1))
    assert (worst.quality, worst.semantic, worst.total) == pytest.approx((0, 0, 0))


def test_all_zeros_reproduce_the_negative_total_that_vbench_gives_an_empty_submission():
    """-0.57: the published constants and weights, met from outside."""
    assert vbench_total(dict.fromkeys(QUALITY | SEMANTIC, 0.0)).total == pytest.approx(-0.57, abs=0.005)


def test_dynamic_degree_weighs_half_and_quality_four_fifths():
    base = {name: low for name, (low, _) in (QUALITY | SEMANTIC).items()}
    assert vbench_total(base | {"dynamic_degree": 1.0}).quality == pytest.approx(0.5 / 6.5)
    assert vbench_total(base | {"imaging_quality": 1.0}).total == pytest.approx(0.8 / 6.5)
    assert vbench_total(base | {"temporal_style": 0.364}).total == pytest.approx(0.2 / 9)


def test_a_missing_dimension_leaves_no_total_and_says_so():
    complete = {name: high for name, (_, high) in (QUALITY | SEMANTIC).items()}
    del complete["scene"]
    found = vbench_total(complete)
    assert found.quality == pytest.approx(1)
    assert (found.semantic, found.total, found.reason) == (None, None, "dimensions missing: scene")
