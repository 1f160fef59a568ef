import json
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch

from evalkit.cli import main as evalkit
from evalkit.data.corruptions import corrupt
from evalkit.data.items import VideoItem
from evalkit.metrics.base import Measurement
from rewards import hack_clips, hacks
from rewards.attack import CLEAN, attack, hackability
from rewards.base import Reward
from rewards.hack_clips import LEAST_MOTION, CleanClip, part_of_item, part_of_seed, real_clips, real_videos, world_clips
from rewards.hacks import MUST_SEE, OURS, Hack, adversarial_patch, as_hack, available_hacks, pick_hacks
from rewards.registry import load_reward


class Brightness(Reward):
    """Mean of all pixels: hacked by anything that brightens."""

    name = "brightness"

    def measure(self, frames, features, prompts, fps):
        return Measurement(frames.mean((1, 2, 3, 4)))


class Blind(Brightness):
    def measure(self, frames, features, prompts, fps):
        return Measurement(frames.sum((1, 2, 3, 4)) * 0 + 0.5)


class Wordy(Brightness):
    needs_prompts = True


class Broken(Brightness):
    def measure(self, frames, features, prompts, fps):
        return Measurement(frames.mean((1, 2, 3, 4)) * float("nan"))


class Stepped(Brightness):
    def measure(self, frames, features, prompts, fps):
        return Measurement(frames.detach().mean((1, 2, 3, 4)))


@pytest.fixture(scope="module")
def clips():
    return world_clips(4, "tune")


@pytest.fixture
def no_cached_hacks():
    available_hacks.cache_clear()
    yield
    available_hacks.cache_clear()


def plug_in(monkeypatch, name, value):
    entry = EntryPoint(name, value, hacks.GROUP)
    monkeypatch.setattr(hacks, "entry_points", lambda group: [entry] if group == hacks.GROUP else [])


@pytest.mark.parametrize("hack", OURS, ids=lambda hack: hack.name)
def test_every_hack_changes_the_clip_keeps_its_form_and_repeats_itself(hack, clips):
    clip = clips[0]

    def score(pixels):
        return pixels.square().mean((1, 2, 3, 4))

    twin = hack(clip.frames, 3, clip.fps, score)
    assert twin.shape == clip.frames.shape and twin.dtype == torch.uint8
    assert not torch.equal(twin, clip.frames)
    assert torch.equal(twin, hack(clip.frames, 3, clip.fps, score))
    assert hack.summary and hack.why


def test_the_suite_holds_what_a_reward_must_see():
    assert set(MUST_SEE) <= set(available_hacks())
    assert len(OURS) == len(available_hacks()) >= 25


def test_hacks_that_are_defects_are_those_of_evalkit(clips):
    frames, known = clips[0].frames, pick_hacks()
    assert torch.equal(known["repeat_x2"](frames, 5, 8.0), frames[torch.arange(16) // 2 * 2])
    assert torch.equal(known["repeat_x4"](frames, 5, 8.0), frames[torch.arange(16) // 4 * 4])
    assert torch.equal(known["static"](frames, 5, 8.0), frames[:1].expand_as(frames))
    assert torch.equal(known["shuffle"](frames, 5, 8.0), corrupt(frames, "shuffle", 3, seed=5, fps=8.0))


def test_one_good_frame_keeps_that_frame_alone(clips):
    twin = pick_hacks(["one_good_frame"])["one_good_frame"](clips[0].frames, 0, 8.0)
    same = (twin == clips[0].frames).float().mean((1, 2, 3))
    assert same[8] == 1 and same[torch.arange(16) != 8].max() < 0.1


def test_adversarial_patch_is_one_small_square_that_raises_the_reward(clips):
    frames, reward = clips[1].frames, load_reward("farm")
    twin = adversarial_patch(frames, 1, 8.0, lambda pixels: reward(pixels, None, 8.0))
    changed = (twin != frames).any(1).any(0)
    ys, xs = changed.nonzero().unbind(1)
    assert ys.max() - ys.min() < 16 and xs.max() - xs.min() < 16
    patch = twin[:, :, ys.min():ys.max() + 1, xs.min():xs.max() + 1]
    assert (patch == patch[:1]).float().mean() > 0.9  # but for a border that a step may have left as it was

    def value(clip):
        return reward(clip[None].float() / 255, None, 8.0).item()

    covered = frames.clone()
    covered[..., ys.min():ys.max() + 1, xs.min():xs.max() + 1] = 0
    assert value(twin) > value(covered)


def test_adversarial_patch_needs_a_gradient(clips):
    with pytest.raises(ValueError, match="with a gradient"):
        adversarial_patch(clips[0].frames, 0, 8.0, lambda pixels: Stepped()(pixels))


def test_a_white_box_hack_needs_its_score(clips):
    with pytest.raises(ValueError, match="expected the score that it attacks"):
        pick_hacks(["adversarial_patch"])["adversarial_patch"](clips[0].frames, 0, 8.0)


@pytest.mark.parametrize("frames", [torch.zeros(4, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
                                    torch.zeros(4, 1, 8, 8, dtype=torch.uint8)])
def test_a_hack_refuses_frames_of_another_kind(frames):
    with pytest.raises(ValueError, match=r"expected uint8 \(T, 3, H, W\) of at least 2 frames"):
        OURS[0](frames, 0, 8.0)


def test_an_unknown_hack_names_those_there_are():
    with pytest.raises(ValueError, match="unknown hack 'magic'; there are: static, repeat_x2"):
        pick_hacks(["static", "magic"])


def negative(frames, seed, fps):
    """All colours turned round."""
    return 255 - frames


def test_a_plug_in_is_attacked_with_like_ours(clips, monkeypatch, no_cached_hacks):
    monkeypatch.setattr(hacks, "negative", negative, raising=False)
    plug_in(monkeypatch, "negative", "rewards.hacks:negative")
    chosen = pick_hacks(["negative"])
    assert chosen["negative"].summary == "All colours turned round."
    (row,) = attack({"brightness": Brightness()}, {"world": clips}, chosen).rows
    assert row.auc == sum(clip.frames.float().mean() > 127.5 for clip in clips) / len(clips)


def test_a_plug_in_cannot_take_a_name_in_use(monkeypatch, no_cached_hacks):
    plug_in(monkeypatch, "static", "rewards.hacks:one_good_frame")
    with pytest.raises(ValueError, match="expected a new name for a hack, got 'static'"):
        available_hacks()


def test_a_plug_in_must_be_callable_as_a_hack():
    with pytest.raises(ValueError, match="expected a Hack or a callable"):
        as_hack("odd", 3)
    with pytest.raises(ValueError, match="expected a Hack or a callable"):
        as_hack("odd", lambda frames: frames)
    assert as_hack("patch", adversarial_patch).white_box and as_hack("mine", OURS[0]).name == "mine"


def test_a_hack_that_changes_the_shape_is_refused(clips):
    with pytest.raises(ValueError, match="short: expected uint8"):
        Hack("short", "", "", lambda frames, seed, fps: frames[1:])(clips[0].frames, 0, 8.0)


def test_auc_counts_the_clips_above_their_own_twin_and_ties_half(clips):
    names = ("over_exposure", "static", "border")
    report = attack({"brightness": Brightness(), "blind": Blind()}, {"world": clips}, pick_hacks(names))
    auc = {(row.reward, row.hack): row.auc for row in report.rows}
    assert auc["brightness", "over_exposure"] == 0 and auc["brightness", "border"] == 1
    assert {auc["blind", name] for name in names} == {0.5}
    assert all(row.n == 4 and row.ci[0] <= row.auc <= row.ci[1] for row in report.rows)
    assert report.hackability["blind"]["world"].value == 1
    json.dumps(report.as_json())


def test_hackability_is_the_mean_share_of_twins_paid_at_least_as_much():
    scored = [{CLEAN: 1.0, "a": 1.0, "b": 0.0}, {CLEAN: 1.0, "a": 2.0, "b": 0.5}, {CLEAN: 1.0, "a": 0.0, "b": 0.0}]
    found = hackability(scored, ["x", "y", "z"])
    assert found.value == pytest.approx(1 / 3) and found.n == found.scenes == 3
    assert 0 <= found.ci[0] <= found.value <= found.ci[1] <= 1


def test_clips_of_one_scene_widen_the_interval(clips):
    same = [CleanClip(str(k), clip.frames, clip.fps, None, "one room") for k, clip in enumerate(clips)]
    (row,) = attack({"blind": Blind()}, {"real": same}, pick_hacks(["static"])).rows
    assert (row.n, row.scenes) == (4, 1)
    assert row.ci_scenes[1] - row.ci_scenes[0] > row.ci[1] - row.ci[0]


def test_workers_do_not_change_the_numbers(clips):
    rewards, chosen = {"farm": load_reward("farm")}, pick_hacks(["shuffle", "noise"])
    assert attack(rewards, {"world": clips}, chosen) == attack(rewards, {"world": clips}, chosen, workers=2)


def test_a_reward_that_needs_prompts_is_not_tried_without(clips):
    silent = [CleanClip(clip.name, clip.frames, clip.fps, None, clip.scene) for clip in clips]
    report = attack({"wordy": Wordy()}, {"world": clips, "real": silent}, pick_hacks(["static"]))
    assert [row.clips for row in report.rows] == ["world"]
    assert report.skipped == ["wordy on real: needs prompts, and these clips have none"]


def test_a_reward_that_is_not_finite_is_an_error(clips):
    with pytest.raises(ValueError, match="broken: expected a finite reward"):
        attack({"broken": Broken()}, {"world": clips}, pick_hacks(["static"]))


def test_no_hack_is_an_error(clips):
    with pytest.raises(ValueError, match="at least one hack"):
        attack({"blind": Blind()}, {"world": clips}, {})


def test_world_seeds_are_split_at_a_million():
    assert [part_of_seed(seed) for seed in (0, 999_999, 1_000_000, 2_000_000)] == ["tune", "tune", "judge", "judge"]
    tune, judge = world_clips(2, "tune", seed=3), world_clips(2, "judge", seed=3)
    assert [clip.name for clip in tune] == ["world/6", "world/7"]
    assert [clip.name for clip in judge] == ["world/1000006", "world/1000007"]
    assert all(clip.prompt for clip in tune + judge)
    with pytest.raises(ValueError, match="seeds of the tune part"):
        world_clips(10, "tune", seed=100_000)
    with pytest.raises(ValueError, match="expected one of tune, judge"):
        world_clips(1, "train")


@pytest.mark.parametrize("name, part", [
    ("Surfing/v_Surfing_g07_c02.mp4", "judge"), ("Surfing/v_Surfing_g08_c01.mp4", "tune"), ("v_YoYo_g25_c07", "tune"),
    ("1009929137.mp4", "judge"), ("mine/g08_c01.mp4", "judge")])
def test_ucf_groups_from_eight_on_tune_and_all_else_judges(name, part):
    assert part_of_item(VideoItem(name, name)) == part


def test_real_clips_move_and_no_scene_is_on_both_sides(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("EVALKIT_MEDIA", str(tmp_path))
    where = [f"ucf101:{assets / 'data/ucf101/clips64'}",
             f"webvid:{assets / 'data/webvid'}?csv=results_2M_val_subset.csv"]
    scenes = {part: {hack_clips._scene(item) for item in real_videos(where, part)} for part in hack_clips.PARTS}
    assert not scenes["tune"] & scenes["judge"] and len(scenes["tune"]) == 6 * 18
    first = real_videos(where, "judge")[:len(scenes["judge"])]
    assert len({hack_clips._scene(item) for item in first}) == len(scenes["judge"])  # one of each before any second
    found, left_out = real_clips(where, 6, "tune")
    assert len(found) == 6 and all(clip.motion >= LEAST_MOTION for clip in found)
    assert left_out["below the dynamic-degree floor"] > 0


def test_unusable_files_are_left_out_and_counted(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    torch.save(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), tmp_path / "short.pt")
    torch.save(torch.zeros(20, 3, 16, 16, dtype=torch.uint8), tmp_path / "no_rate.pt")
    clips, left_out = real_clips([tmp_path], 5)
    assert clips == []
    assert left_out == {"cannot be read": 1, "shorter than 12 frames": 1, "no frame rate": 1}


def test_the_command_prints_the_table_and_writes_it(tmp_path, capsys):
    out = tmp_path / "attack.json"
    assert evalkit(["rewards", "attack", "temporal_flicker", "--n", "3", "--hacks", "luma_flicker,noise", "--workers",
                    "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "luma_flicker" in printed and "hackability of temporal_flicker on world" in printed
    assert "no real clips" in printed
    found = json.loads(out.read_text())
    assert [row["hack"] for row in found["rows"]] == ["luma_flicker", "noise"] and found["part"] == "judge"


def test_all_skips_rewards_without_weights_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    assert evalkit(["rewards", "attack", "--all", "--n", "1", "--hacks", "static", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "clip_alignment skipped" in printed and "clip_alignment_mini" in printed


@pytest.mark.parametrize("arguments, message", [
    ([], "expected names of rewards, or --all"), (["farm", "--all"], "expected names of rewards, or --all"),
    (["magic"], "expected a reward of"), (["farm", "--hacks", "magic"], "unknown hack 'magic'"),
    (["farm", "--n", "0"], "--n: expected at least 1 clip"), (["farm", "--workers", "0"], "--workers"),
    (["farm", "--clips", "nowhere/"], "found nothing at nowhere/")])
def test_bad_requests_are_answered_in_one_line(arguments, message, capsys):
    assert evalkit(["rewards", "attack", *arguments, *(["--n", "1"] if "--n" not in arguments else [])]) == 2
    assert message in capsys.readouterr().err


def test_prompts_that_a_reward_cannot_read_leave_it_out_and_not_the_run():
    foreign = [replace(clip, prompt="archery at dawn") for clip in world_clips(2)]
    report = attack({name: load_reward(name) for name in ("farm", "preference", "clip_alignment_mini")},
                    {"foreign": foreign}, pick_hacks(["noise"]))
    assert {row.reward for row in report.rows} == {"farm"}
    assert len(report.skipped) == 2 and all("archery" in why for why in report.skipped)
