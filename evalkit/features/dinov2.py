"""DINO (Caron et al., 2021) and DINOv2 (Oquab et al., 2023) class tokens through transformers."""
from __future__ import annotations

from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weights import checked_weights


class Dinov2(Extractor):
    """(N, 3, H, W) -> (N, D) class token. Short side 256, bicubic, antialiased; central 224; ImageNet mean and std."""

    level = "frame"
    micro_batch = 16

    def __init__(self, model: nn.Module, key: str = "dinov2", weights_sha256: str | None = None) -> None:
        super().__init__()
        self.model, self.key, self.weights_sha256 = model, key, weights_sha256

    def prepare(self, images: Tensor) -> Tensor:
        """(N, 3, 224, 224) as the network reads them."""
        images = preprocess.center_crop(preprocess.resize_short_side(images.float(), 256), 224)
        return preprocess.normalize(images, preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.prepare(images)).last_hidden_state[:, 0]


class Dino(Dinov2):
    """(N, 3, H, W) -> (N, D) class token, preprocessed as VBench does: short side 224, bilinear, not antialiased,
    not cropped, so that the position embedding is interpolated to the image's aspect."""

    def prepare(self, images: Tensor) -> Tensor:
        images = preprocess.resize_short_side(images.float(), 224, "bilinear", antialias=False)
        return preprocess.normalize(images, preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.prepare(images), interpolate_pos_encoding=True).last_hidden_state[:, 0]


@register_extractor("dinov2")
def load_dinov2() -> Dinov2:
    """DINOv2 ViT-B/14."""
    path, sha256 = checked_weights("dinov2")
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(path.parent, local_files_only=True).float()
    return Dinov2(model, weights_sha256=sha256)


@register_extractor("dino")
def load_dino() -> Dino:
    """DINO ViT-B/16."""
    path, sha256 = checked_weights("dino")
    from transformers import ViTModel

    model = ViTModel.from_pretrained(path.parent, local_files_only=True, add_pooling_layer=False)
    return Dino(model.float(), key="dino", weights_sha256=sha256)
