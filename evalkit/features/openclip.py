"""CLIP image and text towers (Radford et al., 2021) through open_clip, any model and pretrained tag."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weights import checked_weights

Tokenizer = Callable[[list[str]], Tensor]
RESIZES = ("antialias", "aliased")


@dataclass(frozen=True)
class ImageInput:
    """How a model wants its images: `squash` ignores the aspect, otherwise short side and central crop."""

    size: int = 224
    mean: tuple[float, ...] = preprocess.CLIP_MEAN
    std: tuple[float, ...] = preprocess.CLIP_STD
    interpolation: str = "bicubic"
    squash: bool = False


class OpenClip(Extractor):
    """(N, 3, H, W) in [0, 1] -> (N, D) image embeddings, not normalised; `encode_text` gives the other tower's.

    `resize` is "antialias" (as open_clip and torchmetrics, the default) or "aliased" (as VBench).
    """

    level = "frame"
    micro_batch = 16

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, image: ImageInput = ImageInput(), *,
                 resize: str = "antialias", key: str = "open_clip", weights_sha256: str | None = None) -> None:
        super().__init__()
        if resize not in RESIZES:
            raise ValueError(f"resize: expected one of {', '.join(RESIZES)}, got {resize!r}")
        self.model, self.tokenizer, self.image, self.antialias = model, tokenizer, image, resize == "antialias"
        self.key, self.weights_sha256 = key, weights_sha256
        self._text: dict[str, Tensor] = {}

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) as the network reads them."""
        wanted, images = self.image, images.float()
        if wanted.squash:
            size = (wanted.size, wanted.size)
            images = preprocess.resize(images, size, wanted.interpolation, self.antialias)
        else:
            images = preprocess.resize_short_side(images, wanted.size, wanted.interpolation, self.antialias)
            images = preprocess.center_crop(images, wanted.size)
        return preprocess.normalize(images, wanted.mean, wanted.std)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_image(self.prepare(images)).float()

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(B, D) text embeddings of unit length, without gradient, each prompt encoded once."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._text:
                self._text[prompt] = self._encode_prompt(prompt)
        device = next(self.model.parameters()).device
        return torch.stack([self._text[prompt] for prompt in prompts]).to(device)

    @torch.no_grad()
    def _encode_prompt(self, prompt: str) -> Tensor:
        # One at a time: an embedding must not depend on the prompts it happens to be batched with.
        device = next(self.model.parameters()).device
        tokens = self.tokenizer([prompt]).to(device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)[0].cpu()


@register_extractor("open_clip")
def load_open_clip(model: str = "ViT-B-32", tag: str = "openai", resize: str = "antialias") -> OpenClip:
    """The model `model` with the weights `tag`; MissingWeights where they are not on this machine."""
    name = f"open_clip/{model}/{tag}"
    path, sha256 = checked_weights(name)

    import open_clip

    published = open_clip.get_pretrained_cfg(model, tag)
    config = open_clip.get_model_config(model)
    network = open_clip.create_model(
        model, pretrained=None,
        force_quick_gelu=published.get("quick_gelu", False) or config.get("quick_gelu", False))
    open_clip.load_checkpoint(network, str(path))
    image = ImageInput(
        size=_side(network.visual.image_size), mean=tuple(published["mean"]), std=tuple(published["std"]),
        interpolation=published.get("interpolation", "bicubic"),
        squash=published.get("resize_mode", "shortest") == "squash")
    key = name if resize == "antialias" else f"{name}/{resize}"
    return OpenClip(network, _Tokenizer(model), image, resize=resize, key=key, weights_sha256=sha256)


class _Tokenizer:
    """open_clip's tokenizer for a model, made on first use: scoring images alone needs none."""

    def __init__(self, model: str) -> None:
        self.model, self.made = model, None

    def __call__(self, prompts: list[str]) -> Tensor:
        if self.made is None:
            import open_clip

            text = copy.deepcopy(open_clip.get_model_config(self.model)["text_cfg"])
            offline = {"local_files_only": True} if text.get("hf_tokenizer_name") else {}
            self.made = open_clip.get_tokenizer(self.model, **offline)
        return self.made(prompts)


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]
