"""A small CLIP trained on the made-up world: open_clip's model and text tower, and eyes that read sixteen frames."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.data.captions import VOCABULARY, tokens
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.clip_tower import FRAMES, SIDE, ClipTower
from evalkit.features.preprocess import to_square

CONTEXT, WIDTH, EMBEDDING = 96, 128, 256
TOLD = 100_000  # prompts whose embeddings are kept, 100 MB
START, FIRST_WORD = 1, 2  # 0 pads
END = FIRST_WORD + len(VOCABULARY)  # the highest: open_clip reads the text at the highest token


def build_clip(text_layers: int = 4) -> nn.Module:
    """open_clip's CLIP with a tiny configuration and `ClipTower` as its visual tower, weights random."""
    from open_clip import CLIP
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=END + 1, width=WIDTH, heads=WIDTH // 64, layers=text_layers)
    clip = CLIP(EMBEDDING, CLIPVisionCfg(layers=1, width=64, image_size=16, patch_size=16), text)
    clip.visual = ClipTower(EMBEDDING)  # open_clip's own towers see pictures: direction and camera need time
    return clip


def unknown_words(text: str) -> list[str]:
    """Each once, of those that the made-up world's language does not have."""
    return [word for word in dict.fromkeys(tokens(text)) if word not in _NUMBERS]


def tokenize(texts: Sequence[str]) -> Tensor:
    """(B, 96) token ids. ValueError naming words that the world's language does not have, or a text too long."""
    rows = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        words, unknown = tokens(text), unknown_words(text)
        if unknown:
            raise ValueError(f"the mini CLIP knows only the made-up world's {len(VOCABULARY)} words, not "
                             f"{', '.join(map(repr, unknown[:5]))}; use clip_alignment for free prompts")
        if len(words) + 2 > CONTEXT:
            raise ValueError(f"expected at most {CONTEXT - 2} words, got {len(words)}")
        ids = [START, *(_NUMBERS[word] for word in words), END]
        row[: len(ids)] = torch.tensor(ids)
    return rows


_NUMBERS = {word: FIRST_WORD + k for k, word in enumerate(VOCABULARY)}


def sixteen_frames(frames: Tensor) -> Tensor:
    """(B, T, ...) -> (B, 16, ...): spread over the clip from its first frame to its last, repeated where T < 16."""
    last = frames.shape[1] - 1
    return frames[:, [round(k * last / (FRAMES - 1)) for k in range(FRAMES)]]


class MiniClip(Extractor):
    """(B, T, 3, H, W) -> (B, 256) embeddings of clips, not normalised, frames brought to 64 x 64. One at a time."""

    level = "clip"
    micro_batch = 1  # clips come one by one: nothing to pad

    def __init__(self, model: nn.Module, weights_sha256: str | None = None) -> None:
        super().__init__()
        self.model, self.key, self.weights_sha256 = model, "mini_clip", weights_sha256
        self._told: dict[str, Tensor] = {}

    def forward(self, frames: Tensor) -> Tensor:
        return self.model.encode_image(to_square(sixteen_frames(frames.float()), SIDE))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(B, 256) text embeddings of unit length. ValueError for prompts outside the world's language."""
        device = self.model.logit_scale.device
        if self.weights_sha256 is None or len(self._told) > TOLD:
            self._told.clear()  # weights that are not shipped may change
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._told]
        for prompt, ids in zip(new, tokenize(new), strict=True):
            # one at a time: an embedding must not depend on the prompts it happens to be batched with
            self._told[prompt] = F.normalize(self.model.encode_text(ids[None].to(device)).float(), dim=-1)
        return torch.cat([self._told[prompt].to(device) for prompt in prompts])

    @torch.no_grad()
    def encode_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, 96, 128) states of the text tower before pooling, and (B, 96) bool where there is a token.

        What a text-to-video model is conditioned on. ValueError for prompts outside the world's language.
        """
        ids = tokenize(prompts).to(self.model.logit_scale.device)
        found = self.model.forward_intermediates(text=ids, text_indices=1, normalize_intermediates=True,
                                                 intermediates_only=True)
        return found["text_intermediates"][-1].float(), ids != 0


@register_extractor("mini_clip")
def load_mini_clip() -> MiniClip:
    """The shipped CLIP of the made-up world: knows its 138 words, and sees sixteen frames at once."""
    from evalkit.mini.weights import load_shipped

    model = build_clip()
    sha256 = load_shipped(model, "clip")
    return MiniClip(model, sha256)
