"""V-JEPA 2 (Assran et al., 2025) through transformers: the encoder's tokens, averaged."""
from __future__ import annotations

from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weights import checked_weights


class VJEPA2(Extractor):
    """(B, T, 3, H, W), T even -> (B, D): the mean over the encoder's tokens (16 frames are customary here).

    Short side to 256/224 of the network's size, bicubic, antialiased; central crop; ImageNet's mean and std.
    """

    level = "clip"
    micro_batch = 4

    def __init__(self, model: nn.Module, key: str = "vjepa2", weights_sha256: str | None = None) -> None:
        super().__init__()
        self.model, self.key, self.weights_sha256 = model, key, weights_sha256

    def forward(self, frames: Tensor) -> Tensor:
        tubelet = self.model.config.tubelet_size
        if frames.shape[1] % tubelet:
            raise ValueError(f"{self.key}: expected a multiple of {tubelet} frames, got {frames.shape[1]}")
        return self.model.get_vision_features(preprocess.per_frame(frames.float(), self._prepare)).mean(dim=1)

    def _prepare(self, images: Tensor) -> Tensor:
        side = self.model.config.crop_size
        images = preprocess.resize_short_side(images, side * 256 // 224)
        images = preprocess.center_crop(images, side)
        return preprocess.normalize(images, preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)


@register_extractor("vjepa2")
def load_vjepa2() -> VJEPA2:
    """V-JEPA 2 ViT-L, 256 px."""
    path, sha256 = checked_weights("vjepa2")
    from transformers import VJEPA2Model

    model = VJEPA2Model.from_pretrained(path.parent, local_files_only=True).float()
    return VJEPA2(model, weights_sha256=sha256)
