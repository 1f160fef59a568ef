"""What a model is made of, by name: from one that trains in minutes to the shape of Wan 2.1."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

PATCH_CODEC = "patch_codec"
Prediction = Literal["velocity", "clean", "v"]


@dataclass(frozen=True)
class Preset:
    """Sizes of the clips and keyword arguments of diffusers' classes; JSON-ready, saved with every checkpoint."""

    num_frames: int
    fps: float
    height: int
    width: int
    transformer: Mapping[str, Any]  # of WanTransformer3DModel
    text: Literal["mini_clip", "words", "t5"]
    text_length: int  # tokens
    vae: Mapping[str, Any] | None = None  # of AutoencoderKLWan, or, with "kind": PATCH_CODEC, of PatchCodec; None:
    # pixels are the latents
    prediction: Prediction = "velocity"  # what the transformer's output stands for
    shift: float = 3.0  # of times, in training and sampling

    def row(self) -> dict[str, Any]:
        """JSON-ready; `from_row` reads it back."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Preset:
        """ValueError for a row with other keys, or a prediction that is not known."""
        known = {field.name for field in fields(cls)}
        if set(row) != known:
            raise ValueError(f"expected a preset of {', '.join(sorted(known))}, got {', '.join(sorted(row))}")
        if row["prediction"] not in get_args(Prediction):
            raise ValueError(f"expected a prediction of {', '.join(get_args(Prediction))}, got {row['prediction']!r}")
        return cls(**row)


def _transformer(patch_size: tuple[int, int, int], heads: int, head_dim: int, layers: int, ffn_dim: int, channels: int,
                 text_dim: int) -> dict[str, Any]:
    return {"patch_size": list(patch_size), "num_attention_heads": heads, "attention_head_dim": head_dim,
            "num_layers": layers, "ffn_dim": ffn_dim, "in_channels": channels, "out_channels": channels,
            "text_dim": text_dim}


def _small_vae(channels: int) -> dict[str, Any]:
    """8 x 8 in space and 4 in time, on pixels folded 2 x 2, with shortcuts past every change of size, as in Wan 2.2.

    Without the shortcuts it learns half as fast. Statistics of its latents are set where it is trained.
    """
    return {"base_dim": 64, "z_dim": channels, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "is_residual": True,
            "patch_size": 2, "in_channels": 12, "out_channels": 12, "temperal_downsample": [True, True],
            "scale_factor_temporal": 4, "scale_factor_spatial": 8, "latents_mean": [0.0] * channels,
            "latents_std": [1.0] * channels}


PRESETS: dict[str, Preset] = {
    # The world at the size that the oracle reads best. A patch holds three times as many numbers as a token: the
    # network says what is clean, which lies in few dimensions, because noise does not fit through.
    "tiny": Preset(16, 8.0, 64, 64, _transformer((4, 8, 8), 4, 64, 5, 512, 3, 128) | {"freq_dim": 128}, "mini_clip", 96,
                   prediction="clean"),
    "smoke": Preset(16, 8.0, 64, 64, _transformer((4, 16, 16), 1, 32, 1, 64, 3, 128) | {"freq_dim": 32}, "mini_clip",
                    96, prediction="clean"),  # learns nothing, in seconds: to see whether all runs
    # Clips this small have little to spare: 96 numbers for 4 x 8 x 8 pixels bring back more than blur, and fitting
    # them takes seconds. Few wide layers, through which noise fits: a step of this size is as long as its launches
    # take.
    "ucf101": Preset(17, 8.0, 64, 64, _transformer((1, 1, 1), 12, 64, 8, 3072, 96, 256), "words", 16,
                     {"kind": PATCH_CODEC, "channels": 96}, prediction="v"),
    "webvid": Preset(17, 8.0, 128, 224, _transformer((1, 1, 1), 8, 64, 16, 2048, 64, 256), "words", 64, _small_vae(64)),
    "wan2.1-1.3b": Preset(49, 16.0, 480, 832, _transformer((1, 2, 2), 12, 128, 30, 8960, 16, 4096), "t5", 512, {}),
}


def is_patch_codec(preset: Preset) -> bool:
    """Whether its latents are those of a PatchCodec. ValueError for a kind that is not known."""
    kind = (preset.vae or {}).get("kind")
    if kind not in (None, PATCH_CODEC):
        raise ValueError(f"expected latents of kind {PATCH_CODEC}, or a VAE without a kind, got {kind!r}")
    return kind == PATCH_CODEC


def find_preset(name: str) -> Preset:
    """ValueError for an unknown name, naming those there are."""
    if name not in PRESETS:
        raise ValueError(f"expected a preset of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
