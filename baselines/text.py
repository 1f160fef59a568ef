"""Prompts to what a transformer attends to: states of a text encoder (B, length, dim), zero beyond a prompt's end."""
from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.presets import Preset


class CutPrompts(UserWarning):
    """Some prompts are longer than the text encoder takes; the message counts them."""


class TextEncoder(nn.Module):
    """`encoder(prompts) -> (B, length, dim)` float32 on the encoder's device; frozen. `""` stands for no prompt."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.length, self.dim = length, dim
        self.register_buffer("_place", torch.zeros(()), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._place.device

    def check(self, prompts: Sequence[str]) -> None:
        """ValueError for prompts that it cannot encode; cheap."""

    def warn_of_cut(self, count: int, of: int) -> None:
        if count:
            warnings.warn(CutPrompts(f"{count} of {of} prompts are cut: the text encoder takes {self.length} tokens"),
                          stacklevel=3)


class MiniClipText(TextEncoder):
    """Token states of the embedded mini CLIP: the language of the made-up world."""

    def __init__(self, length: int = 96) -> None:
        from evalkit.features.mini_clip import CONTEXT, WIDTH, load_mini_clip

        if length != CONTEXT:
            raise ValueError(f"expected a text length of {CONTEXT} with mini_clip, got {length}")
        super().__init__(length, WIDTH)
        self.clip = load_mini_clip().requires_grad_(False)

    def check(self, prompts: Sequence[str]) -> None:
        from evalkit.data.captions import tokens
        from evalkit.features.mini_clip import unknown_words

        for prompt in prompts:
            unknown = unknown_words(" ".join(tokens(prompt)[: self.length - 2]))  # what is cut may be anything
            if unknown:
                raise ValueError(f"{prompt!r}: presets tiny and smoke know only the words of the made-up world, not "
                                 f"{', '.join(map(repr, unknown))}; take --preset ucf101, webvid or wan2.1-1.3b for "
                                 "other prompts")

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """ValueError for words that the world's language does not have."""
        self.check(prompts)
        from evalkit.data.captions import tokens

        words = [tokens(prompt) for prompt in prompts]
        most = self.length - 2  # a start and an end are added
        self.warn_of_cut(sum(len(one) > most for one in words), len(words))
        states, there = self.clip.encode_tokens([" ".join(one[:most]) for one in words])
        return states * there[..., None]


class HashedWords(TextEncoder):
    """A fixed random vector per word, plus its place: tells closed sets of prompts apart, without any weights."""

    def forward(self, prompts: Sequence[str]) -> Tensor:
        states = torch.zeros(len(prompts), self.length, self.dim)
        places = _places(self.length, self.dim)
        words = [re.findall(r"\w+", prompt.lower()) for prompt in prompts]
        self.warn_of_cut(sum(len(one) > self.length for one in words), len(words))
        for row, one in zip(states, words, strict=True):
            for k, word in enumerate(one[: self.length]):
                row[k] = _word_vector(word, self.dim) + places[k]
        return states.to(self.device)


class T5Text(TextEncoder):
    """UMT5 or T5 of transformers with its tokenizer, as Wan uses it."""

    def __init__(self, encoder: nn.Module, tokenizer: Any, length: int) -> None:
        super().__init__(length, encoder.config.d_model)
        self.encoder, self.tokenizer = encoder.eval().requires_grad_(False), tokenizer

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        whole = self.tokenizer(list(prompts))["input_ids"]
        self.warn_of_cut(sum(len(one) > self.length for one in whole), len(whole))
        found = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=self.length,
                               return_tensors="pt").to(self.device)
        states = self.encoder(found.input_ids, found.attention_mask).last_hidden_state
        return (states * found.attention_mask[..., None]).float()


def build_text_encoder(preset: Preset, pretrained: str | None = None) -> TextEncoder:
    """The encoder that a preset names; T5 comes from the folder or hub name `pretrained` of a diffusers pipeline.

    ValueError where T5 is asked for without one, or its width is not the transformer's.
    """
    dim = preset.transformer["text_dim"]
    if preset.text == "mini_clip":
        found: TextEncoder = MiniClipText(preset.text_length)
    elif preset.text == "words":
        found = HashedWords(preset.text_length, dim)
    elif pretrained is None:
        raise ValueError("this preset reads prompts with T5, which does not ship: give --pretrained with the folder or "
                         "name of a diffusers pipeline, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    else:
        from transformers import AutoTokenizer, UMT5EncoderModel

        encoder = UMT5EncoderModel.from_pretrained(pretrained, subfolder="text_encoder", torch_dtype=torch.bfloat16)
        found = T5Text(encoder, AutoTokenizer.from_pretrained(pretrained, subfolder="tokenizer"), preset.text_length)
    if found.dim != dim:
        raise ValueError(f"expected a text encoder of width {dim}, got {found.dim}")
    return found.eval()


def _word_vector(word: str, dim: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed))


def _places(length: int, dim: int) -> Tensor:
    """(length, dim) sines and cosines of the place, as in Vaswani et al. (2017)."""
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim]
