"""The learned artifact detector: its defects, what it reads, its training, and that it finds what was done."""
import json
import shutil

import numpy as np
import pytest
import torch

from evalkit.cli import main
from evalkit.data.corruptions import available_corruptions
from evalkit.data.video_writer import write_video
from evalkit.errors import UsageError
from evalkit.features.weights import MissingWeights, sha256_of
from rewards.artifact_clips import damaged, draw_defects, world_to_judge
from rewards.artifact_detector import ANSWERS, CARD, WEIGHTS, ArtifactDetector
from rewards.artifact_features import artifact_statistics, windows
from rewards.artifact_training import Config, describe, split_by_clip, train
from rewards.detection import auroc, calibration_error, detection
from rewards.hack_clips import world_clips
from rewards.injected_defects import INJECTED
from rewards.injectors import HELD_OUT, INJECTORS, LABELS, NEUTRAL, inject, label_of

TINY = {"world": 64, "epochs": 2, "held_out": 0.2, "workers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("detector")
    train(Config(str(out), **TINY), command="evalkit rewards train")
    return out


@pytest.fixture(scope="module")
def reward():
    return ArtifactDetector().eval()


@pytest.fixture(scope="module")
def clips():
    return [clip.frames for clip in world_clips(8)]


# What is done to clips


@pytest.mark.parametrize("name", INJECTED)
def test_an_injected_defect_is_the_same_by_seed_and_keeps_the_shape_of_any_clip(name):
    frames = torch.randint(0, 256, (11, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    worse = inject(frames, name, 3, seed=5, fps=25.0)
    assert worse.dtype == torch.uint8 and worse.shape == frames.shape
    assert torch.equal(worse, inject(frames, name, 3, seed=5, fps=25.0)) and not torch.equal(worse, frames)
    assert torch.equal(inject(frames, name, 0), frames)


@pytest.mark.parametrize("name", INJECTED)
def test_an_injected_defect_changes_more_at_a_higher_severity(name, clips):
    change = [sum((inject(clip, name, severity, seed=k, fps=8.0).float() - clip).abs().mean()
                  for k, clip in enumerate(clips)) for severity in (1, 3, 5)]
    assert change[0] < change[1] < change[2]


def test_every_defect_has_one_place_and_the_library_of_evalkit_is_untouched():
    names = [*(name for names in INJECTORS.values() for name in names), *HELD_OUT.values(), *NEUTRAL]
    assert sorted(names) == sorted({*available_corruptions(), *INJECTED}) and len(set(names)) == len(names)
    assert not {*INJECTED} & {*available_corruptions()} and set(HELD_OUT) == set(LABELS)
    assert all(label_of(HELD_OUT[label]) == label for label in LABELS) and label_of("border") is None


def test_training_never_draws_an_injector_that_is_held_out():
    rng = np.random.default_rng(0)
    drawn = {name for _ in range(800) for name, *_ in draw_defects(rng)}
    assert drawn == {*(name for names in INJECTORS.values() for name in names), *NEUTRAL}


def test_a_defect_that_nobody_can_see_is_none(clips):
    still = clips[0][:1].repeat(16, 1, 1, 1)
    assert damaged(still, [("freeze", 5, 0)], 8.0)[1].tolist() == [0, 0, 0, 0]
    both = damaged(clips[0], [("noise", 4, 0), ("border", 3, 0)], 8.0)[1]
    assert both.tolist() == pytest.approx([0, 0.8, 0, 0])


@pytest.mark.parametrize(("frames", "name", "severity", "message"), [
    (torch.zeros(4, 3, 8, 8), "stripes", 1, "expected uint8"),
    (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "stripes", 6, "severity: expected 0"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "stutter", 1, "at least 2 frames"),
    (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "gremlins", 1, "unknown injector 'gremlins'; there are: blur"),
])
def test_a_wrong_injection_is_one_clear_error(frames, name, severity, message):
    with pytest.raises(ValueError, match=message):
        inject(frames, name, severity)


# What is read


@pytest.mark.parametrize("length", [8, 11, 15, 16, 17, 31, 32, 33, 50])
def test_windows_hold_16_frames_in_order_and_cover_the_clip(length):
    found = windows(torch.arange(length)[None])[0]
    assert found.shape == (-(-length // 16), 16) and set(found.flatten().tolist()) == set(range(length))
    assert bool((found.diff(dim=1).abs() == 1).all())


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_statistics_and_gradients_of_a_blank_still_are_finite(level):
    frames = torch.full((1, 16, 3, 64, 64), level, requires_grad=True)
    found = artifact_statistics(frames)
    found.sum().backward()
    assert bool(found.isfinite().all()) and bool(frames.grad.isfinite().all())


# The reward that ships


def test_every_frame_has_a_finite_gradient_that_is_not_zero(reward, clips):
    long = torch.cat([clips[0], clips[1][:5]])[None].float() / 255
    for answer in (None, *LABELS):
        frames = long.clone().requires_grad_()
        (reward(frames) if answer is None else reward.components(frames)[answer]).sum().backward()
        assert bool(frames.grad.isfinite().all())
        assert bool((frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()), answer


def test_a_reward_does_not_depend_on_its_batch_or_on_how_large_the_picture_is_stored(reward, clips):
    pair = [clip.float() / 255 for clip in clips[:2]]
    batch = reward(torch.stack(pair))
    assert bool(((batch > -1) & (batch < 0)).all())
    torch.testing.assert_close(batch, reward(pair), atol=1e-4, rtol=1e-4)
    twice = pair[0].repeat_interleave(2, -1).repeat_interleave(2, -2)[None]
    torch.testing.assert_close(reward(twice), batch[:1], atol=1e-3, rtol=1e-3)
    assert reward([pair[0][:9], pair[1][:, :, :50, :40]]).shape == (2,)
    with pytest.raises(ValueError, match="at least 8 frames"):
        reward(pair[0][None, :7])


@pytest.mark.parametrize(("label", "name"), [("boundary", "over_sharpen"), ("texture", "stripes"),
                                             ("movement", "twisting_joint"), ("object", "vanish")])
def test_the_chance_of_a_label_rises_with_the_severity_of_its_defect_and_the_reward_falls(reward, clips, label, name):
    chances, rewards = [], []
    for severity in (0, 1, 3, 5):
        shown = torch.stack([inject(clip, name, severity, seed=k, fps=8.0) for k, clip in enumerate(clips)])
        with torch.no_grad():
            found = reward.measure_any(shown.float() / 255, None, None)
        chances.append(found.components[label].mean().item())
        rewards.append(found.value.mean().item())
    assert chances == sorted(chances) and rewards == sorted(rewards, reverse=True) and chances[-1] > chances[0] + 0.3
    assert chances[-1] == max(value.mean() for value in found.components.values())


def test_held_out_scenes_of_the_world_are_told_apart(reward, tmp_path):
    examples = world_to_judge(tmp_path, 1_900_000, 96, "one", 1, 1)
    with torch.no_grad():
        chances = reward.network(examples.statistics).sigmoid()
    found = [auroc(chances[:, k].tolist(), examples.labels[:, k].tolist()) for k in range(len(LABELS))]
    assert min(found) > 0.8 and sum(found) / len(found) > 0.9


# Training


def test_the_card_tells_what_was_done_and_how_well_it_does(folder):
    card = json.loads((folder / CARD).read_text())
    assert card["config"]["world"] == card["n"]["clips"] == 64 and card["never trained on"] == HELD_OUT
    assert card["n"]["fitted"] + card["n"]["calibrated"] + card["n"]["judged"] == 64
    assert set(card["held_out"]) <= set(ANSWERS) and len(describe(card)) == len(card["held_out"]) + 1
    assert ArtifactDetector(folder).parameters_of_protocol() == {"weights_sha256": card["sha256"]}


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(folder, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(folder, out)
    chunks = sorted((out / "features").glob("*.npz"))
    for lost in [*chunks[1::2], out / WEIGHTS, out / CARD]:
        lost.unlink()
    train(Config(str(out), **TINY))
    assert len(chunks) == 4 and (out / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_no_clip_is_on_two_sides_of_the_split():
    sources = np.repeat([f"clip-{k}" for k in range(10)], 5)
    parts = split_by_clip(sources, (0.6, 0.2, 0.2))
    names = [set(sources[rows].tolist()) for rows in parts]
    assert [len(one) for one in names] == [6, 2, 2] and not names[0] & names[1] | names[1] & names[2]
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))
    with pytest.raises(UsageError, match="expected clips of more sources"):
        split_by_clip(sources[:5], (0.8, 0.1, 0.1))


def test_only_real_videos_of_the_tuning_part_are_trained_on_through_the_command(clips, tmp_path, capsys):
    for place in ("all", "judging", "out"):
        (tmp_path / place).mkdir()
    for name in ("v_Surfing_g01_c01", "v_Surfing_g09_c01", "v_Surfing_g09_c02"):
        write_video(tmp_path / "all" / f"{name}.mp4", torch.cat([clips[0], clips[1]]), 25.0)
    command = ["rewards", "train", "--artifacts", "48", "--epochs", "1", "--held-out", "0.2", "--draws", "4",
               "--workers", "1", "--out", str(tmp_path / "out"), "--clips"]
    assert main([*command, str(tmp_path / "all")]) == 0
    assert "56" in str(json.loads((tmp_path / "out" / CARD).read_text())["n"]) and "AUROC" in capsys.readouterr().out
    write_video(tmp_path / "judging" / "v_Surfing_g01_c01.mp4", clips[0], 25.0)
    assert main([*command, str(tmp_path / "judging")]) != 0
    assert "judging part" in capsys.readouterr().err


def test_a_folder_that_is_not_ours_is_refused_and_nothing_is_unpickled(folder, tmp_path):
    with pytest.raises(MissingWeights, match=r"found no .*artifact_detector.safetensors; make it with: evalkit"):
        ArtifactDetector(tmp_path / "nowhere")
    torch.save({"weights": torch.zeros(3)}, tmp_path / WEIGHTS)
    shutil.copy(folder / CARD, tmp_path)
    with pytest.raises(ValueError, match="expected sha256"):
        ArtifactDetector(tmp_path)
    (tmp_path / CARD).write_text(json.dumps({"sha256": sha256_of(tmp_path / WEIGHTS)}))
    with pytest.raises(ValueError, match=r"not a safetensors file|not the weights"):
        ArtifactDetector(tmp_path)
    (tmp_path / CARD).write_text("[]")
    with pytest.raises(ValueError, match="not a card"):
        ArtifactDetector(tmp_path)


# How it is judged


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    scores, present = rng.integers(0, 6, 60), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[present] for b in scores[~present]]
    assert auroc(scores, present) == pytest.approx(np.mean(pairs))


def test_an_interval_over_clips_is_wider_than_one_over_cases_that_are_taken_as_independent():
    rng = np.random.default_rng(1)
    clip = np.repeat(np.arange(20), 10)
    present = clip % 2 == 0
    scores = present + rng.normal(0, 1.5, 20)[clip] + rng.normal(0, 0.5, 200)
    whole, single = detection(scores, present, clip), detection(scores, present)
    assert whole.auroc.value == single.auroc.value and whole.n == 200 and whole.positives == 100
    low, high = whole.balanced_accuracy.ci95
    assert low <= whole.balanced_accuracy.value <= high
    assert high - low > np.subtract(*single.balanced_accuracy.ci95[::-1])


def test_chances_that_come_true_as_often_as_they_say_are_calibrated():
    rng = np.random.default_rng(2)
    chances = rng.random(20_000)
    assert calibration_error(chances, rng.random(20_000) < chances) < 0.02
    assert calibration_error(np.full(100, 0.9), np.arange(100) < 50) == pytest.approx(0.4)


def test_labels_that_cannot_be_judged_are_one_clear_error():
    with pytest.raises(ValueError, match="cases with the label and cases without, got 2 of 2"):
        detection([0.1, 0.2], [True, True])
    with pytest.raises(ValueError, match="as many labels and clusters"):
        detection([0.1, 0.2], [True])
