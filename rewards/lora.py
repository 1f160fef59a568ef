"""A preference network on any CLIP of open_clip or transformers: LoRA (Hu et al., 2021) on its eyes, heads over time.

The backbone is frozen and not saved: what a trained folder holds are the adapters and the heads.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.clips import ClipSpec
from evalkit.features.base import extract
from evalkit.features.openclip import ImageInput, OpenClip, load_open_clip
from evalkit.features.weights import sha256_of
from rewards.frames import evenly_spaced
from rewards.preference import DIMENSIONS, weighted_mean
from rewards.vlm import digest, find_model, load_pretrained, load_tokenizer

FRAMES, LEAST = 8, 3  # read of a clip, evenly spaced; below three nothing bends
RANK = 16
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # of PIL, as preprocessor_config.json tells


class LoraNetwork(nn.Module):
    """(B, T, 3, H, W) frames in [0, 1] and B prompts -> {dimension: (B,) in (0, 1)}.

    Looks are read from the mean of the frames' unit embeddings, motion from it and from the mean absolute first and
    second differences, agreement from the mean beside the prompt's embedding. LoRA of `rank` lies on every linear layer
    of the vision tower but those inside torch's fused attention, whose weights are read past any adapter.
    """

    def __init__(self, clip: OpenClip, rank: int = RANK) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank: expected at least 1, got {rank}")
        self.clip = clip.eval().requires_grad_(False)
        self.clip.micro_batch = FRAMES  # one clip: alone or in a batch, it meets the same kernels
        add_lora(vision_tower(self.clip), rank)
        with torch.no_grad():
            width = self.clip(torch.zeros(1, 3, clip.image.size, clip.image.size)).shape[1]
        self.visual, self.motion, self.text = _head(width), _head(3 * width), _head(2 * width + 1)
        self.shares = nn.Parameter(torch.zeros(len(DIMENSIONS)))

    def train(self, mode: bool = True) -> LoraNetwork:
        super().train(mode)
        self.clip.eval()  # the backbone's dropout, where it has any, is no part of what is learnt
        return self

    def forward(self, frames: Tensor, prompts: Sequence[str], recompute: bool = False) -> dict[str, Tensor]:
        seen = F.normalize(extract(self.clip, evenly_spaced(frames, FRAMES), recompute), dim=-1)  # (B, T, D)
        steps = seen.diff(dim=1)
        mean, change, bend = seen.mean(1), steps.abs().mean(1), steps.diff(dim=1).abs().mean(1)
        texts = self.clip.encode_text(prompts).to(mean)
        both = mean * texts
        said = torch.cat([both, (mean - texts).abs(), both.sum(1, keepdim=True)], dim=1)
        values = torch.cat([self.visual(mean), self.motion(torch.cat([mean, change, bend], 1)), self.text(said)], dim=1)
        return dict(zip(DIMENSIONS, values.sigmoid().unbind(1), strict=True))

    def overall(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B,) in (0, 1): the dimensions' weighted mean, the weights learnt from what raters say of the whole."""
        return weighted_mean(values, self.shares)

    def learnt(self) -> dict[str, Tensor]:
        """Adapters and heads by name: all that differs from the backbone."""
        return {name: value for name, value in self.state_dict().items()
                if ".lora_" in name or not name.startswith("clip.")}

    def load_learnt(self, path: Path) -> None:
        """Fill adapters and heads; ValueError where the file holds others."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file: {error}") from error
        shapes = {name: value.shape for name, value in self.learnt().items()}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise ValueError(f"{path}: not the adapters and heads of this backbone and rank: expected {len(shapes)} "
                             f"tensors, got {len(state)}")
        self.load_state_dict(state, strict=False)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128), nn.GELU(), nn.Dropout(0.1), nn.Linear(128, 1))


def clip_spec(size: int) -> ClipSpec:
    """The frames of a file that are read, for a backbone of pictures of `size`."""
    return ClipSpec(num_frames=FRAMES, min_frames=FRAMES, placement="uniform", size=size)


def add_lora(tower: nn.Module, rank: int) -> None:
    """Put adapters that change nothing yet on the linear layers of `tower`, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    # a subclass of Linear is never called as one: torch's fused attention reads its weight
    names = [name for name, part in tower.named_modules() if type(part) is nn.Linear]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), tower)


def vision_tower(clip: OpenClip) -> nn.Module:
    """The part of a backbone that sees."""
    return clip.model.model.vision_model if isinstance(clip.model, Dual) else clip.model.visual


def open_backbone(text: str) -> OpenClip:
    """The CLIP of "open_clip:MODEL:TAG", "open_clip:MODEL:FILE" or "transformers:NAME|FOLDER", one that nobody shares.

    ValueError for another spelling, an unknown model or a network without both towers; MissingWeights where its weights
    are not here.
    """
    kind, _, rest = text.partition(":")
    model, _, source = rest.partition(":")
    if kind == "transformers" and rest:
        return _from_transformers(rest)
    if kind == "open_clip" and source:
        return _from_file(model, Path(source)) if Path(source).is_file() else load_open_clip(model, source)
    raise ValueError(f"backbone: expected open_clip:MODEL:TAG, open_clip:MODEL:FILE or transformers:NAME, got {text!r}")


def _from_file(model: str, path: Path) -> OpenClip:
    import open_clip

    if model not in open_clip.list_models():
        raise ValueError(f"backbone: open_clip knows no model {model!r}; it knows {', '.join(open_clip.list_models())}")
    network = open_clip.create_model(model, pretrained=None)
    try:
        open_clip.load_checkpoint(network, str(path))
    except (RuntimeError, KeyError, AssertionError) as error:  # it asserts shapes of what it resizes
        raise ValueError(f"{path}: not weights of open_clip's {model}: {str(error)[:300]}") from error
    size = network.visual.image_size
    image = ImageInput(size if isinstance(size, int) else size[0])
    return OpenClip(network, open_clip.get_tokenizer(model), image, key=f"open_clip/{model}/{path}",
                    weights_sha256=sha256_of(path))


class Dual(nn.Module):
    """A CLIP or SigLIP of transformers under the names that open_clip gives its towers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode_image(self, images: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=images).pooler_output

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.model.get_text_features(input_ids=ids).pooler_output


def _from_transformers(name: str) -> OpenClip:
    folder = find_model(name, "preprocessor_config.json", f"get it with: hf download {name}")
    model = load_pretrained("AutoModel", folder, torch.float32)
    if not all(hasattr(model, part) for part in ("get_image_features", "get_text_features", "vision_model")):
        raise ValueError(f"backbone: expected a network with image and text towers such as CLIP or SigLIP, got "
                         f"{type(model).__name__}")
    tokenizer, longest = load_tokenizer(folder), model.config.text_config.max_position_embeddings
    # SigLIP was trained on texts filled up to the full length, and reads the last token
    padding = "max_length" if "siglip" in model.config.model_type else False

    def tokenize(texts: list[str]) -> Tensor:
        return tokenizer(texts, padding=padding, truncation=True, max_length=longest, return_tensors="pt")["input_ids"]

    image = _image_input(json.loads((folder / "preprocessor_config.json").read_text()),
                         model.config.vision_config.image_size)
    return OpenClip(Dual(model), tokenize, image, key=f"transformers/{name}", weights_sha256=digest(folder))


def _image_input(told: Mapping[str, Any], size: int) -> ImageInput:
    return ImageInput(size, tuple(told["image_mean"]), tuple(told["image_std"]),
                      RESAMPLING.get(told.get("resample", 3), "bicubic"),
                      squash="shortest_edge" not in (told.get("size") or {}))
