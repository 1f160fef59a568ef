"""How good single frames look to the shipped preference network: the embedded aesthetic of `farm`."""
from __future__ import annotations

from torch import Tensor

from evalkit.features.base import Extractor, in_float32, register_extractor
from evalkit.features.preprocess import to_square
from rewards.preference import SHIPPED, PreferenceNetwork, embedded_network, read_card
from rewards.preference_features import FRAMES, SIDE, clip_statistics

LOOKS_KEY = "preference_looks"


class Looks(Extractor):
    """(N, 3, H, W) -> (N, 1) in (0, 10): ten times the preference's `visual` of each frame, held still as a clip.

    Learned from dialled defects of the made-up world: there it also sees what the photographic score does not, grids,
    borders, captions and over-sharpening. On real footage it likes mildly blurred and over-saturated frames better.
    """

    level = "frame"
    micro_batch = 8

    def __init__(self, network: PreferenceNetwork, weights_sha256: str | None = None) -> None:
        super().__init__()
        self.network, self.key, self.weights_sha256 = network, LOOKS_KEY, weights_sha256

    def forward(self, images: Tensor) -> Tensor:
        with in_float32(images):
            still = to_square(images.float(), SIDE)[:, None].expand(-1, FRAMES, -1, -1, -1)
            return 10 * self.network.looks(clip_statistics(still))[:, :1].sigmoid()


@register_extractor(LOOKS_KEY)
def load_looks() -> Looks:
    """Frames judged by the visual head of the shipped preference network: one number from 0 to 10."""
    return Looks(embedded_network(SHIPPED), read_card(SHIPPED)["sha256"])
