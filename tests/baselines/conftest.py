"""A model of the preset "smoke", trained for a few steps, that tests start from."""
import pytest
import torch

from baselines import pretrain
from baselines.model import VideoDiffusion
from baselines.presets import PRESETS
from baselines.train import train

SMOKE = pretrain.PRESETS["smoke"] | {"preset": "smoke", "device": "cpu", "eval_every": 0}


@pytest.fixture(scope="session")
def build_smoke():
    """seed -> a model with random weights, of which the last layer is not 0: its answer depends on all it is given."""
    def build(seed=0):
        model = VideoDiffusion.build(PRESETS["smoke"], seed)
        with torch.no_grad():
            weight = model.transformer.proj_out.weight
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.2)
        return model
    return build


@pytest.fixture(scope="session")
def smoke():
    """Settings of a run of a few steps on the CPU."""
    return SMOKE


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """The folder of a checkpoint."""
    out = tmp_path_factory.mktemp("baseline") / "pretrained"
    config = pretrain.Config(**SMOKE | {"out": str(out), "lr": 0.02})
    train(pretrain.build(config), config)
    return out
