"""CLIP, VBench and frame-consistency scores against their formulas written out, and on real clips and weights."""
import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evalkit.clips import ClipBatch
from evalkit.features import openclip
from evalkit.features.base import Extractor, extract, make_extractor, register_extractor
from evalkit.metrics import clip_score, frame_consistency, vbench
from evalkit.metrics.base import available_metrics

CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@register_extractor("tiny_clip_for_metrics")
def load_tiny_clip():
    import open_clip

    torch.manual_seed(0)
    model = open_clip.model.CLIP(**copy.deepcopy(CLIP_CONFIG))
    return openclip.OpenClip(model, open_clip.SimpleTokenizer(context_length=16), openclip.ImageInput(size=32))


class Colours(Extractor):
    """Mean colour of a frame: features whose cosines are known."""

    key = "colours"

    def forward(self, images):
        return images.float().mean(dim=(2, 3))


def moving(batch=2, frames=8, size=40, step=1, seed=0):
    """Smooth texture moving right by `step` pixels a frame."""
    torch.manual_seed(seed)
    wide = F.interpolate(torch.rand(batch, 3, 10, 30), size=(size, 3 * size), mode="bicubic").clamp(0, 1)
    return torch.stack([wide[..., size - i * step: 2 * size - i * step] for i in range(frames)], dim=1)


def batch_of(frames, metric, extractor=None, **known):
    features = {metric.extractor_keys[0]: extract(extractor, frames)} if extractor else {}
    return ClipBatch(frames, features=features, **known)


def test_all_names_are_registered_with_direction_range_and_summary():
    known = available_metrics()
    for name in ("frame_consistency", "clip_score", "clip_temp", "vbench_temporal_flickering", "vbench_dynamic_degree",
                 "vbench_subject_consistency", "vbench_background_consistency", "vbench_aesthetic_quality"):
        cls = known[name]
        assert cls.higher_is_better and cls.summary and cls.range[0] < cls.range[1], name


def test_flickering_is_the_published_formula_on_8_bit_values():
    video = np.random.default_rng(0).integers(0, 256, (3, 6, 3, 20, 24))
    expected = [(255 - np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairwise(clip)])) / 255
                for clip in video]
    found = vbench.TemporalFlickering().measure(ClipBatch(torch.tensor(video).float() / 255), None)
    assert found.value.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.curves["frame"].shape == (3, 5)


def test_flickering_falls_with_flicker_and_rises_with_frame_rate():
    still = moving(frames=12, step=0)
    sign = torch.tensor([1.0, -1.0]).repeat(6).view(1, 12, 1, 1, 1)
    scores = [vbench.TemporalFlickering().score(ClipBatch((still + amount * sign).clamp(0, 1)), None)
              for amount in (0.0, 0.05, 0.1, 0.2)]
    assert torch.equal(scores[0], torch.ones(2)) and all((a > b).all() for a, b in pairwise(scores))
    slow, fast = (vbench.TemporalFlickering().score(ClipBatch(moving(step=step)), None) for step in (4, 1))
    assert bool((fast > slow).all())  # its known weakness


def published_consistency(features):
    """VBench's loop, one video."""
    features = F.normalize(features, dim=-1)
    total = 0.0
    for i in range(1, len(features)):
        before = max(0.0, float(features[i] @ features[i - 1]))
        total += (before + max(0.0, float(features[i] @ features[0]))) / 2
    return total / (len(features) - 1)


@pytest.mark.parametrize("cls", [vbench.SubjectConsistency, vbench.BackgroundConsistency])
def test_consistency_is_the_published_loop(cls):
    torch.manual_seed(0)
    features = torch.randn(3, 7, 5)
    metric = cls()
    generated = ClipBatch(torch.rand(3, 7, 3, 4, 4), features={metric.extractor_keys[0]: features})
    expected = [published_consistency(clip) for clip in features]
    assert metric.score(generated, None).tolist() == pytest.approx(expected, abs=1e-6)


def test_consistency_of_a_frozen_clip_is_1_and_falls_when_frames_are_mixed():
    still, walk = moving(step=0), moving(batch=2, frames=8, step=2)
    other = torch.cat([walk[:, :4], 1 - walk[:, 4:]], dim=1)
    metric = vbench.SubjectConsistency()
    frozen, steady, cut = (metric.score(batch_of(f, metric, Colours()), None) for f in (still, walk, other))
    torch.testing.assert_close(frozen, torch.ones(2))
    assert bool((steady > cut).all())


def test_a_clip_moves_with_enough_fast_pairs_of_the_published_threshold():
    limit = 6 * 512 / 256
    speed = torch.full((1, 15), limit)  # 16 frames: 4 pairs must be faster than the limit
    assert not vbench.moves(speed, 512).item()
    for count, expected in ((3, False), (4, True)):
        fast = speed.clone()
        fast[0, :count] += 0.01
        assert vbench.moves(fast, 512).item() is expected
    assert vbench.moves(torch.tensor([[0.0, 6.01]]), 256).item() and not vbench.moves(torch.zeros(1, 2), 256).item()


def test_dynamic_degree_tells_real_flow_of_a_moving_clip_from_a_still_one(monkeypatch, assets):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights"))

    class WithSmallRaft(vbench.DynamicDegree):
        extractor_keys = ("raft_small",)

    metric, frames = WithSmallRaft(), torch.cat([moving(1, 3, 128, step) for step in (0, 12)])
    found = metric.measure(batch_of(frames, metric, make_extractor("raft_small")), None)
    assert found.value.tolist() == [0, 1]
    assert found.components["speed"][1].item() == pytest.approx(12, rel=0.15)


def test_aesthetic_quality_is_a_tenth_of_the_mean_rating():
    metric = vbench.AestheticQuality()
    ratings = torch.tensor([[[4.0], [6.0]], [[5.0], [5.5]]])
    found = metric.measure(ClipBatch(torch.rand(2, 2, 3, 4, 4), features={metric.extractor_keys[0]: ratings}), None)
    assert found.value.tolist() == pytest.approx([0.5, 0.525])
    assert found.components["worst_frame"].tolist() == pytest.approx([0.4, 0.5])


def test_frame_consistency_is_the_mean_cosine_of_neighbours():
    torch.manual_seed(0)
    features = torch.randn(2, 6, 9)
    generated = ClipBatch(torch.rand(2, 6, 3, 4, 4), features={"squeezenet": features})
    unit = F.normalize(features, dim=-1)
    expected = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    found = frame_consistency.FrameConsistency().measure(generated, None)
    torch.testing.assert_close(found.value, expected.mean(1))
    torch.testing.assert_close(found.components["worst"], expected.amin(1))


def test_frame_consistency_of_a_real_clip_falls_when_it_is_shuffled_and_rises_when_it_is_frozen(monkeypatch, assets):
    from evalkit.data.video import read_clips

    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights"))
    metric = frame_consistency.FrameConsistency()
    path = next((assets / "data" / "ucf101").glob("*/*.avi"))
    clip = read_clips(path, [metric.spec])[metric.spec][0].frames[::8][:10].float().div(255)
    order = torch.tensor([0, 5, 1, 6, 2, 7, 3, 8, 4, 9])
    frames = torch.stack([clip[:1].expand_as(clip), clip, clip[order]])
    frozen, real, shuffled = metric.score(batch_of(frames, metric, make_extractor("squeezenet")), None).tolist()
    assert frozen == pytest.approx(1, abs=1e-5) and frozen > real > shuffled


def test_clip_score_is_a_hundred_cosines_and_blind_to_the_batch():
    class Tiny(clip_score.ClipScore):
        extractor_keys = ("tiny_clip_for_metrics",)

    metric, network = Tiny(), make_extractor("tiny_clip_for_metrics")
    frames, prompts = moving(5, 4), [f"a {colour} ball" for colour in ("red", "blue", "green", "grey", "black")]
    together = metric.measure(batch_of(frames, metric, network, prompts=prompts), None)
    texts = network.encode_text(prompts)
    cosines = torch.stack([F.normalize(network(clip), dim=-1) @ text for clip, text in zip(frames, texts, strict=True)])
    torch.testing.assert_close(together.value, 100 * cosines.mean(1).clamp(min=0), atol=1e-4, rtol=1e-4)
    alone = [metric.score(batch_of(frames[i: i + 1], metric, network, prompts=prompts[i: i + 1]), None)
             for i in range(5)]
    assert torch.equal(together.value, torch.cat(alone))


def test_clip_temp_falls_with_the_speed_of_change():
    class Tiny(clip_score.ClipTemp):
        extractor_keys = ("tiny_clip_for_metrics",)

    metric, network = Tiny(), make_extractor("tiny_clip_for_metrics")
    still, slow, fast = (metric.score(batch_of(moving(step=step), metric, network), None) for step in (0, 1, 5))
    torch.testing.assert_close(still, torch.ones(2))
    assert bool((still > slow).all() and (slow > fast).all())
