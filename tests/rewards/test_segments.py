import json
import math

import pytest
import torch

from evalkit.cli import main
from evalkit.data.corruptions import corrupt
from evalkit.data.synthetic import render_clip, write_samples
from evalkit.data.video import read_video
from rewards import load_reward
from rewards.segments import Segments

FPS = 16
NAMES = ["farm", "artifacts", "temporal_flicker", "cinematic_composition"]


def world(seed=0, num_frames=4 * FPS):
    return render_clip(seed, num_frames, FPS, 64, seconds=4.0).frames


def floats(frames):
    return frames[None].float() / 255


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("defect", ["blur", "noise"])
def test_one_ruined_second_costs_more_by_the_worst_segment_than_in_the_whole_clip(defect, seed):
    clean = world(seed)
    ruined = clean.clone()
    ruined[2 * FPS:3 * FPS] = corrupt(clean[2 * FPS:3 * FPS], defect, 4)
    with torch.no_grad():
        whole, average, worst = (reward(floats(clean), None, FPS) - reward(floats(ruined), None, FPS)
                                 for reward in (load_reward("farm"), Segments(load_reward("farm")),
                                                Segments(load_reward("farm"), pooling="min")))
    assert worst > max(whole, 0)
    assert average > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_twice_in_a_row_scores_like_the_clip(name):
    once = floats(world())
    twice, reward = torch.cat([once, once], dim=1), Segments(load_reward(name))
    with torch.no_grad():
        assert reward(twice, None, FPS).item() == pytest.approx(reward(once, None, FPS).item(), abs=1e-5)
        assert reward(once, None, FPS).item() != load_reward(name)(once, None, FPS).item()


def test_what_is_left_over_joins_the_last_segment_and_short_clips_are_one():
    inner = load_reward("farm")
    frames = floats(world(num_frames=40))
    with torch.no_grad():
        measured = Segments(inner).measure_any(frames, None, FPS)
        alone = [inner(part, None, FPS).item() for part in (frames[:, :16], frames[:, 16:])]
        assert measured.curves["segments"][0].tolist() == pytest.approx(alone, abs=1e-6)
        assert measured.value.item() == pytest.approx(sum(alone) / 2, abs=1e-6)
        assert measured.components["worst"].item() == pytest.approx(min(alone), abs=1e-6)
        assert Segments(inner)(frames[:, :10], None, FPS).item() == inner(frames[:, :10], None, FPS).item()


def test_clips_of_other_rates_and_lengths_score_as_they_do_alone():
    frames, reward = floats(world()).expand(2, -1, -1, -1, -1), Segments(load_reward("cinematic_composition"))
    measured = reward.measure_any(frames, None, torch.tensor([16.0, 24.0]))
    alone = [reward(frames[:1], None, rate).item() for rate in (16, 24)]
    assert measured.value.tolist() == pytest.approx(alone, abs=1e-6)
    assert measured.curves["segments"].isnan().tolist() == [[False] * 4, [False] * 2 + [True] * 2]
    parts = reward([frames[0], frames[0, :30]], None, FPS)
    assert parts[0].item() == pytest.approx(alone[0], abs=1e-6)


def test_components_are_means_over_segments_and_those_of_the_worst_one_under_min():
    inner, frames = load_reward("farm"), floats(world())
    with torch.no_grad():
        found = inner.measure_any(frames.unflatten(1, (4, FPS))[0], None, FPS)
        mean, worst = (Segments(inner, pooling=pooling).measure_any(frames, None, FPS) for pooling in ("mean", "min"))
    assert set(mean.components) == {*found.components, "worst"}
    for name, part in found.components.items():
        assert mean.components[name].item() == pytest.approx(part.mean().item(), abs=1e-6)
        assert worst.components[name].item() == pytest.approx(part[found.value.argmin()].item(), abs=1e-6)
    assert worst.value.item() == pytest.approx(found.value.min().item(), abs=1e-6)


def test_kappa_takes_the_spread_over_segments():
    inner, frames = load_reward("farm"), floats(world())
    with torch.no_grad():
        values = inner(frames.unflatten(1, (4, FPS))[0], None, FPS)
        found = Segments(inner, kappa=0.5)(frames, None, FPS)
    assert found.item() == pytest.approx((values.mean() - 0.5 * values.std(correction=0)).item(), abs=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 0.5])
@pytest.mark.parametrize("num_frames", [10, 16, 40])
def test_gradient_is_finite_and_reaches_every_frame(num_frames, kappa):
    frames = floats(world(num_frames=num_frames)).requires_grad_()
    Segments(load_reward("farm"), kappa=kappa)(frames, None, FPS).sum().backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_segments_have_at_least_the_frames_that_the_reward_needs():
    reward = Segments(load_reward("clip_alignment_mini"), seconds=0.1)
    clip = render_clip(0, 16, FPS, 64)
    assert reward.measure_any(floats(clip.frames), [clip.prompt], FPS).curves["segments"].shape == (1, 2)  # 8 each
    with pytest.raises(ValueError, match="at least 8 frames"):
        reward(floats(clip.frames[:7]), [clip.prompt], FPS)


def test_weighted_sum_can_be_scored_by_segments_and_segments_weighted():
    frames = floats(world())
    both = (load_reward("farm") + load_reward("temporal_flicker")).raw()
    with torch.no_grad():
        by_parts = (Segments(load_reward("farm")) + Segments(load_reward("temporal_flicker"))).raw()(frames, None, FPS)
        assert Segments(both)(frames, None, FPS).item() == pytest.approx(by_parts.item(), abs=1e-5)


def test_name_range_and_protocol_tell_how_it_is_cut_and_pooled():
    inner = load_reward("farm")
    rewards = [Segments(inner), Segments(inner, 2.0), Segments(inner, pooling="min"), Segments(inner, kappa=0.5)]
    assert [reward.name for reward in rewards] == ["farm_1s", "farm_2s", "farm_1s_min", "farm_1s_kappa0.5"]
    assert rewards[0].range == inner.range and rewards[3].range[0] < inner.range[0]
    assert rewards[0].parameters_of_protocol()["extractors"][0]["extractor"] == "motion"


def test_frame_rate_is_asked_for():
    with pytest.raises(ValueError, match="fps"):
        Segments(load_reward("farm"))(floats(world()))


@pytest.mark.parametrize("options", [{"seconds": 0}, {"seconds": math.nan}, {"pooling": "median"}, {"kappa": -1},
                                     {"kappa": 0.5, "pooling": "min"}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Segments(load_reward("farm"), **options)


def test_score_command_by_segments_is_the_reward_by_segments(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    write_samples(tmp_path / "videos", 1, num_frames=20, size=48)
    path, = (tmp_path / "videos").glob("*.mp4")
    words = ["rewards", "score", str(path), "--reward", "farm", "--json", str(tmp_path / "out.json"), "--workers", "1"]
    assert main([*words, "--segments", "1"]) == 0
    told = json.loads((tmp_path / "out.json").read_text())
    reward = Segments(load_reward("farm"))
    clip = read_video(path, reward.spec)
    found = reward.measure_any(floats(clip.frames), None, clip.fps)
    assert told["reward"] == "farm_1s"
    assert told["videos"][0]["reward"] == pytest.approx(found.value.item(), abs=1e-6)
    assert told["videos"][0]["segments"] == pytest.approx(found.curves["segments"][0].tolist(), abs=1e-5)
    assert main([*words, "--segments", "0"]) == 2 and "--segments" in capsys.readouterr().err
