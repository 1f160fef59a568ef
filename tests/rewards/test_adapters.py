"""Each adapter, called the way its trainer calls it (the signatures' sources are named in rewards/adapters.py)."""
import inspect
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evalkit.metrics.base import Measurement
from rewards.adapters import FastVideoReward, flow_factory_reward, plain_reward, verl_omni_score
from rewards.base import Reward
from rewards.farm import Farm


class Rising(Reward):
    """Brightness of the last frame less the first one's, plus red's mean: tells frames from channels. Has a weight."""

    name, needs_prompts, needs_fps = "rising", True, True

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def measure(self, frames, features, prompts, fps):
        rise = frames[:, -1].mean((1, 2, 3)) - frames[:, 0].mean((1, 2, 3))
        letters = torch.tensor([float(len(prompt)) for prompt in prompts])
        return Measurement(self.gain * rise + frames[:, :, 0].mean((1, 2, 3)), {"letters": letters, "fps": fps})


def videos(count=2, frames=5):
    """Floats (B, T, 3, H, W) that uint8 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, 3, 8, 10), generator=generator).float() / 255


def wanted(frames, prompts):
    return Rising()(frames, prompts, 16.0).tolist()


@pytest.fixture
def flow_factory(monkeypatch):
    """A stand-in with Flow-Factory's published base classes: what they are made of and how they are made."""

    @dataclass
    class RewardModelOutput:
        rewards: object
        extra_info: dict | None = None

    class PointwiseRewardModel:
        required_fields, use_tensor_inputs = ("image", "prompt"), False

        def __init__(self, config, accelerator):
            self.accelerator, self.config, self.model = accelerator, config, None
            self.device = accelerator.device if config.device == torch.device("cuda") else config.device

    package = ModuleType("flow_factory.rewards.abc")
    package.PointwiseRewardModel, package.RewardModelOutput = PointwiseRewardModel, RewardModelOutput
    for name in ("flow_factory", "flow_factory.rewards"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "flow_factory.rewards.abc", package)
    return package


def test_flow_factory_model_is_made_and_called_as_its_processor_does(flow_factory):
    kind = flow_factory_reward(Rising(), fps=16)
    settings = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, batch_size=2)
    model = kind(config=settings, accelerator=SimpleNamespace(device=torch.device("cpu")))
    assert isinstance(model, flow_factory.PointwiseRewardModel)
    assert model.use_tensor_inputs and set(model.required_fields) == {"prompt", "video"}
    clips = [videos(1)[0], videos(1, frames=7)[0]]  # a list of (T, C, H, W), unequal
    output = model(prompt=["a", "bc"], video=clips, audio=None, metadata=["{}", "{}"])
    assert isinstance(output, flow_factory.RewardModelOutput)
    rewards = torch.as_tensor(output.rewards, device="cpu", dtype=torch.float32)  # as the processor takes them
    assert rewards.tolist() == pytest.approx([wanted(clip[None], [p])[0] for clip, p in zip(clips, "ab", strict=True)])
    assert output.extra_info["letters"].tolist() == [1.0, 2.0]
    assert not output.rewards.requires_grad
    with pytest.raises(ValueError, match="expected videos"):
        model(prompt=["a"], image=[None])


def test_flow_factory_parameters_are_the_published_ones(flow_factory):
    published = ["self", "prompt", "image", "video", "audio", "condition_images", "condition_videos", "kwargs"]
    assert list(inspect.signature(flow_factory_reward(Rising(), 16).__call__).parameters) == published


def test_flow_factory_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "flow_factory.rewards.abc", None)
    with pytest.raises(ImportError, match="Flow-Factory is not installed"):
        flow_factory_reward(Rising(), fps=16)


@pytest.mark.parametrize("layout, order", [("CTHW", (1, 0, 2, 3)), ("TCHW", (0, 1, 2, 3))])
def test_verl_omni_score_is_called_by_keyword_with_one_uint8_video(layout, order):
    compute_score = verl_omni_score(Rising(), fps=16, layout=layout)
    assert not inspect.iscoroutinefunction(compute_score)  # the manager then runs it in an executor
    frames = videos(1)
    video = (frames[0] * 255).round().to(torch.uint8).permute(order)
    told = compute_score(data_source="prompts", solution_image=video, ground_truth="bc",
                         extra_info={"num_turns": None, "rollout_reward_scores": {}}, model_name="none")
    assert told["score"] == pytest.approx(wanted(frames, ["bc"])[0], abs=1e-6)
    assert told["rising/letters"] == 2.0
    assert all(type(value) is float for value in told.values())


@pytest.mark.parametrize("video, why", [
    (torch.zeros(3, 5, 8, 8), "uint8 tensor, got torch.float32"),
    (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), "layout="),
    (torch.zeros(3, 8, 8, dtype=torch.uint8), "3 channels"),
    (None, "NoneType"),
])
def test_verl_omni_video_of_another_kind_is_refused(video, why):
    with pytest.raises(ValueError, match=why):
        verl_omni_score(Rising(), fps=16)(data_source="", solution_image=video, ground_truth="a", extra_info={})


def test_fastvideo_model_scores_channels_first_and_sits_in_a_module_list():
    model = FastVideoReward(Rising(), fps=16)
    assert nn.ModuleList([model])[0] is model
    assert [name for name, _ in model.named_parameters()] == ["reward.gain"]
    frames = videos(3)
    rewards = model.compute_reward(frames.transpose(1, 2), ["a", "b", "c"], step=3)
    assert rewards.shape == (3,) and rewards.dtype == torch.float32 and not rewards.requires_grad
    assert rewards.tolist() == pytest.approx(wanted(frames, ["a", "b", "c"]), abs=1e-6)
    assert torch.equal(model(frames.transpose(1, 2), ["a", "b", "c"]), rewards)  # the newer scorer's call
    with pytest.raises(ValueError, match=r"\(B, 3, T, H, W\)"):
        model.compute_reward(frames, ["a", "b", "c"])
    with pytest.raises(ValueError, match="expected 3 prompts"):
        model.compute_reward(frames.transpose(1, 2), ["a"])


def test_plain_function_takes_what_scripts_and_trl_hand_over():
    score = plain_reward(Rising(), fps=16)
    assert inspect.isfunction(score) and score.__name__ == "rising"  # TRL logs by name; a module would be a classifier
    frames, prompts = videos(), ["a", "bc"]
    numbers = (frames * 255).round().to(torch.uint8)
    last = numbers.permute(0, 1, 3, 4, 2).numpy()
    shapes = {"tensors": list(frames), "batch": frames, "uint8": list(numbers), "arrays": list(last),
              "float arrays": list((last / 255).astype(np.float32)),
              "PIL": [[Image.fromarray(frame) for frame in video] for video in last]}
    for name, given in shapes.items():
        found = score(given, prompts)
        assert isinstance(found, list) and all(type(one) is float for one in found), name
        assert found == pytest.approx(wanted(frames, prompts), abs=1e-5), name
    assert score(prompts=prompts, completions=list(frames), completion_ids=None, step=[1, 2]) == pytest.approx(
        wanted(frames, prompts), abs=1e-6)
    with pytest.raises(ValueError, match="one of the two"):
        score(prompts=prompts)


def test_adapters_give_the_rewards_own_number():
    frames = videos(2, frames=6)
    found = plain_reward("farm", fps=8)(list(frames))
    assert found == pytest.approx(Farm()(frames, fps=8).tolist(), abs=1e-6)


@pytest.mark.parametrize("make", [FastVideoReward, plain_reward, verl_omni_score, flow_factory_reward])
def test_frame_rate_is_asked_for_when_the_adapter_is_made_and_never_guessed(make):
    with pytest.raises(ValueError, match="rising: expected fps"):
        make(Rising())
    with pytest.raises(ValueError, match="positive"):
        make(Rising(), fps=0)
    with pytest.raises(ValueError, match="expected a reward of"):
        make("no_such_reward", fps=16)
    with pytest.raises(ValueError, match="expected a reward or the name"):
        make(3, fps=16)


def test_wrong_pixels_and_prompts_are_refused():
    score = plain_reward(Rising(), fps=16)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        score([videos(1)[0] * 255], ["a"])
    with pytest.raises(ValueError, match="got one string"):
        score([videos(1)[0]], "a")
    with pytest.raises(ValueError, match="expected 1 prompts"):
        score([videos(1)[0]])
    assert score([], []) == []
