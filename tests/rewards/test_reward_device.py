from types import SimpleNamespace

import torch

from evalkit.metrics.base import Measurement
from rewards.base import Reward
from rewards.metrics import RewardMetric


class WithBuffer(Reward):
    name = "with_buffer"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(3))

    def measure(self, frames, features, prompts, fps):
        return Measurement((frames * self.weight).sum()[None])


class WithBufferMetric(RewardMetric):
    reward_class = WithBuffer


def test_a_rewards_own_buffers_follow_the_clips_to_their_device():
    frames = torch.empty(3, device="meta")
    found = WithBufferMetric().measure(SimpleNamespace(frames=frames, features={}, prompts=None, fps=None), None)
    assert found.value.device.type == "meta"
