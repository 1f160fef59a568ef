"""The learned preference and its training: gradients, resuming, files of pairs, folders that are not ours."""
import json
import shutil

import numpy as np
import pytest
import torch

from evalkit.data.truth import make_preference
from evalkit.data.video_writer import write_video
from evalkit.errors import UsageError
from evalkit.features.weights import MissingWeights
from rewards.data import Pair, write_pairs
from rewards.preference import DIMENSIONS, Preference
from rewards.preference_clips import cached_map
from rewards.preference_features import clip_statistics
from rewards.train import Config, describe, train

SMALL = {"synthetic": 48, "pretrain_epochs": 2, "epochs": 2, "held_out": 0.2, "workers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("reward")
    train(Config(str(out), world=64, noise=0.2, **SMALL), command="evalkit rewards train")
    return out


@pytest.fixture(scope="module")
def reward(folder):
    return Preference(folder).eval()


@pytest.fixture(scope="module")
def pair():
    return make_preference(1_000_003)


def test_a_preference_is_trained_without_dialled_defects_when_none_are_asked_for(tmp_path):
    found = train(Config(str(tmp_path), world=64, noise=0.2, **{**SMALL, "synthetic": 0}), command="")
    assert found.card["config"]["synthetic"] == 0 and found.card["n"]["pairs"] == 64
    assert bool(Preference(tmp_path).eval()(torch.rand(1, 16, 3, 64, 64), [make_preference(0).prompt]).isfinite().all())


def frames_of(version):
    return version.frames().float()[None] / 255


def test_the_statistics_of_a_batch_are_those_of_its_clips():
    clips = torch.rand(3, 16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    apart = torch.cat([clip_statistics(clip[None]) for clip in clips])
    torch.testing.assert_close(clip_statistics(clips), apart, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_statistics_and_gradients_of_a_blank_still_are_finite(level):
    frames = torch.full((1, 16, 3, 64, 64), level, requires_grad=True)
    found = clip_statistics(frames)
    found.sum().backward()
    assert bool(found.isfinite().all()) and bool(frames.grad.isfinite().all())


def test_every_frame_has_a_finite_gradient_that_is_not_zero(reward, pair):
    for dimension in (None, *DIMENSIONS):
        frames = frames_of(pair.a).requires_grad_()
        found = reward(frames, [pair.prompt]) if dimension is None else reward.components(
            frames, [pair.prompt])[dimension]
        found.sum().backward()
        assert bool(frames.grad.isfinite().all())
        assert bool((frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()), dimension


def test_the_reward_is_the_weighted_mean_of_its_components(reward, pair):
    frames = torch.cat([frames_of(pair.a), frames_of(pair.b)])
    parts, prompts = reward.components(frames, [pair.prompt] * 2), [pair.prompt] * 2
    expected = sum(float(share) * parts[name]
                   for name, share in zip(DIMENSIONS, reward.network.shares.softmax(0), strict=True))
    torch.testing.assert_close(reward(frames, prompts), expected)
    assert all(bool(((part > 0) & (part < 1)).all()) for part in parts.values())


def test_a_reward_does_not_depend_on_its_batch_or_on_how_large_the_picture_is_stored(reward, pair):
    clips = [frames_of(pair.a)[0], frames_of(pair.b)[0]]
    batch = reward(torch.stack(clips), [pair.prompt] * 2)
    torch.testing.assert_close(batch, reward(clips, [pair.prompt] * 2), atol=1e-4, rtol=1e-4)
    twice = clips[0].repeat_interleave(2, -1).repeat_interleave(2, -2)[None]
    torch.testing.assert_close(reward(twice, [pair.prompt]), batch[:1], atol=1e-3, rtol=1e-3)


def test_prompts_are_asked_for_and_must_be_of_the_world(reward, pair):
    with pytest.raises(ValueError, match="expected 1 prompts"):
        reward(frames_of(pair.a))
    with pytest.raises(ValueError, match="zeppelin"):
        reward(frames_of(pair.a), ["a zeppelin"])
    with pytest.raises(ValueError, match="at least 8 frames"):
        reward(frames_of(pair.a)[:, :7], [pair.prompt])


def test_the_card_tells_what_was_done_and_how_sure_it_is(folder, reward):
    card = json.loads((folder / "card.json").read_text())
    assert card["config"]["noise"] == 0.2 and card["config"]["seed"] == 0 and card["n"]["pairs"] == 64
    assert card["n"]["fitted"] + card["n"]["calibrated"] + card["n"]["judged"] == 64
    overall = card["held_out"]["overall"]
    assert overall["accuracy"]["ci95"][0] <= overall["accuracy"]["value"] <= overall["accuracy"]["ci95"][1]
    assert 0 <= overall["tie_floor"] <= 1 and len(describe(card)) == 5
    assert reward.parameters_of_protocol() == {"weights_sha256": card["sha256"]}


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again")
    out = tmp_path / "again"
    chunks = sorted((out / "features").glob("*.npz"))
    for lost in [*chunks[1::2], out / "preference.safetensors", out / "card.json"]:
        lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in chunks[::2]}
    train(Config(str(out), world=64, noise=0.2, **SMALL))
    assert (out / "preference.safetensors").read_bytes() == (folder / "preference.safetensors").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_measured_chunks_of_another_task_are_not_reused(tmp_path):
    def numbers(k):
        return {"x": np.full((2, 1), k)}

    first = cached_map(tmp_path, "n", [1, 2], numbers, 1, {"of": "ones"})
    assert first["x"].ravel().tolist() == [1, 1, 2, 2]
    again = cached_map(tmp_path, "n", [7, 8], numbers, 1, {"of": "ones"})
    assert again["x"].ravel().tolist() == [1, 1, 2, 2]
    other = cached_map(tmp_path, "n", [7, 8], numbers, 1, {"of": "sevens"})
    assert other["x"].ravel().tolist() == [7, 7, 8, 8]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight pairs on disk, and the folder."""
    place, pairs = tmp_path_factory.mktemp("videos"), []
    for seed in range(8):
        drawn = make_preference(seed)
        for side in "ab":
            write_video(place / f"{seed}{side}.mp4", getattr(drawn, side).frames(), 8.0)
        pairs.append(Pair(f"{seed}a.mp4", f"{seed}b.mp4", drawn.prompt, seed % 4 == 0,
                          ("overall", "motion")[seed % 2]))
    return place, pairs


def test_pairs_of_video_files_are_learnt_from_and_a_broken_video_is_told(videos, tmp_path):
    place, pairs = videos
    (place / "broken.mp4").write_bytes(b"no video")
    path = write_pairs(place / "pairs.jsonl", [*pairs, Pair("broken.mp4", "1a.mp4", pairs[1].prompt)])
    config = Config(str(tmp_path), pairs=str(path), max_failures=1, **SMALL)
    said = []
    card = train(config, say=said.append).card
    assert card["n"]["pairs"] == 8 and said == ["left out: " + card["failures"][0]] and "broken.mp4" in said[0]
    assert set(card["held_out"]) <= {"overall", "motion"}
    with pytest.raises(UsageError, match=r"1 rows and videos cannot be used.*broken.mp4"):
        train(Config(str(tmp_path), pairs=str(path), **SMALL))
    frames = torch.rand(1, 16, 3, 64, 64)
    assert 0 < float(Preference(tmp_path)(frames, [pairs[0].prompt])) < 1


@pytest.mark.parametrize(("options", "message"), [
    ({}, "expected either pairs"),
    ({"world": 0}, "at least 1 pair"),
    ({"world": 4, "noise": 0.7}, "noise: expected"),
    ({"pairs": "none.jsonl"}, "found no file none.jsonl"),
    ({"world": 2}, "too few to hold some out"),
])
def test_what_cannot_be_trained_on_is_one_clear_error(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        train(Config(str(tmp_path), **SMALL | options))


def test_a_foreign_prompt_is_refused_with_its_words(videos, tmp_path):
    place, _ = videos
    path = write_pairs(place / "foreign.jsonl", [Pair("0a.mp4", "0b.mp4", "a zeppelin lands")])
    with pytest.raises(UsageError, match=r"foreign.jsonl.*'zeppelin'"):
        train(Config(str(tmp_path), pairs=str(path), **SMALL))


def test_a_folder_that_is_not_ours_is_refused_and_nothing_is_unpickled(folder, tmp_path):
    with pytest.raises(MissingWeights, match=r"found no .*preference.safetensors; make it with: evalkit rewards train"):
        Preference(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    torch.save({"weights": torch.zeros(3)}, broken / "preference.safetensors")
    shutil.copy(folder / "card.json", broken)
    with pytest.raises(ValueError, match="expected sha256"):
        Preference(broken)
    (broken / "card.json").write_text(json.dumps({"sha256": _sha(broken / "preference.safetensors")}))
    with pytest.raises(ValueError, match=r"not a safetensors file|not the weights"):
        Preference(broken)
    (broken / "card.json").write_text("[]")
    with pytest.raises(ValueError, match="not a card"):
        Preference(broken)


def _sha(path):
    from evalkit.features.weights import sha256_of

    return sha256_of(path)
