import pytest
import torch

from evalkit.data.captions import FACTORS, caption, claims
from evalkit.data.corruptions import available_corruptions, corrupt
from evalkit.data.defect_reader import DefectReader
from evalkit.data.oracle import build_oracle, read_frames, read_video_file
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scene, render_scenes, write_world
from evalkit.data.video import VideoError, write_video

SCENES = [make_scene(SPLITS["test"] + k) for k in range(80)]


@pytest.fixture(scope="module")
def readings():
    return read_frames(render_scenes(SCENES))


@pytest.mark.parametrize("factor", ["shape", "colour", "direction", "size", "ground", "pattern", "cut", "pace",
                                    "camera", "others"])
def test_it_reads_what_it_was_not_trained_on(readings, factor):
    right = sum(reading.factors[factor] == claims(scene)[factor]
                for reading, scene in zip(readings, SCENES, strict=True))
    assert right >= 76, f"{right} of {len(SCENES)}"


def test_a_reading_answers_every_factor_of_the_captions_and_every_defect(readings):
    for reading in readings:
        assert set(reading.factors) == set(FACTORS) == set(reading.confidence)
        assert list(reading.defects) == list(reading.severities) == available_corruptions()
        assert all(0 <= p <= 1 for p in (*reading.defects.values(), *reading.confidence.values()))
        assert len(list(filter(None, reading.factors["others"].split(", ")))) == int(reading.factors["count"]) - 1


def test_true_captions_hold_and_those_of_another_clip_do_not(readings):
    true = [caption(scene) for scene in SCENES]

    def held(prompts):
        return sum(all(reading.agrees(prompt).values()) for reading, prompt in zip(readings, prompts, strict=True))

    assert held(true) > 68 and held(true[1:] + true[:1]) < 8
    wrong = readings[0].agrees(true[1])
    assert not all(wrong.values()) and set(wrong) <= set(FACTORS)


@pytest.mark.parametrize("name", ["border", "noise", "blur", "luma_flicker", "shuffle", "freeze", "repeat", "banding"])
def test_what_is_broken_is_named_and_what_is_whole_is_not(readings, name):
    damaged = [corrupt(frames, name, 3, seed=k, fps=8) for k, frames in enumerate(render_scenes(SCENES[:30]))]
    found = [reading.broken() for reading in read_frames(torch.stack(damaged))]
    assert sum(name in broken for broken in found) >= 28
    assert sum(name in reading.broken() for reading in readings) <= 2


def test_the_files_that_the_world_writes_are_not_called_broken(tmp_path):
    rows = list(write_world(tmp_path, 40, "test"))
    broken = [read_video_file(str(tmp_path / row["path"])).broken() for row in rows]
    assert sum(map(bool, broken)) <= 3, broken


def test_reading_does_not_depend_on_the_batch_or_on_the_number_format():
    frames = render_scenes(SCENES[:3])
    (alone,) = read_frames(frames[1:2])
    assert alone.factors == read_frames(frames)[1].factors == read_frames(frames.float() / 255)[1].factors


def test_a_file_of_another_size_and_rate_is_read_alike(tmp_path):
    scene = SCENES[0]
    write_video(tmp_path / "clip.mp4", render_scene(scene, 48, 24, 128), 24)
    found = read_video_file(str(tmp_path / "clip.mp4")).factors
    for factor in ("shape", "colour", "direction", "ground"):
        assert found[factor] == claims(scene)[factor], factor


def test_what_it_cannot_read_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"expected \(B, 16, 3, H, W\), got \(1, 8, 3, 64, 64\)"):
        read_frames(torch.zeros(1, 8, 3, 64, 64))
    write_video(tmp_path / "short.mp4", torch.zeros(4, 3, 64, 64, dtype=torch.uint8), 8)
    with pytest.raises(VideoError, match="too short"):
        read_video_file(str(tmp_path / "short.mp4"))


def test_an_untrained_oracle_knows_nothing():
    torch.manual_seed(0)
    found = read_frames(render_scenes(SCENES[:40]), (build_oracle().eval(), DefectReader().eval()))
    right = sum(reading.factors["colour"] == claims(scene)["colour"]
                for reading, scene in zip(found, SCENES, strict=False))
    assert right < 20, "so the accuracy above comes from the weights"
