"""The defect statistics on made-up clips: finite, each clip's own, and moved by the defects they are meant for."""
from functools import lru_cache

import numpy as np
import pytest
import torch

from evalkit.data import defect_statistics as module
from evalkit.data.defect_reader import DefectReader
from evalkit.data.defect_statistics import defect_statistics, num_statistics
from evalkit.data.scene import SPLITS, make_scene
from evalkit.mini.defects import draw_tasks, fit, recorded, statistics_of, train_defects
from evalkit.mini.stream import DEFECTS, damaged_frames, severities_of
from evalkit.mini.weights import load_weights

SCENES = [make_scene(SPLITS["test"] + k) for k in range(6)]


@lru_cache
def clips(defect=None, severity=3):
    """(6, 16, 3, 64, 64) in [0, 1] of one defect."""
    defects = [[(defect, severity, 5)] if defect else [] for _ in SCENES]
    return damaged_frames(SCENES, defects).float() / 255


def luma(frames):
    return torch.einsum("btchw,c->bthw", frames * 255, torch.tensor(module.LUMA))


@pytest.mark.parametrize("kind", ["black", "white", "constant", "noise"])
def test_finite_on_clips_that_are_not_of_the_world(kind):
    shape = (2, *module.SHAPE)
    frames = {"black": torch.zeros(shape), "white": torch.ones(shape), "constant": torch.full(shape, 0.4),
              "noise": torch.rand(shape, generator=torch.Generator().manual_seed(0))}[kind]
    found = defect_statistics(frames)
    assert found.shape == (2, num_statistics()) and found.isfinite().all()


def test_each_clip_is_measured_alone():
    frames = clips()
    together = defect_statistics(frames)
    alone = torch.cat([defect_statistics(frame[None]) for frame in frames])
    assert torch.allclose(together, alone, atol=1e-5, rtol=1e-5)
    others = torch.cat([frames[:1], torch.rand(3, *module.SHAPE)])
    assert torch.allclose(defect_statistics(others)[0], together[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 3, 64, 64), (1, 15, 3, 64, 64), (1, 16, 1, 64, 64), (1, 16, 3, 32, 64)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        defect_statistics(torch.zeros(shape))


MEANT = {  # defect: what measures it, and whether it makes that larger
    "repeat": (lambda x: module._order(x)[:, 0], False),  # the first step
    "shuffle": (lambda x: module._order(x)[:, 88], True),  # mean seam
    "slow_motion": (lambda x: module._mixtures(x)[:, 30 + module.MIXERS.index("slow_motion") * 5 + 2], False),
    "crossfade": (lambda x: module._mixtures(x)[:, 30 + module.MIXERS.index("crossfade") * 5 + 2], False),
    "luma_flicker": (lambda x: module._gains(x)[:, 0], True),
    "colour_flicker": (lambda x: module._gains(x)[:, 8], True),
    "camera_jitter": (lambda x: module._trembling(luma(x / 255))[:, 0], True),
    "noise": (lambda x: module._sharpness(luma(x / 255))[:, 24], True),  # in the flattest places
    "blur": (lambda x: module._sharpness(luma(x / 255))[:, 8], False),  # high frequencies
    "blocks": (lambda x: module._blocks(luma(x / 255))[:, 3], False),  # distance to severity 3's multiples
    "banding": (lambda x: module._levels(x)[:, 2], False),  # distance to severity 3's levels
    "over_exposure": (lambda x: module._levels(x)[:, 7], False),  # levels out of severity 3's reach
    "grid": (lambda x: module._overlays(x, luma(x / 255))[:, 0], False),
    "border": (lambda x: module._overlays(x, luma(x / 255))[:, 2], False),
    "caption_overlay": (lambda x: module._overlays(x, luma(x / 255))[:, 12], True),
}


@pytest.mark.parametrize("defect", MEANT)
def test_a_defect_moves_the_statistic_meant_for_it(defect):
    measure, larger = MEANT[defect]
    moved = measure(clips(defect) * 255) - measure(clips() * 255)
    assert ((moved > 0) == larger).float().mean() > 0.8


def test_lost_directions_are_orthonormal_and_blind_to_what_never_changes():
    for directions in module._lost_directions():
        assert directions.shape[1] >= 1
        assert torch.allclose(directions.T @ directions, torch.eye(directions.shape[1]).double(), atol=1e-9)
        assert directions.sum(0).abs().max() < 0.5


def test_tasks_depend_on_the_seed_alone_and_stay_in_the_training_split():
    tasks = draw_tasks(64, 3)
    assert tasks == draw_tasks(64, 3) != draw_tasks(64, 4)
    assert len(tasks) == 2 and all(seed < SPLITS["test"] for seeds, *_ in tasks for seed in seeds)


def test_a_recording_is_close_to_what_was_recorded():
    assert (recorded((clips() * 255).round().to(torch.uint8)) - clips()).abs().mean() < 0.03


def test_training_writes_weights_that_read_back_and_runs_alike_again(tmp_path):
    progress = list(train_defects(tmp_path / "defects.safetensors", 64, 1, 0))
    assert progress[1] == {"clips": 64} and "loss" in progress[-1]
    again = list(train_defects(tmp_path / "defects.safetensors", 64, 1, 0))
    assert again[-1]["loss"] == pytest.approx(progress[-1]["loss"])
    load_weights(DefectReader(len(DEFECTS)), tmp_path / "defects.safetensors")


def test_a_reader_learns_and_reads_frames_as_it_reads_statistics():
    task = draw_tasks(32, 0)[0]
    statistics, severities = torch.from_numpy(statistics_of(task)), severities_of(task[1])
    reader = DefectReader(len(DEFECTS))
    losses = [step["loss"] for step in fit(reader, statistics, severities, 0)]
    assert np.mean(losses[-3:]) < losses[0]
    answers = reader(clips())
    assert {name: value.shape for name, value in answers.items()} == {
        "defects": (6, len(DEFECTS)), "severity": (6, len(DEFECTS))}
    assert torch.allclose(answers["defects"], reader.read(defect_statistics(clips()))["defects"])
