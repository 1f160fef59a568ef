import itertools
import subprocess
import sys

import numpy as np
import torch

from evalkit.data.captions import claims
from evalkit.data.scene import make_scene
from evalkit.data.synthetic import render_scene
from evalkit.mini.classes import CLASSES
from evalkit.mini.stream import (
    DEFECTS,
    UNASKED,
    Memory,
    WorldStream,
    factors_of,
    places_of,
    severities_of,
    things_of,
)
from evalkit.mini.tasks import VideoTask
from evalkit.mini.training import Config, train


def batches(seed=0, count=2, clean=0.4):
    stream = WorldStream(lambda scenes, defects: {
        "severity": severities_of(defects), "seed": torch.tensor([scene.seed for scene in scenes])}, 8, seed, clean)
    return list(itertools.islice(iter(stream), count))


def test_the_stream_is_the_same_for_the_same_seed_and_another_for_another():
    first, again, other = batches(), batches(), batches(seed=1)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][1]["seed"], other[0][1]["seed"])


def test_clips_said_to_be_clean_are_the_rendered_scenes():
    looked_at = 0
    for clips, found in batches(count=3):
        same = torch.tensor([torch.equal(frames, render_scene(make_scene(seed)))
                             for frames, seed in zip(clips, found["seed"].tolist(), strict=True)])
        assert clips.shape == (8, 16, 3, 64, 64)
        if same.any():  # else the batch was made at another size
            assert not (found["severity"].sum(1) == 0)[~same].any()
            looked_at += 1
    assert looked_at


def test_what_is_remembered_are_the_newest_clips_with_their_own_answers():
    memory = Memory(5, "cpu")
    for start in (0, 4):
        number = torch.arange(start, start + 4)
        memory.add(number.to(torch.uint8).view(4, 1).expand(4, 3), {"number": number})
    frames, found = memory.draw(200)
    assert set(found["number"].tolist()) == {3, 4, 5, 6, 7}
    assert torch.equal((255 * frames[:, 0]).round().long(), found["number"])


def test_severities_stand_in_the_column_of_their_defect():
    found = severities_of([[], [("noise", 2, 7), ("freeze", 5, 8)]])
    assert found[0].sum() == 0 and found[1, DEFECTS.index("noise")] == 0.4 and found[1, DEFECTS.index("freeze")] == 1


def test_factors_are_the_captions_claims():
    scenes = [make_scene(seed) for seed in range(20)]
    for name, found in factors_of(scenes).items():
        assert [CLASSES[name][k] for k in found.tolist()] == [claims(scene)[name] for scene in scenes]


def test_places_are_where_the_subject_is_drawn_and_unknown_where_frames_were_moved():
    scene = next(s for s in map(make_scene, range(99)) if len(s.things) == 1 and not s.post)
    (places,) = places_of([scene], [[("noise", 1, 0)]])
    times = np.arange(16) / 8
    x, y = (scene.on_screen(times)[8] + 0.5) * 16
    assert places[8, 0] == int(y) * 16 + int(x)
    assert bool((places_of([scene], [[("shuffle", 1, 0)]]) == UNASKED).all())


def test_things_and_their_places_stand_in_the_scenes_order():
    still = (scene for scene in map(make_scene, range(99)) if scene.camera.move == "static" and not scene.cut)
    scene = next(scene for scene in still if len(scene.things) == 2)
    found, (places,) = things_of([scene]), places_of([scene], [[]])
    shapes, colours = found["shapes"][0].tolist(), found["colours"][0].tolist()
    assert [CLASSES["shape"][k] for k in shapes[:2]] == [thing.shape for thing in scene.things]
    assert [CLASSES["colour"][k] for k in colours[:2]] == [thing.colour for thing in scene.things]
    assert shapes[2] == colours[2] == UNASKED and bool((places[:, 2] == UNASKED).all())
    frame, cell = render_scene(scene)[8], int(places[8, 1])
    near = frame[:, 4 * (cell // 16):4 * (cell // 16) + 4, 4 * (cell % 16):4 * (cell % 16) + 4].float().mean((1, 2))
    elsewhere = frame.float().flatten(1).median(1).values
    assert float((near - elsewhere).abs().max()) > 20  # another colour than the ground's


def test_training_writes_weights_that_load_and_says_how_it_went(tmp_path):
    from evalkit.features.mini_video import MiniVideoNetwork
    from evalkit.mini.weights import load_weights

    told = list(train("video", tmp_path, Config(steps=3, batch_size=4, fresh=4, remembered=32, warmup=2), "cpu", 0))
    assert told[-1]["step"] == 3 and np.isfinite(told[-1]["severity"])
    load_weights(MiniVideoNetwork(), tmp_path / "video.safetensors")


def test_a_few_steps_on_one_batch_lower_the_loss():
    torch.manual_seed(0)
    task = VideoTask().train()
    scenes = [make_scene(seed) for seed in range(8)]
    frames = torch.stack([render_scene(scene) for scene in scenes]).float() / 255
    targets = VideoTask.targets(scenes, [[] for _ in scenes])
    optimizer = torch.optim.Adam(task.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = sum(task.loss(frames, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_networks_are_trained_where_no_video_can_be_decoded(tmp_path):
    words = ("world", "train", "video", "--steps", "1", "--batch-size", "2", "--workers", "0", "--out", str(tmp_path))
    code = f"import sys; sys.modules['av'] = None; from evalkit.cli import main; sys.exit(main({list(words)}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "video.safetensors").stat().st_size > 0
