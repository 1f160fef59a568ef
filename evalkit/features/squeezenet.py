"""SqueezeNet 1.0 (Iandola et al., 2016) frame features: small, permissively licensed, quick on a CPU."""
from __future__ import annotations

from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weight_files import NEEDED
from evalkit.features.weights import checked_weights, find_weights, load_state

CAFFE_MEAN = (123 / 255, 117 / 255, 104 / 255)  # RGB


class SqueezeNet(Extractor):
    """(N, 3, H, W) -> (N, 512): the last convolutional layer's maps, averaged over space.

    Frames are resized to 227 x 227 (bilinear, antialiased, aspect not kept: nothing is cropped away). `caffe` is the
    input of the original weights, BGR in 0..255 less the channel means; otherwise torchvision's.
    """

    level = "frame"
    micro_batch = 16

    def __init__(self, network: nn.Module, caffe: bool = False, key: str = "squeezenet",
                 weights_sha256: str | None = None) -> None:
        super().__init__()
        self.layers, self.caffe = network.features, caffe
        self.key, self.weights_sha256 = key, weights_sha256

    def forward(self, images: Tensor) -> Tensor:
        images = preprocess.resize(images.float(), (227, 227), antialias=True)
        if self.caffe:
            images = preprocess.normalize(images, CAFFE_MEAN, (1 / 255,) * 3).flip(-3)
        else:
            images = preprocess.normalize(images, preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)
        return self.layers(images).mean(dim=(-2, -1))


@register_extractor("squeezenet")
def load_squeezenet() -> SqueezeNet:
    """torchvision's ImageNet weights where they are here, else the original ones of Deep Compression.

    The two give different numbers; which one spoke is in the protocol through the weights' sha256.
    """
    path, sha256 = checked_weights(*NEEDED["squeezenet"][0])
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0()
    network.load_state_dict(load_state(path))
    return SqueezeNet(network, caffe=path != find_weights("squeezenet1_0"), weights_sha256=sha256)
