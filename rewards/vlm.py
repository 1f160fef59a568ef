"""Vision-language models of the Qwen-VL family as judges: finding and loading them, and clips as they read them.

Frames stay tensors all the way (no PIL), so that a gradient reaches them; Qwen2-VL: Wang et al., 2024.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from evalkit.features.preprocess import CLIP_MEAN, CLIP_STD, normalize, resize
from evalkit.features.weights import MissingWeights, search_directories, sha256_of, weights_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST_FRAMES = 4  # of a clip that has as many
LONGEST = 200  # times as wide as high, or as high as wide; beyond, the models were never trained
OPENING = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
CLOSING = "<|im_end|>\n<|im_start|>assistant\n"


def find_model(model: str, needed: str, advice: str) -> Path:
    """The folder of `model`, a local folder or a hub name ("TIGER-Lab/VideoScore2"), that holds a file `needed`.

    A hub name is looked for, as NAME or OWNER--NAME, in the folders of EVALKIT_WEIGHTS, in `weights_directory()`, and
    in the hub's cache; nothing is downloaded. MissingWeights, ending with `advice`, where there is none.
    """
    candidates = [Path(model).expanduser()]
    if not candidates[0].is_dir():
        names = (model.replace("/", "--"), model.split("/")[-1])
        candidates = [folder / name for folder in search_directories() for name in names]
        candidates += [found] if (found := _in_hub_cache(model)) else []
    there = [folder for folder in candidates if folder.is_dir()]
    for folder in there:
        if (folder / needed).is_file():
            return folder
    for folder in there:
        if pickled := sorted(path.name for path in folder.rglob("*") if path.suffix in (".pth", ".pt", ".bin")):
            raise MissingWeights(f"{folder}: {pickled[0]} is a pickle, which is never loaded, and there is no "
                                 f"{needed}; {advice}")
    looked = ", ".join(map(str, candidates))
    raise MissingWeights(f"{model} is not on this machine: found no {needed} in {looked}; {advice}")


def put_it_there(model: str) -> str:
    """Where a downloaded folder of `model` is found."""
    return f"{weights_directory() / model.replace('/', '--')}"


def _in_hub_cache(model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def load_pretrained(kind: str, folder: Path, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """The transformers class `kind` from the safetensors of `folder`, frozen; dtype "auto": as stored.

    ValueError where weights are missing or of another shape: transformers would leave them random.
    """
    import transformers

    try:
        model, told = getattr(transformers, kind).from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True)
    except OSError as error:
        raise MissingWeights(f"{folder}: expected safetensors of {kind}: {error}") from error
    if wrong := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise ValueError(f"{folder}: not the weights of {kind}: {len(wrong)} tensors are missing or of another shape, "
                         f"{', '.join(wrong[:3])}")
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder`, offline."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def digest(folder: Path) -> str:
    """sha256 over the names and hashes of the safetensors in `folder`: what was loaded, for the protocol."""
    told = "".join(f"{path.name} {sha256_of(path)}\n" for path in sorted(folder.glob("*.safetensors")))
    return hashlib.sha256(told.encode()).hexdigest()


def token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The one token that `text` is; ValueError where it is several."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"expected a tokenizer in which {text!r} is one token, got {len(ids)}")
    return ids[0]


def filled(template: str, prompt: str) -> str:
    """`template` with the prompt at {prompt}; ValueError for a prompt with control tokens, which would be obeyed."""
    if "<|" in prompt:
        raise ValueError(f"prompt: expected text without control tokens such as <|im_end|>, got {prompt!r}")
    return template.replace("{prompt}", prompt)


def sampled(length: int, fps: float, rate: float, most: int) -> list[int]:
    """Which of `length` frames at `fps` are read: about `rate` a second, an even number from 4 to `most`.

    Spread over the clip from its first frame to its last, as qwen-vl-utils does. All where there are 4 or fewer.
    """
    count = min(max(length / fps * rate, FEWEST_FRAMES), most, length)
    count = min(2 * round(count / 2), length)
    return [round(k * (length - 1) / max(count - 1, 1)) for k in range(count)]


def fitted(height: int, width: int, pixels: tuple[int, int], factor: int) -> tuple[int, int]:
    """(H, W) near the aspect, multiples of `factor`, the area within `pixels`. ValueError beyond 200 : 1."""
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(f"expected an aspect of at most {LONGEST} : 1, got frames of {height} x {width}")
    sides = [max(factor, round(side / factor) * factor) for side in (height, width)]
    scale, whole = 1.0, round
    if math.prod(sides) > pixels[1]:
        scale, whole = math.sqrt(pixels[1] / (height * width)), math.floor
    elif math.prod(sides) < pixels[0]:
        scale, whole = math.sqrt(pixels[0] / (height * width)), math.ceil
    if scale != 1:
        sides = [max(factor, whole(side * scale / factor) * factor) for side in (height, width)]
    return sides[0], sides[1]


def patchify(frames: Tensor, patch: int, merge: int, depth: int) -> tuple[Tensor, Tensor]:
    """(T, 3, H, W) -> (N, 3 * depth * patch^2) patches as Qwen-VL orders them, and the grid (1, 3) of t, h, w.

    T is filled up to a multiple of `depth` with the last frame; H and W are multiples of patch * merge.
    """
    if missing := -len(frames) % depth:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    t, (h, w) = len(frames) // depth, (side // patch for side in frames.shape[-2:])
    blocks = frames.reshape(t, depth, 3, h // merge, merge, patch, w // merge, merge, patch)
    rows = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
    return rows, torch.tensor([[t, h, w]], device=frames.device)


@dataclass(frozen=True)
class Question:
    """What a model is given: ids (1, L), and where among them which medium stands; the rest for `forward`."""

    ids: Tensor
    media: Mapping[str, Tensor]

    def inputs(self, config: Any) -> dict[str, Tensor]:
        """Keyword arguments of the model's `forward`."""
        kinds = (self.ids == config.image_token_id).int() + 2 * (self.ids == config.video_token_id).int()
        return {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "mm_token_type_ids": kinds,
                **self.media}

    def followed_by(self, ids: list[int]) -> Question:
        """The same with more tokens at its end."""
        return Question(torch.cat([self.ids, self.ids.new_tensor([ids])], 1), self.media)


def make_question(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, frames: Tensor, text: str,
                  pixels: tuple[int, int], medium: Literal["image", "video"] = "video",
                  rate: float | None = None) -> Question:
    """Frames (T, 3, H, W) in [0, 1] and `text` as the one message of a chat; differentiable in the frames.

    medium "image" takes one frame. rate: frames a second of those given, for models that place them in time.
    """
    config, vision = model.config, model.config.vision_config
    merge, depth = vision.spatial_merge_size, vision.temporal_patch_size
    size = fitted(*frames.shape[-2:], pixels, vision.patch_size * merge)
    pictures = normalize(resize(frames.float(), size, "bicubic", antialias=True), CLIP_MEAN, CLIP_STD)
    if medium == "image":
        pictures = pictures.expand(depth, -1, -1, -1)
    patches, grid = patchify(pictures, vision.patch_size, merge, depth)
    token, key = ((config.image_token_id, "pixel_values") if medium == "image" else
                  (config.video_token_id, "pixel_values_videos"))
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (
        OPENING, f"<|vision_end|>{text}{CLOSING}"))
    ids = [*before, *[token] * (len(patches) // merge**2), *after]
    media = {key: patches, f"{medium}_grid_thw": grid}
    if rate is not None and hasattr(vision, "tokens_per_second"):
        media["second_per_grid_ts"] = torch.tensor([depth / rate], device=frames.device)
    return Question(torch.tensor([ids], device=frames.device), media)


def expectation(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `values` (K,) under the softmax of (..., K) logits."""
    chances = F.softmax(logits.float(), dim=-1)
    mean = (chances * values).sum(-1)
    variance = (chances * (values - mean.unsqueeze(-1)).square()).sum(-1)
    return mean, (variance + 1e-12).sqrt()
