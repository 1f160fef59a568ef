"""Extractors: tiny random networks of the real classes through the real loading code, and the real weights."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from evalkit.features import aesthetic, dinov2, i3d, openclip, preprocess, raft, squeezenet, videomae, vjepa
from evalkit.features.base import MissingWeights, extract, make_extractor
from evalkit.features.weights import weight_file

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.manual_seed(0)


@pytest.fixture
def real(monkeypatch, assets):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights"))
    return assets


@pytest.fixture(scope="module")
def clip():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**copy.deepcopy(CLIP_CONFIG)).eval().requires_grad_(False)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return openclip.OpenClip(model, tokenizer, openclip.ImageInput(size=32))


def gradient_reaches_every_frame(extractor, frames):
    frames = frames.clone().requires_grad_(True)
    features = extract(extractor, frames)
    torch.stack([part.square().sum() for part in (features.values() if isinstance(features, dict) else [features])]
                ).sum().backward()
    per_frame = frames.grad.flatten(2).abs().sum(-1)
    return bool(torch.isfinite(frames.grad).all()) and bool((per_frame > 0).all())


def same_alone_and_in_a_batch(extractor, frames):
    with torch.no_grad():
        together = extract(extractor, frames)
        alone = torch.cat([extract(extractor, clip[None]) for clip in frames])
    return torch.equal(together, alone)


# ---- preprocessing ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(40, 61), (300, 233)])
def test_clip_images_are_prepared_as_torchvision_does(clip, shape):
    from torchvision.transforms import v2

    images = torch.rand(2, 3, *shape)
    expected = v2.Compose([
        v2.Resize(32, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32),
        v2.Lambda(lambda x: x.clamp(0, 1)), v2.Normalize(preprocess.CLIP_MEAN, preprocess.CLIP_STD)])(images)
    torch.testing.assert_close(clip.prepare(images), expected, atol=1e-5, rtol=0)


def test_dino_images_keep_their_aspect_and_dinov2_images_are_square():
    images = torch.rand(1, 3, 120, 200)
    assert dinov2.Dino(nn.Identity()).prepare(images).shape == (1, 3, 224, 373)
    assert dinov2.Dinov2(nn.Identity()).prepare(images).shape == (1, 3, 224, 224)


# ---- open_clip --------------------------------------------------------------------------------------------------

def test_both_clip_towers_share_a_space_and_texts_are_encoded_once(clip):
    features = extract(clip, torch.rand(2, 3, 3, 40, 48))
    calls = []

    def tokenizer(prompts):
        calls.append(prompts)
        return clip.tokenizer(prompts)

    counted = openclip.OpenClip(clip.model, tokenizer, clip.image)
    texts = counted.encode_text(["a cat", "a dog", "a cat"])
    assert features.shape == (2, 3, 16) and texts.shape == (3, 16) and len(calls) == 2
    assert torch.equal(texts[0], texts[2]) and not torch.allclose(texts[0], texts[1])
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))


def test_clip_features_are_differentiable_and_blind_to_the_batch(clip):
    frames = torch.rand(5, 3, 3, 40, 48)
    assert gradient_reaches_every_frame(clip, frames[:1])
    assert same_alone_and_in_a_batch(clip, frames)
    torch.testing.assert_close(clip(frames[0].bfloat16()), clip(frames[0].bfloat16().float()))


def test_clip_is_loaded_from_its_hub_folder_with_the_activation_of_its_tag(monkeypatch, tmp_path):
    import json

    import open_clip
    from open_clip import pretrained

    (tmp_path / "tiny-clip.json").write_text(json.dumps(CLIP_CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    tag = {"hf_hub": "someone/tiny/", "mean": (0.5,) * 3, "std": (0.25,) * 3, "quick_gelu": True}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-clip", {"first": tag})
    with pytest.raises(MissingWeights, match=r"evalkit weights fetch open_clip/tiny-clip/first$"):
        make_extractor("open_clip/tiny-clip/first")
    quick = open_clip.model.CLIP(**copy.deepcopy(CLIP_CONFIG), quick_gelu=True).eval()
    (tmp_path / "tiny").mkdir()
    save_file(quick.state_dict(), tmp_path / "tiny" / "open_clip_model.safetensors")

    loaded = make_extractor("open_clip/tiny-clip/first")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), quick.encode_image((images - 0.5) / 0.25))
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a red ball"])
    torch.testing.assert_close(loaded.encode_text(["a red ball"]), F.normalize(quick.encode_text(tokens), dim=-1))
    assert loaded.key == "open_clip/tiny-clip/first" and len(loaded.weights_sha256) == 64
    aliased = make_extractor("open_clip/tiny-clip/first/aliased")
    large = torch.rand(2, 3, 90, 90)
    assert not torch.allclose(aliased(large), loaded(large))
    with pytest.raises(ValueError, match="antialias, aliased, got 'sharp'"):
        make_extractor("open_clip/tiny-clip/first/sharp")


def test_any_open_clip_tag_is_known_and_a_wrong_one_is_refused():
    assert weight_file("open_clip/ViT-B-32/laion2b_s34b_b79k").repo == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    with pytest.raises(ValueError, match="tags of ViT-B-32: openai"):
        weight_file("open_clip/ViT-B-32/nope")


# ---- I3D --------------------------------------------------------------------------------------------------------

def test_same_padding_gives_tensorflow_sizes_with_the_odd_element_after():
    x = torch.ones(1, 1, 7, 6, 5)
    padded = i3d.pad_same(x, (3, 3, 3), (2, 2, 2))
    assert padded.shape[2:] == (9, 7, 7)  # totals 2, 1, 2
    assert padded[0, 0, 4, :, 3].tolist() == [1, 1, 1, 1, 1, 1, 0]
    for size in range(1, 12):
        line = i3d.pad_same(torch.ones(1, 1, size, 1, 1), (3, 1, 1), (2, 1, 1))
        assert F.conv3d(line, torch.ones(1, 1, 3, 1, 1), stride=(2, 1, 1)).shape[2] == -(-size // 2)


@pytest.fixture(scope="module")
def inception():
    torch.manual_seed(1)
    return i3d.InceptionI3D().eval().requires_grad_(False)


def test_i3d_has_the_published_names_and_size(inception):
    state = inception.state_dict()
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_5b.b2a.bn.running_var"].shape == (32,)
    assert state["Mixed_4f.b1b.conv3d.weight"].shape == (320, 160, 3, 3, 3)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    assert sum(name.endswith("conv3d.weight") for name in state) == 58
    assert sum(parameter.numel() for parameter in inception.parameters()) == 12_697_264


def test_i3d_loads_the_carrier_of_videogpt_and_is_differentiable(inception, tmp_path):
    state = {name: value for name, value in inception.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "i3d_pretrained_400.pt")
    loaded = i3d.load_i3d().eval().requires_grad_(False)
    loaded.micro_batch = 1
    frames = torch.rand(1, 10, 3, 16, 20)
    small = F.interpolate(frames[0], size=(224, 224), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = inception(2 * small.transpose(0, 1)[None] - 1)
    frames.requires_grad_(True)
    logits = extract(loaded, frames)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    assert bool((frames.grad.flatten(2).abs().sum(-1) > 0).all()) and logits.shape == (1, 400)
    with pytest.raises(ValueError, match="at least 10 frames, got 9"):
        loaded(frames[:, :9])


def test_the_deepmind_weights_use_their_own_epsilon_and_a_foreign_file_is_refused(inception, tmp_path):
    torch.save(inception.state_dict(), tmp_path / "rgb_imagenet.pt")
    loaded = i3d.load_i3d_deepmind()
    assert loaded.network.Mixed_3b.b0.bn.eps == 1e-3 and inception.Mixed_3b.b0.bn.eps == 1e-5
    torch.save({"logits.conv3d.bias": torch.zeros(4)}, tmp_path / "rgb_imagenet.pt")
    with pytest.raises(ValueError, match="expected an I3D state dict; missing"):
        i3d.load_i3d_deepmind()


class Carrier(nn.Module):
    """The calling convention of the TorchScript file."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale:
            x = 2 * x / 255 - 1
        if resize:
            x = torch.nn.functional.adaptive_avg_pool3d(x, [x.shape[2], 4, 4])
        return x.flatten(1) if return_features else x


def test_the_torchscript_carrier_reads_frames_in_0_to_255(tmp_path):
    torch.jit.script(Carrier()).save(tmp_path / "carrier.pt")
    extractor = i3d.TorchScriptI3D(torch.jit.load(tmp_path / "carrier.pt"))
    frames = torch.rand(2, 10, 3, 8, 8)
    pooled = F.adaptive_avg_pool3d(2 * frames.transpose(1, 2) - 1, (10, 4, 4)).flatten(1)
    torch.testing.assert_close(extract(extractor, frames), pooled)
    assert gradient_reaches_every_frame(extractor, frames)


# ---- transformers -----------------------------------------------------------------------------------------------

def tiny_videomae_settings():
    return {**videomae.GIANT, **TINY, "image_size": 32, "patch_size": 8, "num_frames": 4}


def original_videomae(state, clips, heads):
    """The network of the original code, written out for its own parameter names: the independent reference."""
    x = F.conv3d(clips.transpose(1, 2), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], (2, 8, 8))
    x = x.flatten(2).transpose(1, 2)
    tokens, width = x.shape[1:]
    angle = np.arange(tokens)[:, None] / np.power(10000, 2 * (np.arange(width) // 2) / width)
    table = np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle))
    x = x + torch.tensor(table, dtype=torch.float32)
    for i in range(2):
        part = {name.removeprefix(f"blocks.{i}."): value for name, value in state.items()}
        y = F.layer_norm(x, (width,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        bias = torch.cat([part["attn.q_bias"], torch.zeros(width), part["attn.v_bias"]])
        q, k, v = F.linear(y, part["attn.qkv.weight"], bias).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT / (width // heads) ** 0.5).softmax(-1) @ v
        x = x + F.linear(y.transpose(1, 2).flatten(2), part["attn.proj.weight"], part["attn.proj.bias"])
        y = F.layer_norm(x, (width,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        x = x + F.linear(y, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
    return F.layer_norm(x.mean(1), (width,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)


def original_state():
    shapes = {"patch_embed.proj.weight": (32, 3, 2, 8, 8), "patch_embed.proj.bias": (32,), "fc_norm.weight": (32,),
              "fc_norm.bias": (32,), "head.weight": (174, 32), "head.bias": (174,)}
    for i in range(2):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in {
            "norm1.weight": (32,), "norm1.bias": (32,), "attn.q_bias": (32,), "attn.v_bias": (32,),
            "attn.qkv.weight": (96, 32), "attn.proj.weight": (32, 32), "attn.proj.bias": (32,), "norm2.weight": (32,),
            "norm2.bias": (32,), "mlp.fc1.weight": (64, 32), "mlp.fc1.bias": (64,), "mlp.fc2.weight": (32, 64),
            "mlp.fc2.bias": (32,)}.items()}
    return {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}


def test_an_original_videomae_checkpoint_gives_its_own_forward_features():
    state = original_state()
    model, norm = videomae.build_original(state, tiny_videomae_settings())
    extractor = videomae.VideoMAE(model.eval(), norm)
    frames = torch.rand(2, 4, 3, 32, 32)
    torch.testing.assert_close(extractor(frames), original_videomae(state, frames, 2), atol=1e-5, rtol=1e-4)
    assert gradient_reaches_every_frame(extractor, frames)
    with pytest.raises(ValueError, match="expected 4 frames, got 6"):
        extractor(torch.rand(1, 6, 3, 32, 32))


def test_the_giant_is_the_published_size():
    from transformers import VideoMAEConfig, VideoMAEModel

    def size(layers):
        with torch.device("meta"):
            model = VideoMAEModel(VideoMAEConfig(**{**videomae.GIANT, "num_hidden_layers": layers, "image_size": 28}))
        return sum(parameter.numel() for parameter in model.parameters())

    layers = videomae.GIANT["num_hidden_layers"]
    assert size(1) + (layers - 1) * (size(2) - size(1)) == pytest.approx(1.011e9, rel=0.01)


def save_tiny(model, folder):
    model.save_pretrained(folder)
    return model.eval()


def test_videomae_base_is_loaded_from_its_hub_folder(tmp_path):
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(**TINY, image_size=32, patch_size=8, num_frames=4)
    model = save_tiny(VideoMAEModel(config), tmp_path / "videomae-base-finetuned-ssv2")
    frames = torch.rand(1, 4, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD))
    expected = model((frames - mean) / std).last_hidden_state.mean(1)
    torch.testing.assert_close(videomae.load_videomae("base").eval()(frames), expected)
    with pytest.raises(ValueError, match="giant or base, got 'huge'"):
        videomae.load_videomae("huge")


def test_vjepa2_is_loaded_from_its_hub_folder_and_reads_pairs_of_frames(tmp_path):
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(**TINY, crop_size=32, frames_per_clip=4, patch_size=8, mlp_ratio=2, pred_hidden_size=16,
                          pred_num_attention_heads=2, pred_num_hidden_layers=1)
    save_tiny(VJEPA2Model(config), tmp_path / "vjepa2-vitl-fpc64-256")
    extractor = vjepa.load_vjepa2().eval()
    frames = torch.rand(2, 6, 3, 40, 50)
    assert extract(extractor, frames).shape == (2, 32)
    assert gradient_reaches_every_frame(extractor, frames)
    with pytest.raises(ValueError, match="multiple of 2 frames, got 5"):
        extractor(frames[:, :5])


def test_dino_and_dinov2_are_loaded_from_their_hub_folders(tmp_path):
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    vit = save_tiny(ViTModel(ViTConfig(**TINY, image_size=64, patch_size=16), add_pooling_layer=False),
                    tmp_path / "dino-vitb16")
    small = {name: TINY[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    save_tiny(Dinov2Model(Dinov2Config(**small, mlp_ratio=2, image_size=56, patch_size=14)), tmp_path / "dinov2-base")
    frames = torch.rand(3, 2, 3, 60, 80)
    dino, two = dinov2.load_dino().eval(), dinov2.load_dinov2().eval()
    for extractor in (dino, two):
        assert extract(extractor, frames).shape == (3, 2, 32)
        assert gradient_reaches_every_frame(extractor, frames[:1]) and same_alone_and_in_a_batch(extractor, frames)
    torch.testing.assert_close(
        dino(frames[0]), vit(dino.prepare(frames[0]), interpolate_pos_encoding=True).last_hidden_state[:, 0])
    assert dino.weights_sha256 != two.weights_sha256


# ---- RAFT -------------------------------------------------------------------------------------------------------

def shifted_pair(height, width, dx, dy):
    noise = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(1))
    picture = F.interpolate(noise, size=(height + 40, width + 40), mode="bicubic").clamp(0, 1)
    first = picture[..., 20: 20 + height, 20: 20 + width]
    second = picture[..., 20 - dy: 20 - dy + height, 20 - dx: 20 - dx + width]
    return torch.stack([first, second], dim=1)


@pytest.mark.parametrize("height, width", [(160, 200), (75, 90)])
def test_raft_small_finds_a_known_shift(real, height, width):
    extractor = make_extractor("raft_small")
    pair = shifted_pair(height, width, 5, 3)
    inner = extractor.flow(pair)[0, 0, :, 16:-16, 16:-16]
    assert (inner - torch.tensor([5.0, 3.0]).view(2, 1, 1)).norm(dim=0).mean() < 0.5  # of 5.8 pixels
    found = extract(extractor, pair)
    assert found["top5"].shape == (1, 1) and found["mean"].item() == pytest.approx(34 ** 0.5, rel=0.1)
    assert found["top5"].item() >= found["mean"].item()


def test_raft_is_blind_to_the_batch_and_needs_two_frames(real):
    extractor = make_extractor("raft_small")
    clips = torch.cat([shifted_pair(128, 128, shift, 0) for shift in (1, 4, 8)])
    together = extractor(clips)
    alone = [extractor(clip[None]) for clip in clips]
    for name in together:
        assert torch.equal(together[name], torch.cat([one[name] for one in alone]))
    assert together["mean"].flatten().diff().min() > 0
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        extractor(clips[:, :1])


def test_raft_large_runs_as_loaded_from_a_state_dict(tmp_path, monkeypatch):
    from torchvision.models.optical_flow import raft_large

    from evalkit.features.weight_files import KNOWN, WeightFile

    monkeypatch.setitem(KNOWN, "raft_large", WeightFile("raft_large", ("random.pth",), "", "tests"))
    with pytest.raises(MissingWeights, match="raft_large"):
        raft.load_raft_large()
    torch.save(raft_large().state_dict(), tmp_path / "random.pth")
    extractor = raft.load_raft_large().eval()
    assert extractor.updates == 20
    extractor.updates = 2  # spares time
    assert gradient_reaches_every_frame(extractor, torch.rand(1, 2, 3, 128, 128))


# ---- SqueezeNet and the aesthetic heads -------------------------------------------------------------------------

def test_squeezenet_reads_bgr_with_the_original_weights(real):
    extractor = make_extractor("squeezenet")
    frame = torch.rand(1, 3, 227, 227)
    assert extractor.caffe and extractor.weights_sha256.startswith("fd36db65")
    bgr = 255 * frame[:, [2, 1, 0]] - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    torch.testing.assert_close(extractor(frame), extractor.layers(bgr).mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
    assert gradient_reaches_every_frame(extractor, torch.rand(1, 2, 3, 60, 80))


def test_squeezenet_of_torchvision_reads_imagenet_statistics():
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0().eval()
    extractor = squeezenet.SqueezeNet(network)
    frame = torch.rand(1, 3, 227, 227)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD))
    torch.testing.assert_close(extractor(frame), network.features((frame - mean) / std).mean(dim=(2, 3)))


def test_the_aesthetic_heads_give_the_known_ratings(real):
    files = [real / "weights" / "aesthetic" / "vit_l_14_embeddings" / f"rating{i}.npy" for i in range(10)]
    embeddings = torch.tensor(np.stack([np.load(file).squeeze() for file in files])).float()
    mlp, _ = aesthetic.load_head("l14_mlp")
    rising = mlp(embeddings).squeeze(-1)
    assert bool((rising.diff() > 0).all())
    assert rising[0].item() == pytest.approx(1.66, abs=0.01) and rising[9].item() == pytest.approx(5.75, abs=0.01)
    linear, _ = aesthetic.load_head("l14_linear")
    known = [-2.46, -0.14, 1.90, 3.58, 5.10, 6.47, 7.79, 9.05, 10.23, 11.30]
    assert linear(embeddings).squeeze(-1).tolist() == pytest.approx(known, abs=0.011)
    for name in ("b32_linear", "b16_linear"):
        assert aesthetic.load_head(name)[0](torch.zeros(1, 512)).shape == (1, 1)


def test_an_aesthetic_score_is_the_head_on_the_unit_embedding(clip):
    head = nn.Linear(16, 1)
    extractor = aesthetic.Aesthetic(clip, head)
    frames = torch.rand(1, 3, 3, 32, 32)
    expected = head(F.normalize(clip(frames[0]), dim=-1))
    torch.testing.assert_close(extract(extractor, frames)[0], expected)
    assert gradient_reaches_every_frame(extractor, frames)


def test_an_aesthetic_extractor_without_its_clip_names_what_is_missing(real):
    with pytest.raises(MissingWeights, match=r"evalkit weights fetch open_clip/ViT-L-14/openai$"):
        make_extractor("aesthetic/l14_linear")
    with pytest.raises(ValueError, match="unknown aesthetic head 'l15'"):
        make_extractor("aesthetic/l15")
