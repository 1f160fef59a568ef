"""Published reward models that are vision-language networks: VideoReward, VideoScore2, HPSv3 (weights not shipped).

VideoReward: Liu et al., 2025 (2501.13918); VideoScore2: He et al., 2025 (2509.22799); HPSv3: Ma et al., 2025.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evalkit.clips import ClipSpec
from evalkit.metrics.base import Measurement
from rewards.base import Reward
from rewards.frames import evenly_spaced
from rewards.reward_head import PREPARE, load_head, load_settings
from rewards.vlm import (
    Question,
    digest,
    expectation,
    filled,
    find_model,
    load_pretrained,
    load_tokenizer,
    make_question,
    put_it_there,
    sampled,
    token_id,
)

FRAMES = 8  # of a clip, each judged alone by HPSv3
MOST_FRAMES = 64  # of a clip, 32 s at 2 a second: what a language model reads grows with them
RATE = 2.0  # frames a second, as both video judges were trained


class External(Reward):
    """What they share: a model found on this machine, a prompt template, and where they are exact.

    model: a folder, or the name of a hub model that was downloaded; nothing is downloaded by itself. dtype: "auto" is
    that of the file. Clips are judged one by one, so that a reward does not depend on its batch.
    """

    needs_prompts = True
    range = (-math.inf, math.inf)
    spec = ClipSpec(fps=RATE, max_frames=MOST_FRAMES, min_frames=2, size=None)

    def parameters_of_protocol(self) -> dict[str, Any]:
        """Hashes the weights: slow on a first call."""
        return {"weights_sha256": digest(self.folder), "dtype": str(self.model.dtype).removeprefix("torch."),
                "template_sha256": hashlib.sha256(self.template.encode()).hexdigest(), "pixels": list(self.pixels)}

    def question(self, frames: Tensor, prompt: str, **options: Any) -> Question:
        """Frames (T, 3, H, W) and the filled template as the model reads them."""
        return make_question(self.model, self.tokenizer, frames, filled(self.template, prompt), self.pixels, **options)

    def sampled(self, clip: Tensor, fps: Tensor) -> tuple[Tensor, float]:
        """The frames of (T, 3, H, W) that are read, and how many a second they are."""
        rows = sampled(len(clip), float(fps), RATE, MOST_FRAMES)
        return clip[rows], len(rows) / len(clip) * float(fps)

    def asked(self, prompts: Sequence[str] | None, fps: Tensor | None, clips: int) -> list[tuple[str, Any]]:
        """Prompt and rate of each clip; ValueError where one is missing."""
        if prompts is None or (self.needs_fps and fps is None):
            raise ValueError(f"{self.name}: expected {'a prompt' if prompts is None else 'fps'} per clip, got None")
        return list(zip(prompts, [None] * clips if fps is None else fps, strict=True))


class Headed(External):
    """A Qwen2-VL whose hidden state at special tokens of the prompt is turned into numbers by a small head.

    Loaded from a folder that `python -m rewards.reward_head` wrote of the published checkpoint: safetensors, the
    tokenizer with its special tokens, the head, and reward.json with the template and the published scales.
    """

    published: str  # on the hub

    def __init__(self, model: str | None = None, dtype: str | torch.dtype = "auto") -> None:
        super().__init__()
        self.folder = find_model(model or self.published, "reward.json", PREPARE[self.name])
        self.settings = load_settings(self.folder, self.name)
        self.template, self.pixels = self.settings.template, self.settings.pixels
        self.tokenizer = load_tokenizer(self.folder)
        self.tokens = [token_id(self.tokenizer, token) for token in self.settings.tokens]
        self.model = load_pretrained("Qwen2VLModel", self.folder, dtype)
        self.head = load_head(self.folder, self.model.config.text_config.hidden_size)

    def read(self, question: Question) -> Tensor:
        """(tokens, outputs) of the head, float32. ValueError where a special token is not there exactly once."""
        states = self.model(**question.inputs(self.model.config)).last_hidden_state[0]
        found = [(question.ids[0] == token).nonzero()[:, 0] for token in self.tokens]
        if any(len(rows) != 1 for rows in found):
            raise ValueError(f"{self.name}: expected each of {', '.join(self.settings.tokens)} once in the template, "
                             f"got {[len(rows) for rows in found]}")
        return self.head(states[torch.cat(found)].float())


class VideoReward(Headed):
    """VQ + MQ + TA of KwaiVGI/VideoReward, each less its published mean, over its published standard deviation.

    Components visual, motion and text are the three. About 2 frames a second are read, at most 64, from the first to
    the last. Differentiable in the frames that are read. MissingWeights where the model is not here; ValueError for a
    folder of another model.
    """

    name = "video_reward"
    summary = "VideoReward (Qwen2-VL-2B, external): visual quality, motion quality and text alignment, standardised"
    needs_fps = True
    published = "KwaiVGI/VideoReward"

    def parameters_of_protocol(self) -> dict[str, Any]:
        return super().parameters_of_protocol() | {"rate": RATE, "most_frames": MOST_FRAMES,
                                                   "mean": list(self.settings.mean), "std": list(self.settings.std)}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        rows = []
        for clip, (prompt, rate) in zip(frames, self.asked(prompts, fps, len(frames)), strict=True):
            rows.append(self.read(self.question(self.sampled(clip, rate)[0], prompt))[:, 0])
        raw = torch.stack(rows)  # (B, 3)
        scores = (raw - raw.new_tensor(self.settings.mean)) / raw.new_tensor(self.settings.std)
        return Measurement(scores.sum(1), dict(zip(("visual", "motion", "text"), scores.unbind(1), strict=True)))


class HPSv3(Headed):
    """Mean over 8 frames of MizzenAI/HPSv3's mu, a preference score of pictures, less k times its sigma.

    k = 0 by default; components `uncertainty` (the mean sigma: errors on frames of one clip are alike) and
    `worst_frame`. It cannot see motion. Differentiable in the frames that are read. Errors as `VideoReward`.
    """

    name = "hpsv3"
    summary = "HPSv3 (Qwen2-VL-7B, external): human preference score of 8 frames, mean; mean - k * std as an option"
    published = "MizzenAI/HPSv3"
    spec = ClipSpec(num_frames=FRAMES, min_frames=1, placement="uniform", size=None)
    min_frames = 1

    def __init__(self, model: str | None = None, k: float = 0.0, dtype: str | torch.dtype = "auto") -> None:
        super().__init__(model, dtype)
        self.k = _checked(k)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return super().parameters_of_protocol() | {"frames": FRAMES, "k": self.k}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        rows = []
        for clip, (prompt, _) in zip(evenly_spaced(frames, FRAMES), self.asked(prompts, fps, len(frames)), strict=True):
            rows.append(torch.cat([self.read(self.question(frame[None], prompt, medium="image")) for frame in clip]))
        mu, sigma = torch.stack(rows).unbind(2)  # (B, F); the network's second number is ln sigma
        uncertainty = sigma.exp().mean(1)
        return Measurement(mu.mean(1) - self.k * uncertainty,
                           {"uncertainty": uncertainty, "worst_frame": mu.amin(1)}, {"frame": mu})


class VideoScore2(External):
    """Mean of the three scores, each in 1 to 5, that TIGER-Lab/VideoScore2 gives a video, less k times their spread.

    The model writes its thoughts (at most `thoughts` tokens, always the likeliest one; 0: none), and is then made to
    answer in the form that the prompt asks for. A score is the expectation of 1 to 5 under the logits of the digits at
    its place; components visual, text, physics and `uncertainty`, the mean of the digits' standard deviations. The
    gradient is that of the answer with the thoughts held fixed. About 2 frames a second, at most 64, are read.
    template: another wording, with {prompt}. MissingWeights where the model is not here.
    """

    name = "videoscore2"
    summary = "VideoScore2 (Qwen2.5-VL-7B, external): thinks, then scores looks, text and physics from 1 to 5"
    range = (1.0, 5.0)
    needs_fps = True
    published = "TIGER-Lab/VideoScore2"
    pixels = (128 * 28**2, 768 * 28**2)

    def __init__(self, model: str | None = None, k: float = 0.0, thoughts: int = 1024, template: str | None = None,
                 dtype: str | torch.dtype = "auto") -> None:
        super().__init__()
        if thoughts < 0:
            raise ValueError(f"thoughts: expected 0 or more tokens, got {thoughts}")
        name = model or self.published
        self.folder = find_model(name, "config.json", f"get it with: hf download {self.published} (about 17 GB), or "
                                                      f"put its files in {put_it_there(self.published)}")
        self.k, self.thoughts, self.template = _checked(k), thoughts, QUESTION if template is None else template
        if "{prompt}" not in self.template:
            raise ValueError(f"template: expected text with {{prompt}}, got {self.template!r}")
        self.tokenizer = load_tokenizer(self.folder)
        self.digits = [token_id(self.tokenizer, str(score)) for score in range(1, 6)]
        self.model = load_pretrained("Qwen2_5_VLForConditionalGeneration", self.folder, dtype)

    def parameters_of_protocol(self) -> dict[str, Any]:
        return super().parameters_of_protocol() | {"rate": RATE, "most_frames": MOST_FRAMES, "k": self.k,
                                                   "thoughts": self.thoughts}

    def measure(self, frames: Tensor, features: Mapping[str, Any], prompts: Sequence[str] | None,
                fps: Tensor | None) -> Measurement:
        rows = []
        for clip, (prompt, rate) in zip(frames, self.asked(prompts, fps, len(frames)), strict=True):
            chosen, spacing = self.sampled(clip, rate)
            rows.append(self._digit_logits(self.question(chosen, prompt, rate=spacing)))
        logits = torch.stack(rows)  # (B, 3, 5)
        scores, spread = expectation(logits, torch.arange(1.0, 6.0, device=logits.device))
        uncertainty = spread.mean(1)
        return Measurement(scores.mean(1) - self.k * uncertainty,
                           dict(zip(ANSWER, scores.unbind(1), strict=True)) | {"uncertainty": uncertainty})

    def _digit_logits(self, question: Question) -> Tensor:
        """(3, 5): of the digits 1 to 5 where each score stands."""
        places, question = [], question.followed_by(self._think(question))
        for step, words in enumerate(ANSWER.values()):
            question = question.followed_by(self.tokenizer.encode(words, add_special_tokens=False))
            places.append(question.ids.shape[1] - 1)
            if step < len(ANSWER) - 1:  # what is answered later is read after what was answered before
                with torch.no_grad():
                    best = self._logits(question, places[-1:])[0, self.digits].argmax()
                question = question.followed_by([self.digits[int(best)]])
        return self._logits(question, places)[:, self.digits]

    def _logits(self, question: Question, places: list[int]) -> Tensor:
        """(places, vocabulary) of what follows."""
        keep = torch.tensor(places, device=question.ids.device)
        return self.model(**question.inputs(self.model.config), logits_to_keep=keep).logits[0]

    @torch.no_grad()
    def _think(self, question: Question) -> list[int]:
        if not self.thoughts:
            return []
        inputs = question.inputs(self.model.config)
        said = self.model.generate(**inputs, max_new_tokens=self.thoughts, do_sample=False, stop_strings=[END],
                                   tokenizer=self.tokenizer, pad_token_id=self.tokenizer.pad_token_id)
        text = self.tokenizer.decode(said[0, question.ids.shape[1]:], skip_special_tokens=True)
        return self.tokenizer.encode(f"{text.split(END)[0]}{END}\n", add_special_tokens=False)


END = "</think>"
ANSWER = {"visual": "visual quality: ", "text": ";\ntext-to-video alignment: ",
          "physics": ",\nphysical/common-sense consistency: "}
QUESTION = """You are an expert who judges videos that a model made from a prompt, on three points:
(1) visual quality: is it clear and smooth, free of artifacts;
(2) text-to-video alignment: does it show what the prompt says;
(3) physical/common-sense consistency: could it happen so.

The prompt: {prompt}

Think first. Then answer in this form, each score a whole number from 1 (bad) to 5 (perfect):
visual quality: <score>;
text-to-video alignment: <score>,
physical/common-sense consistency: <score>
"""


def _checked(k: float) -> float:
    if not 0 <= k < math.inf:
        raise ValueError(f"k: expected 0 or more standard deviations, got {k}")
    return k


