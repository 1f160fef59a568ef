"""Two processes that share the weights train as one that holds them, and stop and go on as it does."""
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from torch.torch_version import TorchVersion

from baselines import dpo, pretrain, vae
from baselines.checkpoints import load_model
from baselines.loop_state import read_state
from baselines.sample import write_sample
from baselines.sharding import shard_transformer
from baselines.tracking import read_log
from baselines.train import train
from baselines.world import world_prompts
from evalkit.cli import main
from evalkit.data.corruptions import corrupt
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.errors import UsageError
from rewards.data import Pair, write_pairs

PRETRAIN = pretrain.PRESETS["smoke"] | {"preset": "smoke", "device": "cpu", "eval_every": 0, "optimizer": "adamw",
                                        "steps": 5, "lr": 0.001, "log_every": 1}


class Killed(Exception):
    pass


def run(module, settings, kill=0):
    """Train to the end, or until this step is done."""
    def stop(name, done, of):
        if done == kill:
            raise Killed

    config = module.Config(**settings)
    with pytest.raises(Killed) if kill else nullcontext():
        train(module.build(config), config, stop)


def write_clips(folder):
    """pairs.jsonl of clips of the world, of which those that are rejected are over-exposed."""
    pairs = []
    for k, prompt in enumerate(world_prompts(4)):
        frames = render_scenes([make_scene(SPLITS["test"] + k, level="simple")])[0]
        write_sample(folder / f"{k}-good.npy", frames, 8.0)
        write_sample(folder / f"{k}-bad.npy", corrupt(frames, "over_exposure", 5, seed=k, fps=8.0), 8.0)
        pairs.append(Pair(f"{k}-good.npy", f"{k}-bad.npy", prompt))
    return write_pairs(folder / "pairs.jsonl", pairs)


@pytest.fixture(scope="module")
def runs(pretrained, tmp_path_factory):
    """A folder of runs. one, dpo-one: by one process; dpo-two: begun by one; the rest by two that share the weights."""
    out = tmp_path_factory.mktemp("sharding")
    run(pretrain, PRETRAIN | {"out": f"{out}/one"})
    run(pretrain, PRETRAIN | {"out": f"{out}/muon-one", "optimizer": "muon", "steps": 2})
    preference = dpo.PRESETS["smoke"] | {"preset": "smoke", "source": str(pretrained), "device": "cpu", "lr": 0.001,
                                         "log_every": 1, "save_every": 1, "pairs": str(write_clips(out))}
    run(dpo, preference | {"out": f"{out}/dpo-one"})
    run(dpo, preference | {"out": f"{out}/dpo-two"}, kill=2)
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__,
                    str(out), str(pretrained)], check=True, timeout=200)
    return out


def train_sharded(out, pretrained):
    """What each of the two processes does."""
    from accelerate import Accelerator

    Accelerator.end_training = lambda self: None  # would end the group of processes, which the next run needs, too
    settings = PRETRAIN | {"shard": True, "accumulate": 2}
    run(pretrain, settings | {"out": f"{out}/whole", "save_every": 4}, kill=5)
    if torch.distributed.get_rank() == 0:
        shutil.copy(f"{out}/whole/state.pt", f"{out}/whole.pt")
    cut = settings | {"out": f"{out}/cut", "save_every": 2}
    run(pretrain, cut, kill=3)
    run(pretrain, cut, kill=5)
    if torch.distributed.get_rank() == 0:
        shutil.copy(f"{out}/cut/state.pt", f"{out}/cut.pt")
    run(pretrain, cut)
    run(pretrain, settings | {"out": f"{out}/muon", "optimizer": "muon", "steps": 2, "save_every": 1}, kill=2)
    run(pretrain, settings | {"out": f"{out}/muon", "optimizer": "muon", "steps": 2})
    assert not main(["baseline", "dpo", "--preset", "smoke", "--from", pretrained, "--device", "cpu", "--lr", "0.001",
                     "--log-every", "1", "--save-every", "1", "--pairs", f"{out}/pairs.jsonl", "--shard",
                     "--checkpointing", "0.5", "--out", f"{out}/dpo-two"])


def same_training(one, two, atol=1e-4):
    for name, error in (("loss", 1e-4), ("gradient", 1e-3)):
        first, second = ([row[name] for row in read_log(out) if name in row] for out in (one, two))
        assert first == pytest.approx(second, rel=error)
    first, second = (load_file(out / "model.safetensors") for out in (one, two))
    assert set(first) == set(second)
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=atol) for name in first)


def test_two_processes_that_share_the_weights_train_as_one(runs):
    same_training(runs / "one", runs / "cut")
    same_training(runs / "muon-one", runs / "muon", atol=1e-3)  # bfloat16 inside
    assert load_model(runs / "cut").sample(world_prompts(1), [0], steps=1).isfinite().all()


def test_a_sharded_run_that_was_stopped_goes_on_to_the_bit(runs):
    whole, cut = (read_state(runs / name) for name in ("whole.pt", "cut.pt"))
    assert whole["step"] == cut["step"] == 4
    for part in ("weights", "ema"):
        assert all(torch.equal(whole[part][name], cut[part][name]) for name in whole[part])


def test_a_sharded_run_goes_on_in_one_process(runs):
    run(pretrain, PRETRAIN | {"out": f"{runs}/whole"})
    same_training(runs / "one", runs / "whole")


def test_a_preference_run_of_one_process_goes_on_with_shards(runs):
    """With an adapter, its reference beside it, and samples that are judged."""
    same_training(runs / "dpo-one", runs / "dpo-two")
    one, two = (json.loads((runs / name / "summary.json").read_text())["evaluations"]
                for name in ("dpo-one", "dpo-two"))
    assert one[0]["diversity"] == pytest.approx(two[0]["diversity"], rel=1e-3)
    assert load_model(runs / "dpo-two").sample(world_prompts(1), [0], steps=1).isfinite().all()


def test_shards_are_refused_where_there_are_none(tmp_path):
    with pytest.raises(UsageError, match="torchrun"):
        run(pretrain, PRETRAIN | {"out": str(tmp_path), "shard": True})
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="--shard are for transformers"):
        vae.build(vae.Config(shard=True))


def test_an_old_torch_is_named_where_it_cannot_share_an_adapter_and_half_precision(build_smoke, monkeypatch):
    transformer = build_smoke().transformer
    transformer.proj_out.bfloat16()
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.1"))
    with pytest.raises(UsageError, match=r"need torch 2\.9, this is 2\.8\.1"):
        shard_transformer(transformer, torch.device("cpu"), torch.float32)


if __name__ == "__main__":
    train_sharded(*sys.argv[1:])
