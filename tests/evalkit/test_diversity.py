"""Diversity of the samples of one prompt: closed forms, and what must and must not move it."""
import numpy as np
import pytest
import torch

from evalkit.features.base import extract, make_extractor
from evalkit.metrics.diversity import Diversity, Vendi, mean_pairwise_distance, vendi_score


def test_distance_equals_the_mean_over_pairs():
    rows = np.random.default_rng(0).normal(size=(6, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [1 - unit[i] @ unit[j] for i in range(6) for j in range(i)]
    assert mean_pairwise_distance(rows) == pytest.approx(np.mean(pairs))


def test_closed_forms():
    assert mean_pairwise_distance(np.eye(4)) == pytest.approx(1)
    assert mean_pairwise_distance([[1.0, 0], [-2.0, 0]]) == pytest.approx(2)
    assert mean_pairwise_distance(np.ones((4, 3))) == pytest.approx(0, abs=1e-12)
    assert vendi_score(np.eye(4)) == pytest.approx(4)
    assert vendi_score(np.ones((4, 3))) == pytest.approx(1)
    assert vendi_score(np.repeat(np.eye(3), 5, axis=0)) == pytest.approx(3)


def test_single_or_directionless_samples_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        mean_pairwise_distance(np.ones((1, 3)))
    with pytest.raises(ValueError, match="direction"):
        mean_pairwise_distance(np.zeros((2, 3)))


def samples(spread, prompts=12, seeds=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(prompts, 1, 20))
    rows = centres + spread * rng.normal(size=(prompts, seeds, 20))
    names = [f"prompt {i}" for i in range(prompts) for _ in range(seeds)]
    return torch.from_numpy(rows.reshape(-1, 20)), names


@pytest.mark.parametrize("metric", [Diversity(), Vendi()])
def test_more_varied_seeds_score_higher(metric):
    scores = [metric.compute(*reorder(samples(spread)), seed=0) for spread in (0.0, 0.3, 1.0)]
    values = [score.value for score in scores]
    assert values == sorted(values) and values[0] == pytest.approx(metric.range[0], abs=1e-9)
    assert scores[2].ci95[0] < scores[2].value < scores[2].ci95[1]
    assert metric.higher_is_better


def reorder(found):
    rows, prompts = found
    return rows, None, prompts


def test_different_prompts_do_not_count_as_diversity():
    rows, prompts = samples(0.0)
    assert Diversity().compute(rows, None, prompts, seed=0).value == pytest.approx(0, abs=1e-12)
    assert Diversity().compute(rows, None, ["one"] * len(rows), seed=0).value > 0.5


def test_every_prompt_weighs_the_same_whatever_its_number_of_seeds():
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0], [5, 5]], dtype=torch.float64)
    score = Diversity().compute(rows, None, ["a", "a", "b", "b", "b", "b", "c"], seed=0)
    assert score.value == pytest.approx((1 + 0) / 2)
    assert score.n == 6 and score.details["prompts_with_one_sample"] == 1


def test_order_of_samples_changes_nothing():
    rows, prompts = samples(0.5)
    order = np.random.default_rng(0).permutation(len(rows))
    a = Diversity().compute(rows, None, prompts, seed=0)
    b = Diversity().compute(rows[order], None, [prompts[i] for i in order], seed=0)
    assert a.value == pytest.approx(b.value, rel=1e-12) and a.ci95 == pytest.approx(b.ci95, rel=1e-9)


def test_without_prompts_or_seeds_there_is_a_reason():
    rows, _ = samples(0.5, prompts=3, seeds=1)
    assert "prompts" in Diversity().compute(rows, None, None, seed=0).reason
    assert "seeds" in Diversity().compute(rows, None, ["a", "b", "c"], seed=0).reason
    with pytest.raises(ValueError, match="one per sample"):
        Diversity().compute(rows, None, ["a"], seed=0)


def test_one_prompt_has_a_value_but_no_interval():
    rows, _ = samples(0.5, prompts=1)
    score = Diversity().compute(rows, None, ["a"] * 4, seed=0)
    assert score.value > 0 and score.ci95 is None


def test_another_course_of_events_counts_even_with_the_same_frames():
    frames = torch.rand(8, 512)
    pooled = Diversity().pool({"squeezenet": torch.stack([frames, frames.flip(0), frames])}).double()
    assert pooled.shape == (3, 8 * 512)
    assert mean_pairwise_distance(pooled[[0, 2]]) == pytest.approx(0, abs=1e-6)
    assert mean_pairwise_distance(pooled[:2]) > 0.1
    cosine = torch.cosine_similarity(frames, frames.flip(0), dim=1).mean()
    assert mean_pairwise_distance(pooled[:2]) == pytest.approx(1 - float(cosine), rel=1e-4)


def test_real_features_tell_other_pictures_from_equal_ones(assets, monkeypatch):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights"))
    squeezenet = make_extractor("squeezenet")
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 6), size=96, mode="bicubic").clamp(0, 1)
    clips = smooth[:, None].expand(3, 8, 3, 96, 96)
    with torch.no_grad():
        rows = Diversity().pool({"squeezenet": extract(squeezenet, clips)}).double()
        same = Diversity().pool({"squeezenet": extract(squeezenet, clips[[0, 0, 0]])}).double()
    assert mean_pairwise_distance(rows) > 100 * mean_pairwise_distance(same) + 0.01
