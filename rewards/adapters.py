"""A reward as trainers call one: Flow-Factory, verl-omni, FastVideo, and plain callables (TRL, diffusers scripts).

None of these packages is needed here. `reward` is a name for `load_reward` or a reward itself; `fps`, the frame rate of
what the trainer makes, is given here where the reward needs it, since no trainer tells. All of them judge samples, so
no gradient is kept: trainers that climb a reward's gradient call the reward itself.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rewards.base import Reward

Video = Tensor | np.ndarray | Sequence[Any]


class _Judge:
    """The reward behind every adapter: one call at a time, since trainers call from several threads."""

    def __init__(self, reward: str | Reward, fps: float | None) -> None:
        if isinstance(reward, str):
            from rewards.registry import load_reward

            reward = load_reward(reward)
        if not isinstance(reward, Reward):
            raise ValueError(f"expected a reward or the name of one, got {type(reward).__name__}")
        if reward.needs_fps and fps is None:
            raise ValueError(f"{reward.name}: expected fps, the frame rate of the videos; it is never guessed")
        if fps is not None and not fps > 0:
            raise ValueError(f"fps: expected a positive number, got {fps}")
        self.reward, self.fps, self._lock = reward, fps, threading.Lock()

    @torch.no_grad()
    def __call__(self, videos: Sequence[Tensor], prompts: Sequence[str] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards (B,) float32 and components (B,) of (T, 3, H, W) videos, on the device of the reward."""
        if prompts is not None and (isinstance(prompts, str) or len(prompts) != len(videos)):
            got = "one string" if isinstance(prompts, str) else len(prompts)
            raise ValueError(f"expected {len(videos)} prompts, one per video, got {got}")
        if not len(videos):
            return torch.zeros(0), {}
        home = self.reward.device
        clips = [_floats(video if home is None else video.to(home)) for video in videos]
        with self._lock:
            found = self.reward.measure_any(clips, prompts, self.fps)
        return found.value.float(), {name: part.float() for name, part in found.components.items()}


def _floats(video: Tensor) -> Tensor:
    """uint8 becomes float in [0, 1]; floats are left as they are, and checked by the reward."""
    return video.float() / 255 if video.dtype == torch.uint8 else video


def flow_factory_reward(reward: str | Reward, fps: float | None = None) -> type:
    """A class for Flow-Factory's `reward_model: my_module.MyReward`, written as `MyReward = flow_factory_reward(…)`.

    Signature: X-GenGroup/Flow-Factory, src/flow_factory/rewards/abc.py at 5f6cda1, PointwiseRewardModel: made as
    `cls(config=…, accelerator=…)`, called as `model(prompt=…, video=…)` with, under use_tensor_inputs, a list of
    (T, C, H, W) in [0, 1] of unequal shapes; answers a RewardModelOutput with rewards (B,) and the components as
    extra_info. RewardProcessor (reward_processor.py at 0e8437e) takes only subclasses of its own base class, so
    Flow-Factory must be importable: ImportError otherwise.
    """
    judge = _Judge(reward, fps)
    try:
        from flow_factory.rewards.abc import PointwiseRewardModel, RewardModelOutput
    except ImportError as error:
        raise ImportError("Flow-Factory is not installed here: its reward processor takes subclasses of its own "
                          f"PointwiseRewardModel alone ({error})") from error

    class FlowFactoryReward(PointwiseRewardModel):
        """Each video's reward, independent of the others."""

        required_fields = ("prompt", "video")
        use_tensor_inputs = True

        def __init__(self, config: Any, accelerator: Any) -> None:
            super().__init__(config, accelerator)
            self.model = judge.reward.to(self.device)

        def __call__(self, prompt: list[str], image: Any = None, video: Sequence[Tensor] | None = None,
                     audio: Any = None, condition_images: Any = None, condition_videos: Any = None, **kwargs: Any):
            if video is None:
                raise ValueError(f"{judge.reward.name}: expected videos, got none: this reward judges no pictures")
            rewards, components = judge(video, prompt)
            return RewardModelOutput(rewards=rewards, extra_info=components)

    return FlowFactoryReward


def verl_omni_score(reward: str | Reward, fps: float | None = None,
                    layout: Literal["CTHW", "TCHW"] = "CTHW") -> Callable[..., dict[str, float]]:
    """The `compute_score` of a file for verl-omni's `reward.custom_reward_function.path`.

    Signature: verl-project/verl-omni, verl_omni/reward_loop/reward_manager/visual.py at 1486d9c: called by keyword
    with data_source, solution_image (one uint8 video), ground_truth (its prompt), extra_info and, at times, more;
    answers {"score": float, …}, where every other key becomes a logged metric: here "<reward>/<component>".
    layout: of the video. Both occur there: rollouts of (C, T, H, W), and videoalign.py at dc5e749 reads (T, C, H, W).
    The function raises ValueError where the video is not uint8 or not of that layout.
    """
    if layout not in ("CTHW", "TCHW"):
        raise ValueError(f'layout: expected "CTHW" or "TCHW", got {layout!r}')
    judge, name = _Judge(reward, fps), reward if isinstance(reward, str) else reward.name

    def compute_score(data_source: Any = None, solution_image: Tensor | None = None, ground_truth: str | None = None,
                      extra_info: Mapping[str, Any] | None = None, **kwargs: Any) -> dict[str, float]:
        """{"score": the reward, "<reward>/<component>": …} of one uint8 video."""
        video = solution_image
        if not isinstance(video, Tensor) or video.dtype != torch.uint8:
            got = video.dtype if isinstance(video, Tensor) else type(video).__name__
            raise ValueError(f"solution_image: expected a uint8 tensor, got {got}")
        if video.ndim != 4 or video.shape[layout.index("C")] != 3:
            raise ValueError(f"solution_image: expected a video of {tuple(layout)} with 3 channels, got "
                             f"{tuple(video.shape)}; the other order is layout=…")
        if layout == "CTHW":
            video = video.transpose(0, 1)
        value, components = judge([video], None if ground_truth is None else [ground_truth])
        return {"score": value.item()} | {f"{name}/{key}": part.item() for key, part in components.items()}

    return compute_score


class FastVideoReward(nn.Module):
    """A reward model for FastVideo: `compute_reward(videos, prompts) -> (B,)` of (B, C, T, H, W) in [0, 1].

    Signature: hao-ai-lab/FastVideo, BaseRewardModel of fastvideo/training/rl/rewards/base.py at 8614976 (an nn.Module;
    its docstring says (B, T, C, H, W), but rl_pipeline.py and ocr.py hand over and read (B, C, T, H, W)); and
    RewardScorer of fastvideo/train/methods/rl/rewards/media.py at 0337be8, called as `scorer(media, prompts)`.
    """

    def __init__(self, reward: str | Reward, fps: float | None = None) -> None:
        super().__init__()
        self._judge = _Judge(reward, fps)
        self.reward = self._judge.reward  # registered: `.to(device)` moves it

    def compute_reward(self, videos: Tensor, prompts: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """(B,) float32 on the device of `videos`; ValueError for another layout or number of prompts."""
        if not isinstance(videos, Tensor) or videos.ndim != 5 or videos.shape[1] != 3:
            got = tuple(videos.shape) if isinstance(videos, Tensor) else type(videos).__name__
            raise ValueError(f"videos: expected (B, 3, T, H, W), got {got}")
        return self._judge(list(videos.transpose(1, 2)), prompts)[0].to(videos.device)

    def forward(self, media: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """As `compute_reward`."""
        return self.compute_reward(media, prompts)


def plain_reward(reward: str | Reward, fps: float | None = None) -> Callable[..., list[float]]:
    """A function for scripts: `score(videos, prompts) -> list of floats`, also called by keyword as TRL does.

    Signature: huggingface/trl, trl/trainer/grpo_trainer.py at d2b69d7 (and v0.20 to v1.7): `reward_func(prompts=…,
    completions=…, **columns) -> list[float]`, whose `__name__` labels the log; an nn.Module would be taken for a
    classifier of text there, hence a function. videos (or completions): a list of (T, 3, H, W) tensors, or
    (T, H, W, 3) arrays or lists of PIL images as diffusers' pipelines answer; uint8, or floats in [0, 1].
    """
    judge = _Judge(reward, fps)

    def score(videos: Sequence[Video] | None = None, prompts: Sequence[str] | None = None, *_: Any,
              completions: Sequence[Video] | None = None, **columns: Any) -> list[float]:
        """The reward of each video."""
        if (videos is None) == (completions is None):
            raise ValueError("expected videos, or under TRL's name completions: one of the two")
        given = videos if videos is not None else completions
        return judge([_as_tensor(video) for video in given], prompts)[0].tolist()

    score.__name__ = score.__qualname__ = reward if isinstance(reward, str) else reward.name
    return score


def _as_tensor(video: Video) -> Tensor:
    """(T, 3, H, W) of a tensor, an array with channels first or last, or a list of PIL images."""
    if not isinstance(video, Tensor):
        array = video if isinstance(video, np.ndarray) else np.stack([np.asarray(frame) for frame in video])
        if array.ndim == 4 and array.shape[-1] == 3 and array.shape[1] != 3:
            array = np.moveaxis(array, -1, 1)
        video = torch.from_numpy(np.array(array))  # a copy: writable, whatever PIL handed over
    return video
