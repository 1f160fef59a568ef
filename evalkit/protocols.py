"""Papers' evaluation protocols by name: which clips, how many, which estimator; what a reader needs to repeat them."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evalkit.clips import ClipSpec
from evalkit.metrics.base import Metric, available_metrics
from evalkit.metrics.frechet import FVD_CLIP, STYLEGANV_CLIP


@dataclass(frozen=True)
class Protocol:
    """One paper's way to a number. Fields beyond `metrics` describe what the user brings: they are not enforced.

    The clip specifications, sample sizes, repeats and ddof in `metrics` are, and enter each score's protocol id.
    """

    name: str
    summary: str
    citation: str
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> constructor arguments
    dataset: str = ""
    split: str = ""  # of the reference
    num_generated: int | None = None  # clips a side that the numbers are made of; None: all there are
    num_reference: int | None = None
    repeats: int = 1
    clips_per_video: Literal["one", "all"] = "one"
    conditioning: str = "none"  # what the generator is given
    codec: str = ""  # what the paper's reference and samples went through before the features

    def make_metrics(self, names: Sequence[str] | None = None) -> dict[str, Metric]:
        """The metrics of this protocol, or those among `names`; ValueError for a name that it does not have."""
        unknown = [name for name in names or () if name not in self.metrics]
        if unknown:
            raise ValueError(f"protocol {self.name}: no metric {', '.join(map(repr, unknown))}; "
                             f"it has: {', '.join(self.metrics)}")
        classes = available_metrics()
        return {name: classes[name](**self.metrics[name]) for name in dict.fromkeys(names or self.metrics)}

    def describe(self) -> dict[str, Any]:
        """Every field as JSON-ready values."""
        return {key: value for key, value in asdict(self).items() if key != "metrics"} | {
            "metrics": {name: metric.parameters_of_protocol() | {"clips": metric.spec.protocol()}
                        for name, metric in self.make_metrics().items()}}


# TATS: windows of 16 frames at every offset of every video, from which 2048 are drawn; ours do not overlap, so that
# the draws are closer to independent. Short side 128, then the central square: 128 x 171 for UCF-101.
TATS_CLIP = ClipSpec(num_frames=16, min_frames=16, clips_per_video=None, size=(128, 171), crop=128,
                     interpolation="bilinear")

_PROTOCOLS = (
    Protocol(
        "default",
        "ours: the middle 16 frames of every video at its own rate and size, all videos, with FVD without bias",
        "",
        {"fvd": {"spec": FVD_CLIP}, "fvd_inf": {"spec": FVD_CLIP}, "kvd": {"spec": FVD_CLIP}},
        codec="as delivered",
    ),
    Protocol(
        "ucf101_styleganv",
        "one random run of 16 frames per video at 256 x 256, 2048 real against 2048 generated; "
        "the paper's number is fvd2048_16f_ddof0",
        "Skorokhodov, Tulyakov, Elhoseiny: StyleGAN-V, CVPR 2022 (arXiv:2112.14683)",
        {"fvd2048_16f_ddof0": {"spec": STYLEGANV_CLIP}, "fvd2048_16f": {"spec": STYLEGANV_CLIP}},
        dataset="UCF-101", split="train+test, 13320 videos", num_generated=2048, num_reference=2048,
        codec="reference: frames as JPEG; samples: frames from the generator's memory",
    ),
    Protocol(
        "ucf101_tats",
        "2048 windows of 16 frames from all over the videos at 128 x 128 against 2048, mean ± std over 10 draws",
        "Ge et al.: Long Video Generation with Time-Agnostic VQGAN and Time-Sensitive Transformer (TATS), ECCV 2022 "
        "(arXiv:2204.03638); the draws follow Tian et al.: MoCoGAN-HD, ICLR 2021 (arXiv:2104.15069)",
        {"fvd": {"spec": TATS_CLIP, "ddof": 1, "sample_size": 2048, "repeats": 10},
         "kvd": {"spec": TATS_CLIP, "subset_size": 2048, "subsets": 10}},
        dataset="UCF-101", split="train split 1, 9537 videos", num_generated=2048, num_reference=2048, repeats=10,
        clips_per_video="all", conditioning="none, or the class", codec="reference: the original AVI; samples: arrays",
    ),
    Protocol(
        "ucf101_10k",
        "one random run of 16 frames per video at 256 x 256, 10000 against 10000",
        "sample size as in Ho et al.: Video Diffusion Models, 2022 (arXiv:2204.03458), and later class-conditional "
        "work; clips as in StyleGAN-V",
        {"fvd": {"spec": STYLEGANV_CLIP, "ddof": 1, "sample_size": 10_000},
         "fvd_inf": {"spec": STYLEGANV_CLIP, "ddof": 1, "sample_size": 10_000}},
        dataset="UCF-101", split="train+test, 13320 videos", num_generated=10_000, num_reference=10_000,
        conditioning="none, or the class", codec="as delivered",
    ),
    Protocol(
        "ucf101_zeroshot",
        "text to video without training on UCF-101: one prompt per class, 100 videos each (10100), of which 10000 "
        "against 10000 real, one random run of 16 frames each",
        "Singer et al.: Make-A-Video, ICLR 2023 (arXiv:2209.14792); Blattmann et al.: Align your Latents, CVPR 2023 "
        "(arXiv:2304.08818)",
        {"fvd": {"spec": STYLEGANV_CLIP, "ddof": 1, "sample_size": 10_000}},
        dataset="UCF-101", split="train+test, 13320 videos", num_generated=10_000, num_reference=10_000,
        conditioning="one sentence per class, the same for its 100 videos", codec="as delivered",
    ),
)


def available_protocols() -> dict[str, Protocol]:
    """Every protocol by name."""
    return {protocol.name: protocol for protocol in _PROTOCOLS}


def load_protocol(name: str) -> Protocol:
    """The protocol called `name`; ValueError names those that exist."""
    known = available_protocols()
    if name not in known:
        raise ValueError(f"unknown protocol {name!r}; there are: {', '.join(known)}")
    return known[name]
