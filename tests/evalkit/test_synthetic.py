import json

import pytest
import torch

from evalkit.clips import ClipSpec
from evalkit.data.captions import REGISTERS, caption, claims, parse
from evalkit.data.scene import Scene, make_scene
from evalkit.data.synthetic import QUALITIES, render_clip, render_scene, write_samples, write_world
from evalkit.data.video import read_clips

WHOLE = ClipSpec(size=None)


def rows_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


@pytest.mark.parametrize("fps", [16, 24, 56])
def test_a_clip_shows_the_same_at_any_frame_rate_and_tells_the_same(fps):
    for seed in range(12):
        slow, fast = render_clip(seed, 16, 8, 32), render_clip(seed, 2 * fps, fps, 32)
        assert torch.equal(fast.frames[:: fps // 8], slow.frames)
        assert fast.prompt == slow.prompt


def test_a_shorter_clip_is_the_beginning_of_a_longer_one():
    for seed in range(24):
        if not make_scene(seed).lines:
            assert torch.equal(render_clip(seed, 6, size=32).frames, render_clip(seed, 17, size=32).frames[:6])


def test_seeds_vary_the_clip_and_contents_the_prompt():
    one, other = render_clip(1, content=5), render_clip(2, content=5)
    assert one.prompt == other.prompt and not torch.equal(one.frames, other.frames)
    assert len({render_clip(seed, 2, size=16).prompt for seed in range(30)}) > 25


@pytest.mark.parametrize("register", REGISTERS)
def test_a_clip_comes_with_a_true_caption_of_its_state(register):
    for seed in range(10):
        clip = render_clip(seed, 1, size=16, register=register)
        assert clip.prompt == caption(Scene.from_state(clip.state), register)
        assert parse(clip.prompt).items() <= claims(clip.scene).items()


@pytest.mark.parametrize(("wrong", "message"), [
    ({"num_frames": 0}, "expected positive"), ({"size": (0, 4)}, "expected positive"), ({"seed": -1}, "-1"),
    ({"level": "hard"}, "hard"), ({"register": "loud"}, "terse.*loud")])
def test_wrong_arguments_are_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        render_clip(**{"seed": 0} | wrong)


@pytest.mark.parametrize("quality", ["good", "flickering"])
def test_written_samples_read_back_with_their_prompts(tmp_path, quality):
    manifest = write_samples(tmp_path / quality, n=2, seeds_per_prompt=2, quality=quality, num_frames=12, size=64)
    rows = rows_of(manifest)
    assert [row["seed"] for row in rows] == [0, 1, 2, 3] and rows[0]["prompt"] == rows[1]["prompt"]
    (clip,) = read_clips(manifest.parent / rows[3]["path"], [WHOLE])[WHOLE]
    truth = render_clip(3, 12, 8, 64, content=1).frames
    assert clip.frames.shape == truth.shape and clip.fps == pytest.approx(8)
    difference = (clip.frames.float() - truth.float()).abs().mean()
    assert (difference < 4) if quality == "good" else (difference > 4)


def test_unknown_quality_lists_what_exists(tmp_path):
    with pytest.raises(ValueError, match=", ".join(QUALITIES)):
        write_samples(tmp_path, 1, quality="splendid")


@pytest.mark.parametrize("level", ["simple", "full"])
def test_a_written_world_reads_back_with_captions_and_states(tmp_path, level):
    yielded = list(write_world(tmp_path, 3, "test", first=5, level=level))
    rows = rows_of(tmp_path / "prompts.jsonl")
    assert rows == json.loads(json.dumps(yielded))
    assert [row["seed"] for row in rows] == [1_000_005, 1_000_006, 1_000_007]
    for row in rows:
        scene = Scene.from_state(row["state"])
        assert scene == make_scene(row["seed"], level=level)
        assert row["captions"] == {register: caption(scene, register) for register in REGISTERS}
        assert row["prompt"] == row["captions"]["terse"]
        (clip,) = read_clips(tmp_path / row["path"], [WHOLE])[WHOLE]
        assert clip.fps == pytest.approx(row["fps"]) and clip.frames.shape == (16, 3, 64, 64)
        assert (clip.frames.float() - render_scene(scene).float()).abs().mean() < 2.5


def test_a_second_call_renders_only_what_is_missing(tmp_path):
    list(write_world(tmp_path, 2, size=32))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    assert [row["seed"] for row in write_world(tmp_path, 5, size=32)] == [2, 3, 4]
    assert len(before) == 2 and all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert [row["seed"] for row in rows_of(tmp_path / "prompts.jsonl")] == [0, 1, 2, 3, 4]
    assert list(write_world(tmp_path, 4, size=32)) == []


def test_a_last_line_that_was_left_half_written_is_cut_off_and_its_clip_rendered_again(tmp_path):
    whole = list(write_world(tmp_path, 3, size=32))
    manifest = tmp_path / "prompts.jsonl"
    manifest.write_text(manifest.read_text()[:-40])
    assert [row["seed"] for row in write_world(tmp_path, 3, size=32)] == [2]
    assert rows_of(manifest) == json.loads(json.dumps(whole))


def test_processes_write_the_same_files_in_the_same_order(tmp_path):
    for workers in (1, 2):
        list(write_world(tmp_path / str(workers), 6, size=32, workers=workers))
    one, two = (tmp_path / name for name in "12")
    assert (one / "prompts.jsonl").read_text() == (two / "prompts.jsonl").read_text()
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.glob("*.mp4"))


def test_unknown_splits_list_what_exists(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev'; there are: train, test, compositional"):
        list(write_world(tmp_path, 1, "dev"))
