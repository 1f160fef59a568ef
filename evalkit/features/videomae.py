"""VideoMAE features. "videomae" is VideoMAE v2 giant on SSv2, as in content-debiased FVD (Ge et al., 2024)."""
from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from evalkit.features import preprocess
from evalkit.features.base import Extractor, register_extractor
from evalkit.features.weights import checked_weights, load_state

GIANT = {"hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 16, "intermediate_size": 6144,
         "patch_size": 14, "image_size": 224, "num_frames": 16, "tubelet_size": 2, "layer_norm_eps": 1e-6,
         "use_mean_pooling": True}
# Parts of a block in the original checkpoints and in transformers.
RENAMED = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
           "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}


class VideoMAE(Extractor):
    """(B, 16, 3, H, W) -> (B, D): the mean over the tokens of the last layer, then `norm` where there is one.

    Frames are resized bilinearly to the network's size, aspect not kept. The giant reads them in [0, 1], the base
    model of transformers with ImageNet's mean and std.
    """

    level = "clip"
    micro_batch = 4

    def __init__(self, model: nn.Module, norm: nn.Module | None = None, imagenet: bool = False,
                 key: str = "videomae", weights_sha256: str | None = None) -> None:
        super().__init__()
        self.model, self.norm, self.imagenet = model, norm or nn.Identity(), imagenet
        self.key, self.weights_sha256 = key, weights_sha256

    def forward(self, frames: Tensor) -> Tensor:
        config = self.model.config
        if frames.shape[1] != config.num_frames:
            raise ValueError(f"{self.key}: expected {config.num_frames} frames, got {frames.shape[1]}")
        size = (config.image_size, config.image_size)
        clips = preprocess.per_frame(frames.float(), lambda images: preprocess.resize(images, size))
        if self.imagenet:
            clips = preprocess.normalize(clips, preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)
        return self.norm(self.model(clips).last_hidden_state.mean(dim=1))


def from_original(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a VideoMAE (v1 or v2) checkpoint under the names of transformers' `VideoMAEModel`."""
    fused_bias = any(name.endswith("attention.q_bias") for name in model.state_dict())  # transformers before v5
    query, value = ("q_bias", "v_bias") if fused_bias else ("query.bias", "value.bias")
    out = {f"embeddings.patch_embeddings.projection.{part}": state[f"patch_embed.proj.{part}"]
           for part in ("weight", "bias")}
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            continue
        _, number, part = name.split(".", 2)
        layer = f"encoder.layer.{number}"
        attention = f"{layer}.attention.attention"
        if part == "attn.qkv.weight":
            for which, weight in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"{attention}.{which}.weight"] = weight
        elif part in ("attn.q_bias", "attn.v_bias"):
            out[f"{attention}.{query if part == 'attn.q_bias' else value}"] = tensor
        else:
            module, leaf = part.rsplit(".", 1)
            out[f"{layer}.{RENAMED[module]}.{leaf}"] = tensor
    return out


def build_original(state: Mapping[str, Tensor], settings: Mapping[str, object]) -> tuple[nn.Module, nn.Module]:
    """The transformers model of `settings` and the final norm, filled from an original checkpoint."""
    from transformers import VideoMAEConfig, VideoMAEModel

    model = VideoMAEModel(VideoMAEConfig(**settings))
    model.load_state_dict(from_original(state, model))
    norm = nn.LayerNorm(model.config.hidden_size, eps=model.config.layer_norm_eps)
    norm.load_state_dict({part: state[f"fc_norm.{part}"] for part in ("weight", "bias")})
    return model, norm


@register_extractor("videomae")
def load_videomae(size: str = "giant") -> VideoMAE:
    """"videomae": the giant's 1408 numbers of `forward_features`. "videomae/base": transformers' base on SSv2."""
    if size == "giant":
        path, sha256 = checked_weights("videomae")
        state = load_state(path)
        return VideoMAE(*build_original(state.get("module", state.get("model", state)), GIANT),
                        weights_sha256=sha256)
    if size != "base":
        raise ValueError(f"videomae: expected giant or base, got {size!r}")
    path, sha256 = checked_weights("videomae_base")
    from transformers import VideoMAEModel

    model = VideoMAEModel.from_pretrained(path.parent, local_files_only=True).float()
    return VideoMAE(model, imagenet=True, key="videomae/base", weights_sha256=sha256)
