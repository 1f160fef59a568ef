"""Papers' protocols: what they fix reaches the metrics and their ids, and too few clips give a reason."""
import json

import pytest
import torch

from evalkit.metrics.base import Metric
from evalkit.protocols import available_protocols, load_protocol

PAPERS = ["ucf101_styleganv", "ucf101_tats", "ucf101_10k", "ucf101_zeroshot"]


def test_the_named_protocols_exist():
    assert set(available_protocols()) == {"default", *PAPERS}


@pytest.mark.parametrize("name", ["default", *PAPERS])
def test_every_protocol_makes_its_metrics_and_describes_itself_in_json(name):
    protocol = load_protocol(name)
    metrics = protocol.make_metrics()
    assert list(metrics) == list(protocol.metrics) and metrics
    assert all(isinstance(metric, Metric) and metric.name == key for key, metric in metrics.items())
    assert json.loads(json.dumps(protocol.describe()))["metrics"].keys() == metrics.keys()


@pytest.mark.parametrize("name", PAPERS)
def test_papers_are_cited_and_their_data_named(name):
    protocol = load_protocol(name)
    assert "arXiv" in protocol.citation and protocol.dataset == "UCF-101" and protocol.num_reference
    fvd = next(metric for key, metric in protocol.make_metrics().items() if key.startswith("fvd"))
    assert (fvd.sample_size, fvd.repeats) == (protocol.num_generated, protocol.repeats)
    assert fvd.spec.num_frames == 16 and fvd.spec.stride == 1
    assert (fvd.spec.clips_per_video is None) == (protocol.clips_per_video == "all")


def test_protocols_differ_in_what_their_papers_differ_in():
    styleganv = load_protocol("ucf101_styleganv").make_metrics()["fvd2048_16f_ddof0"]
    tats = load_protocol("ucf101_tats").make_metrics()["fvd"]
    assert (styleganv.ddof, styleganv.spec.crop, styleganv.repeats) == (0, 256, 1)
    assert (tats.ddof, tats.spec.crop, tats.repeats) == (1, 128, 10)
    assert tats.parameters_of_protocol() != load_protocol("default").make_metrics()["fvd"].parameters_of_protocol()


def test_making_one_protocol_leaves_the_others_as_they_are():
    before = load_protocol("default").describe()
    load_protocol("ucf101_tats").make_metrics()
    assert load_protocol("default").describe() == before
    assert load_protocol("default").make_metrics()["fvd"].sample_size is None


def test_too_few_videos_are_not_counted_twice():
    rows = torch.randn(300, 8, dtype=torch.float64)
    for name in PAPERS:
        fvd = next(metric for key, metric in load_protocol(name).make_metrics().items() if key.startswith("fvd"))
        score = fvd.compute(rows, rows, None, seed=0)
        assert score.value is None and str(fvd.sample_size) in score.reason


def test_exactly_sixteen_frames_are_enough():
    for protocol in available_protocols().values():
        for metric in protocol.make_metrics().values():
            assert metric.spec.min_frames <= metric.spec.num_frames == 16


def test_metrics_can_be_chosen_by_name():
    assert list(load_protocol("default").make_metrics(["kvd"])) == ["kvd"]
    with pytest.raises(ValueError, match="it has: fvd, fvd_inf, kvd"):
        load_protocol("default").make_metrics(["nope"])


def test_unknown_protocols_name_those_that_exist():
    with pytest.raises(ValueError, match="there are: default, ucf101_styleganv"):
        load_protocol("ucf")
