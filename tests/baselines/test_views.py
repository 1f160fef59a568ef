"""Views of a video to train on: where they lie, what is done to them, and that they are read and kept once."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import pretrain, sft
from baselines.buckets import Mixed
from baselines.data import captioned, open_clips
from baselines.model import VideoDiffusion
from baselines.presets import find_preset
from baselines.reading import read_frames, read_views
from baselines.views import COMBINATIONS, View, all_views, changed, turned, viewed
from evalkit.cli import main
from evalkit.data import video
from evalkit.data.video import write_video
from evalkit.errors import UsageError

SMOKE = replace(find_preset("smoke"), text="words")  # of any prompt
VIEWS = {"places": 3, "mirrored": True, "changes": COMBINATIONS}


@pytest.fixture
def videos(tmp_path):
    """Two of 24 frames, whose brightness tells the time, with a brighter left half; and a table of them."""
    rows = []
    for name, blue in (("a", 30), ("b", 90)):
        frames = torch.zeros(24, 3, 64, 64, dtype=torch.uint8)
        frames[:, :2] = (60 + 6 * torch.arange(24, dtype=torch.uint8))[:, None, None, None]
        frames[:, 2], frames[:, :, :, :32] = blue, frames[:, :, :, :32] + 40
        write_video(tmp_path / f"{name}.mp4", frames, 8.0)
        rows.append({"path": f"{name}.mp4", "prompt": f"a video {name}"})
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "all.jsonl"


def test_there_is_a_view_of_every_kind_whose_prompt_says_what_was_changed(videos):
    items = list(viewed(captioned(str(videos)), **VIEWS))
    assert len(items) == 2 * 3 * 2 * 4 and len({item.name for item in items}) == len(items)
    told = [item.prompt for item in items]
    assert told.count("a video a") == told.count("a video b") == 6
    assert {prompt.removeprefix("a video b").strip() for prompt in told[24:]} == {"", *COMBINATIONS}
    assert list(viewed(captioned(str(videos)), 1, False)) == captioned(str(videos))
    with pytest.raises(UsageError, match="--places: expected at least 1, got 0"):
        all_views(0, False)


def test_every_combination_of_changes_comes_equally_often():
    several = [view.change for view in all_views(5, True, COMBINATIONS, 3)]
    assert {several.count(one) for one in COMBINATIONS} == {2} and several.count("") == 10
    single = [view.change for start in range(5) for view in all_views(1, False, COMBINATIONS, start)]
    assert {single.count(one) for one in COMBINATIONS} == {1}


def test_places_lie_evenly_from_start_to_end_and_changes_do_what_they_are_called(videos):
    items = list(viewed(captioned(str(videos))[:1], **VIEWS))
    seen = {item.view: frames.float() for item, frames in zip(items, read_views(items, SMOKE), strict=True)}
    firsts = [seen[View(k, 3)][0, 0, 0, 63] for k in range(3)]
    assert [float(one) for one in firsts] == pytest.approx([60, 84, 108], abs=3)  # frames 0, 4 and 8 of 24
    plain = seen[View(1, 3)]
    assert torch.equal(seen[View(1, 3, True)], plain.flip(-1))
    assert torch.equal(read_frames(next(item for item in items if item.view == View(1, 3)), SMOKE).float(), plain)
    for view, frames in seen.items():
        assert frames.shape == plain.shape
        passing = frames[:, 0].mean((1, 2)).diff().mean()
        assert passing < 0 if "backwards" in view.change else passing > 0


def ramps(height, width):
    """Float (1, 3, H, W) whose first two channels say where a pixel lies: x and y."""
    down, right = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in (height, width)), indexing="ij")
    return torch.stack([right, down, torch.full_like(down, 100.0)])[None]


def step_of(frames):
    """Angle, and length in pixels of the source, of 30 pixels to the right in the middle of turned `ramps`."""
    x, y = (frames[0, k, frames.shape[2] // 2] for k in (0, 1))  # bicubic ramps are wavy: far apart
    return [float(one) for one in (torch.atan2(y[35] - y[5], x[35] - x[5]), torch.hypot(x[35] - x[5], y[35] - y[5]))]


def test_changes_do_what_they_are_called_and_another_is_refused():
    frames = ramps(64, 64).round().byte().expand(2, 3, 64, 64)
    for seed in range(20):
        seen = {change: changed(frames, change, np.random.default_rng(seed)).float() for change in COMBINATIONS}
        angle, length = step_of(seen["enlarged"])
        assert abs(angle) < 0.02 and 30 / 1.4 - 1 < length < 30 / 1.1 + 1
        angle, length = step_of(seen["tilted"])
        assert abs(angle) < np.radians(12) + 0.02 and abs(length * (np.cos(angle) + abs(np.sin(angle))) - 30) < 1.5
        gains = seen["recoloured"].mean((0, 2, 3)) / frames.float().mean((0, 2, 3))
        assert 0.69 < gains.min() < gains.max() < 1.31
    angles = [step_of(changed(frames, "tilted", np.random.default_rng(seed)).float())[0] for seed in range(20)]
    assert min(angles) < -0.1 and max(angles) > 0.1
    with pytest.raises(ValueError, match="expected changes of enlarged, tilted, backwards, recoloured, got down, upsi"):
        changed(frames, "upside down", np.random.default_rng(0))


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (90, 40)])
@pytest.mark.parametrize("angle", [0.2, -0.2])
def test_a_picture_is_turned_and_placed_as_asked_with_its_corners_just_hidden(size, angle):
    height, width = size
    cos, sin = np.cos(angle), abs(np.sin(angle))
    scale = 1 / max(cos + sin * height / width, cos + sin * width / height)
    for times in (1.0, 1.3):
        found = turned(ramps(*size), times, angle, np.zeros(2))
        assert step_of(found) == pytest.approx([angle, 30 * scale / times], abs=0.7 / times) and abs(
            step_of(found)[0] - angle) < 0.02
        for place in ([0, 0], [1, 1], [-1, 1], [1, -1]):
            x, y, _ = turned(ramps(*size), times, angle, np.array(place))[0]
            for side, length, at in zip((x, y), (width, height), place, strict=True):
                low, high = side.min(), length - 1 - side.max()  # how far what is seen lies from either edge
                assert abs(low - high) < 1.5 if at == 0 else (high if at > 0 else low) < 1.5


def test_a_view_is_the_same_whenever_it_is_drawn():
    frames = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    view = View(change=COMBINATIONS[-1])
    assert torch.equal(view.of(frames, "a"), view.of(frames, "a")) and not torch.equal(view.of(frames, "a"),
                                                                                       view.of(frames, "b"))


def test_a_video_is_decoded_once_for_all_its_views_and_not_again(videos, tmp_path, monkeypatch):
    opened = []
    real = video.read_clips
    monkeypatch.setattr(video, "read_clips", lambda source, *rest, **more: opened.append(Path(source).name) or real(
        source, *rest, **more))
    model = VideoDiffusion.build(SMOKE)
    mixed = Mixed(places=3, mirrored=True, changes=True)
    first = open_clips(model, str(videos), str(tmp_path / "kept"), 0, mixed=mixed).store
    assert sorted(opened) == ["a.mp4", "b.mp4"] and len(first.items) == 48
    again = open_clips(model, str(videos), str(tmp_path / "kept"), 0, mixed=mixed).store
    assert len(opened) == 2
    for k in (0, 5, 47):
        assert torch.equal(first.rows([k])["frames"], again.rows([k])["frames"])
        assert torch.equal(again.frames([k])[0], again.rows([k])["frames"][0].float() / 255)
    rows = first.rows([0, 1])
    assert not torch.equal(*rows["text"]) and first.items[1].prompt == "a video a enlarged"
    assert torch.equal(rows["no_text"], model.encode_prompts(["", "enlarged"]))


def test_a_video_that_cannot_be_read_leaves_out_all_its_views(videos, tmp_path):
    (videos.parent / "a.mp4").write_bytes(b"nothing")
    store = open_clips(VideoDiffusion.build(SMOKE), str(videos), str(tmp_path / "kept"), 0, 1,
                       mixed=Mixed(places=2, mirrored=True)).store
    assert list(store.failures) == ["a.mp4"]
    assert [item.prompt for item in store.items] == ["a video b"] * 4


def test_views_that_show_what_another_shows_are_left_out_and_are_no_failures(videos, tmp_path):
    Image.new("RGB", (64, 64), (200, 40, 90)).save(videos.parent / "g.png")
    frames = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, 64, 64, 3).numpy()
    np.save(videos.parent / "d.npy", frames)  # of exactly the preset's length: there is one place
    with videos.open("a") as table:
        for name in ("d.npy", "g.png"):
            table.write(json.dumps({"path": name, "prompt": name[0], "fps": 8}) + "\n")
    model = VideoDiffusion.build(replace(SMOKE, transformer=SMOKE.transformer | {"patch_size": [1, 16, 16]}))
    mixed = Mixed(buckets=True, places=2, changes=True)
    for _ in range(2):  # read, and from the cache
        store = open_clips(model, str(videos), str(tmp_path / "kept"), 0, mixed=mixed).store
        told = [item.prompt for item in store.items if item.prompt[0] in "gd"]
        assert told == ["d", "d recoloured", "d enlarged tilted", "d enlarged backwards",
                        "g", "g enlarged", "g tilted"]  # the third would be backwards
        assert len(store.items) == 2 * 8 + len(told) and not store.failures


@pytest.mark.parametrize("bad", [b"", b"nothing", np.array(["text"])])
def test_a_bad_npy_file_is_listed_and_no_stack_trace(bad, videos, tmp_path):
    if isinstance(bad, bytes):
        (videos.parent / "e.npy").write_bytes(bad)
    else:
        np.save(videos.parent / "e.npy", bad)
    with videos.open("a") as table:
        table.write(json.dumps({"path": "e.npy", "prompt": "e", "fps": 8}) + "\n")
    store = open_clips(VideoDiffusion.build(SMOKE), str(videos), str(tmp_path / "kept"), 0, 1).store
    assert list(store.failures) == ["e.npy"] and len(store.items) == 2


def test_flags_that_do_not_go_with_changes_are_said(videos, tmp_path):
    with pytest.raises(UsageError, match="--changes: expected a text encoder that knows the words enlarged"):
        open_clips(VideoDiffusion.build(find_preset("smoke")), str(videos), str(tmp_path), 0,
                   mixed=Mixed(changes=True))
    with pytest.raises(UsageError, match="--changes goes without --reward"):
        sft.build(sft.Config(data=str(videos), changes=True, reward="farm", select="top"))


def test_a_prompt_that_a_preset_cannot_read_is_said_before_anything_is_encoded(videos, tmp_path):
    with pytest.raises(UsageError, match=r"a.mp4: 'a video a': .*not 'video'; take --preset ucf101"):
        open_clips(VideoDiffusion.build(find_preset("smoke")), str(videos), str(tmp_path / "kept"), 0)
    assert not (tmp_path / "kept").exists()


def test_the_made_up_world_has_no_views(tmp_path, capsys):
    with pytest.raises(UsageError, match="--places, --mirrored and --changes: expected --data with videos"):
        pretrain.build(pretrain.Config(out=str(tmp_path), preset="smoke", places=2))
    assert main(["baseline", "pretrain", "--preset", "smoke", "--changes", "--out", str(tmp_path / "run")]) == 2
    assert "--changes" in capsys.readouterr().err
    assert not list((tmp_path / "run").iterdir())  # other flags may be tried there
