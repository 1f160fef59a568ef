import json

import numpy as np
import pandas as pd
import pytest

from evalkit.results import Report, ResultsError, Score, differing_fields, protocol_id, write_atomic

PROTOCOL = {"metric": "farm", "version": 1, "clips": {"num_frames": 16, "size": [128, 128]}}


def make_report(name="farm", value=0.5, contents=("a", "b"), protocol=PROTOCOL) -> Report:
    identity = protocol_id(protocol)
    return Report(
        "model", {name: Score(value, (value - 0.1, value + 0.1), 2, "", True, identity)}, {identity: protocol},
        {"found": 2, "scored": 2, "failed": 0}, [], {"seed": 0},
        pd.DataFrame({"video": ["x", "y"], "content": list(contents), name: [value, value]}),
        features={"fvd": np.eye(2, dtype=np.float32)},
    )


def test_report_survives_the_disk(tmp_path):
    report = make_report()
    report.save(tmp_path)
    loaded = Report.load(tmp_path)
    assert loaded.to_json() == report.to_json()
    pd.testing.assert_frame_equal(loaded.videos, report.videos, check_dtype=False)
    np.testing.assert_array_equal(loaded.features["fvd"], report.features["fvd"])


def test_results_file_keeps_the_contract(tmp_path):
    raw = json.loads(make_report().save(tmp_path).read_text())
    assert list(raw) == ["schema", "model", "scores", "protocols", "videos", "failures", "environment"]
    assert raw["schema"] == "evalkit.results/1"
    assert list(raw["scores"]["farm"]) == ["value", "ci95", "n", "unit", "higher_is_better", "protocol"]
    assert len(raw["scores"]["farm"]["protocol"]) == 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_score_is_finite_or_says_why_not(value):
    with pytest.raises(ResultsError, match="finite"):
        Score(value, None, 1, "", True, "0" * 12)
    with pytest.raises(ResultsError, match="either a value or a reason"):
        Score(None, None, 1, "", True, "0" * 12)
    with pytest.raises(ResultsError, match="either a value or a reason"):
        Score(1.0, None, 1, "", True, "0" * 12, reason="why")


@pytest.mark.parametrize("edit, message", [
    (lambda raw: raw.update(schema="other/1"), "expected schema"),
    (lambda raw: raw["scores"]["farm"].update(protocol="0" * 12), "not listed"),
    (lambda raw: next(iter(raw["protocols"].values())).update(version=2), "was edited"),
    (lambda raw: raw["scores"]["farm"].pop("n"), "missing or unexpected"),
    (lambda raw: raw["scores"]["farm"].update(surprise=1), "missing or unexpected"),
    (lambda raw: raw["scores"]["farm"].update(value=float("nan")), "not valid results"),
])
def test_broken_contract_is_named(tmp_path, edit, message):
    path = make_report().save(tmp_path)
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ResultsError, match=message):
        Report.load(tmp_path)


def test_differing_fields_are_named_by_path():
    other = {**PROTOCOL, "clips": {"num_frames": 16, "size": [256, 128]}, "seed": 1}
    assert differing_fields(PROTOCOL, other) == ["clips.size[0]: 128 != 256", "seed: None != 1"]
    assert differing_fields(PROTOCOL, dict(reversed(PROTOCOL.items()))) == []
    assert protocol_id(PROTOCOL) == protocol_id(dict(reversed(PROTOCOL.items())))


def test_scores_of_the_same_videos_are_kept_and_of_others_left_behind():
    report = make_report("artifacts", 0.2)
    assert report.keep_scores_of(make_report("farm")) == []
    assert report.scores["farm"].value == 0.5 and report.videos["farm"].tolist() == [0.5, 0.5]
    other = make_report("artifacts", 0.2)
    assert other.keep_scores_of(make_report("farm", contents=("a", "c"))) == ["farm"]
    assert "farm" not in other.scores


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    write_atomic(tmp_path / "f", b"old")

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_bytes() == b"old"
