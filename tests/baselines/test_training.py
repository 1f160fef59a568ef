"""The one loop: stopping and going on, parts and processes, guards, and what a full disk leaves."""
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from baselines import pretrain
from baselines.loop_state import Diverged, has_diverged, rate_at, read_state
from baselines.shipped import FOLDER
from baselines.stage import Draws, Shard
from baselines.tracking import read_log
from baselines.train import settle_folder, train
from evalkit.cli import main
from evalkit.errors import UsageError


def run(smoke, out, **settings):
    """Train to the end; returns what state.pt holds."""
    config = pretrain.Config(**smoke | {"out": str(out), "lr": 0.02, "log_every": 1} | settings)
    train(pretrain.build(config), config)
    return read_state(out / "state.pt")


def same(first, second):
    return all(torch.equal(first[part][name], second[part][name]) for part in ("weights", "ema")
               for name in first[part])


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(smoke, tmp_path):
    """To the bit, although its world remembers only the newest clips."""
    whole = run(smoke, tmp_path / "whole", remembered=12, steps=7, decay="constant")
    config = pretrain.Config(**smoke | {"out": str(tmp_path / "cut"), "lr": 0.02, "log_every": 1, "remembered": 12,
                                        "steps": 7, "decay": "constant", "save_every": 3})

    class Killed(Exception):
        pass

    def kill(name, done, of):
        if done == 5:  # two steps after the last state was saved
            raise Killed

    with pytest.raises(Killed):
        train(pretrain.build(config), config, kill)
    assert read_state(tmp_path / "cut" / "state.pt")["step"] == 3
    train(pretrain.build(config), config)
    cut = read_state(tmp_path / "cut" / "state.pt")
    assert cut["step"] == 7 and same(whole, cut)
    assert [row["loss"] for row in read_log(tmp_path / "cut")] == [row["loss"] for row in read_log(tmp_path / "whole")]


def test_an_interrupt_ends_the_step_and_saves_it(smoke, tmp_path):
    whole = run(smoke, tmp_path / "whole", steps=6)
    config = pretrain.Config(**smoke | {"out": str(tmp_path / "cut"), "lr": 0.02, "log_every": 1, "steps": 6})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(pretrain.build(config), config, lambda name, done, of: done != 4 or os.kill(os.getpid(), signal.SIGINT))
    assert read_state(tmp_path / "cut" / "state.pt")["step"] == 4 and signal.getsignal(signal.SIGINT) is before
    train(pretrain.build(config), config)
    assert same(whole, read_state(tmp_path / "cut" / "state.pt"))
    seconds = [row["seconds"] for row in read_log(tmp_path / "cut")]
    assert len(seconds) == 6 and seconds == sorted(seconds)  # those before the interrupt count


def test_parts_of_a_batch_add_up_to_the_batch(smoke, tmp_path):
    whole, parts = (run(smoke, tmp_path / str(count), accumulate=count, steps=1) for count in (1, 3))
    step = torch.cat([(whole["weights"][name] - parts["weights"][name]).flatten() for name in whole["weights"]]).abs()
    assert step.max() < 1e-3 and float(step.mean()) < 1e-5  # of steps of 0.02: AdamW divides by tiny gradients


def test_two_processes_train_as_one(smoke, tmp_path):
    run(smoke, tmp_path / "one", steps=2, lr=0.001)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "evalkit", "baseline", "pretrain", "--preset", "smoke", "--steps", "2", "--eval-every", "0", "--device",
               "cpu", "--lr", "0.001", "--log-every", "1", "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=1e-4)
    assert [row["gradient"] for row in one] == pytest.approx([row["gradient"] for row in two], rel=1e-3)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-3) for name in first)


def test_every_process_takes_other_rows_of_the_same_draws():
    whole = Draws(0, 3, 6, torch.device("cpu"))
    rows = [Shard(rank, 2).rows(6) for rank in (0, 1)]
    assert sorted([*rows[0], *rows[1]]) == list(range(6))
    noise = whole.noise(range(6), (2,))
    assert torch.equal(whole.noise(rows[1], (2,)), noise[rows[1]])
    assert not torch.equal(Draws(0, 4, 6, torch.device("cpu")).noise(range(1), (2,)), noise[:1])


def test_clips_are_noised_at_evenly_drawn_times_where_asked_for(smoke, tmp_path, monkeypatch):
    config = pretrain.Config(**smoke | {"out": str(tmp_path), "even": 1.0})
    stage = pretrain.build(config)
    batch, seen = next(stage.batches(0, Shard())), []
    batch.draws = Draws(0, 0, config.batch_size, torch.device("cpu"))
    monkeypatch.setattr(stage.model, "velocity", lambda x_t, t, text: seen.append(t) or 0 * x_t)
    stage.loss(batch)
    shift = stage.model.preset.shift
    assert torch.equal(seen[0], batch.draws.times(batch.rows, shift, 1.0))
    assert not torch.equal(seen[0], batch.draws.times(batch.rows, shift))


class Poisoned(pretrain.Denoising):
    """From step 3 on every clip is not a number."""

    bad = float("nan")

    def batches(self, start, shard):
        for step, batch in enumerate(super().batches(start, shard), start):
            if step >= 3:
                batch.tensors["text"] = batch.tensors["text"] + self.bad
            yield batch


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_batch(smoke, tmp_path):
    config = pretrain.Config(**smoke | {"out": str(tmp_path), "steps": 8, "save_every": 2, "log_every": 4,
                                        "decay": "constant"})
    stage = pretrain.build(config)
    stage = Poisoned(stage.model, stage.clips, config)
    with pytest.raises(Diverged, match=r"step 3: the loss is nan.*Its batch: .*background.*lower --lr"):
        train(stage, config)
    state = read_state(tmp_path / "state.pt")
    assert state["step"] == 2 and all(value.isfinite().all() for value in state["weights"].values())
    lower = replace(config, lr=config.lr / 8)  # as advised
    train(pretrain.build(lower), lower)
    assert read_state(tmp_path / "state.pt")["step"] == 8
    assert read_log(tmp_path)[0]["lr"] == config.lr and read_log(tmp_path)[-1]["lr"] == lower.lr
    with pytest.raises(UsageError, match=r"lr: .* Give another --out"):
        settle_folder(tmp_path, config)  # it has ended


def test_a_folder_in_which_nothing_was_learned_takes_another_run(smoke, tmp_path):
    settle_folder(tmp_path, pretrain.Config(**smoke | {"out": str(tmp_path), "places": 3}))
    settle_folder(tmp_path, pretrain.Config(**smoke | {"out": str(tmp_path), "batch_size": 7}))
    assert run(smoke, tmp_path, steps=1)["step"] == 1
    same_run = {"out": f"{tmp_path}/", "steps": 1, "lr": 0.02, "log_every": 1, "max_failures": 2}
    settle_folder(tmp_path, pretrain.Config(**smoke | same_run))


def test_a_spike_stops_the_run(tmp_path):
    from baselines.loop_state import Guard

    guard = Guard(factor=10)
    quiet = torch.ones(60)
    guard.check(range(60), quiet, quiet, [["a clip"]] * 60, tmp_path)
    with pytest.raises(Diverged, match=r"step 61: the loss is 11, and 1 is usual\. Its batch: a bad clip"):
        guard.check([60, 61], torch.tensor([9.0, 11.0]), quiet[:2], [["a clip"], ["a bad clip"]], tmp_path)
    fitted = Guard(factor=10, recent=[0.001] * 60, start=1.0)  # preferences that are learnt, and one that is not
    fitted.check([60], torch.tensor([5.0]), quiet[:1], [["a hard pair"]], tmp_path)


def test_a_full_disk_leaves_the_last_good_state(smoke, tmp_path):
    run(smoke, tmp_path, steps=2, decay="constant")
    before = (tmp_path / "state.pt").read_bytes()
    config = pretrain.Config(**smoke | {"out": str(tmp_path), "steps": 2, "lr": 0.02, "log_every": 1,
                                        "decay": "constant"})
    (tmp_path / "config.json").unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="last good state is kept"):
            train(pretrain.build(config), replace(config, steps=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*.partial"))


def test_a_file_where_a_folder_should_be_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    for stage in (["pretrain", "--preset", "smoke"], ["sample", "--from", str(FOLDER / "pretrain"), "--steps", "1",
                                                      "--prompts", "world:1"]):
        assert main(["baseline", *stage, "--out", str(tmp_path / "run")]) == 2
        assert f"--out {tmp_path / 'run'}: cannot write there: " in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused_by_what_differs(smoke, tmp_path):
    run(smoke, tmp_path, steps=1)
    with pytest.raises(UsageError, match=r"lr: 0.02, now 0.5\. Give another --out"):
        run(smoke, tmp_path, steps=1, lr=0.5)
    assert run(smoke, tmp_path, steps=1, lr=0.5, overwrite=True)["step"] == 1
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.5


def test_a_run_from_before_a_flag_was_there_goes_on_with_its_default(smoke, tmp_path):
    run(smoke, tmp_path, steps=1, decay="constant")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items()
                                if name != "buckets"}))
    assert run(smoke, tmp_path, steps=1, decay="constant")["step"] == 1
    with pytest.raises(UsageError, match="buckets: False, now True"):
        settle_folder(tmp_path, pretrain.Config(**smoke | {"out": str(tmp_path), "buckets": True}))


def test_training_lowers_the_loss(smoke, tmp_path):
    run(smoke, tmp_path, steps=40, lr=0.01)
    losses = [row["loss"] for row in read_log(tmp_path)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_proxy_that_rises_while_the_held_out_value_falls_is_seen():
    assert has_diverged([1, 2, 3, 4], [5, 4.9, 4.8, 4.7], patience=3)
    assert not has_diverged([1, 2, 3, 4], [5, 4.9, 4.8, 5.1], patience=3)  # it came back
    assert not has_diverged([4, 3, 2, 1], [5, 4, 3, 2], patience=3)  # both fall: not an over-optimization
    assert not has_diverged([1, 2, 3, 4], [5, 4.9, 4.8, 4.7], patience=0)
    assert not has_diverged([], [], patience=3)


def test_the_rate_rises_and_then_falls_or_stays():
    assert [rate_at(step, 100, 4, "constant") for step in (0, 3, 99)] == [0.25, 1.0, 1.0]
    assert rate_at(50, 100, 4, "cosine") == pytest.approx(0.5) and rate_at(99, 100, 4, "cosine") < 0.001
    with pytest.raises(UsageError, match="cosine"):
        rate_at(0, 10, 1, "linear")
