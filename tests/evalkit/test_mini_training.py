import itertools

import numpy as np
import torch

from evalkit.data.captions import claims
from evalkit.data.scene import make_scene
from evalkit.data.synthetic import render_scene
from evalkit.mini.classes import CLASSES
from evalkit.mini.stream import DEFECTS, WorldStream, factors_of, places_of, render_pools, severities_of
from evalkit.mini.tasks import VideoTask
from evalkit.mini.training import Config, train


def batches(seed=0, count=2, clean=0.4):
    stream = WorldStream(render_pools(40, 0, "cpu", 1), [lambda scenes, defects: {
        "severity": severities_of(defects), "seed": torch.tensor([scene.seed for scene in scenes])}], 8, seed, clean)
    return list(itertools.islice(iter(stream), count))


def test_the_stream_is_the_same_for_the_same_seed_and_another_for_another():
    first, again, other = batches(), batches(), batches(seed=1)
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].targets[0]["seed"], other[0].targets[0]["seed"])


def test_clips_said_to_be_clean_are_the_rendered_scenes():
    for batch in batches(count=3):
        found = batch.targets[0]
        for frames, severity, seed in zip(batch.frames, found["severity"], found["seed"].tolist(), strict=True):
            same = torch.equal(frames, render_scene(make_scene(seed), size=frames.shape[-1]))
            assert same or severity.any()


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
    assert places[8] == int(y) * 16 + int(x)
    assert bool((places_of([scene], [[("shuffle", 1, 0)]]) == -100).all())


def test_training_writes_weights_that_load_and_says_how_it_went(tmp_path):
    from evalkit.features.mini_video import MiniVideoNetwork
    from evalkit.mini.weights import load_weights

    told = list(train(["video"], tmp_path, Config(steps=3, batch_size=4, scenes=40, warmup=2), "cpu", 0))
    assert told[-1]["step"] == 3 and np.isfinite(told[-1]["video.severity"])
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
