"""The closed-form latent space: what it keeps, how it is fitted and saved, and a model that learns on it."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines import presets, pretrain, vae
from baselines.checkpoints import load_model, load_vae, read_card
from baselines.model import VideoDiffusion
from baselines.patch_codec import PatchCodec
from baselines.train import train
from evalkit.cli import main
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.errors import UsageError

CHANNELS = 12
TRANSFORMER = presets._transformer((1, 1, 1), 1, 32, 1, 32, CHANNELS, 16) | {"freq_dim": 16}
CODED = presets.Preset(17, 8.0, 32, 32, TRANSFORMER, "words", 6, {"kind": "patch_codec", "channels": CHANNELS},
                       prediction="clean")


@pytest.fixture(scope="module")
def scenes():
    """uint8 (20, 17, 3, 32, 32)"""
    return render_scenes([make_scene(SPLITS["train"] + k, level="simple") for k in range(20)], 17, 8.0, 32)


@pytest.fixture(scope="module")
def pixels(scenes):
    return (2 * (scenes.float() / 255) - 1).transpose(1, 2)


@pytest.fixture(scope="module")
def codec(pixels):
    fitted = PatchCodec(CHANNELS)
    fitted.fit(pixels.split(8))
    return fitted


@pytest.fixture
def clips(scenes, monkeypatch, tmp_path):
    """A manifest of the scenes, and a preset of their size."""
    monkeypatch.setitem(presets.PRESETS, "coded", CODED)
    monkeypatch.setitem(vae.PRESETS, "coded", {})
    for k, frames in enumerate(scenes):
        np.save(tmp_path / f"{k}.npy", frames.permute(0, 2, 3, 1).numpy())
    table = tmp_path / "clips.csv"
    table.write_text("path,prompt,fps\n" + "".join(f"{k}.npy,surfing {k % 2},8\n" for k in range(len(scenes))))
    return table


def test_seventeen_frames_are_five_latents_and_seventeen_frames_again(codec, pixels):
    latents = codec.encode(pixels)
    assert latents.shape == (20, CHANNELS, 5, 4, 4)
    assert codec.decode(latents).shape == pixels.shape


def test_what_was_decoded_comes_back_whole(codec, pixels):
    latents = codec.encode(pixels)
    assert torch.allclose(codec.encode(codec.decode(latents)), latents, atol=1e-3)


def test_the_basis_is_orthonormal_and_no_channel_mixes_means_and_motion(codec):
    assert torch.allclose(codec.basis.mT @ codec.basis, torch.eye(CHANNELS), atol=1e-5)
    shares = codec._still(codec.basis.mT).square().sum(1)
    assert torch.minimum(shares, 1 - shares).max() < 1e-5


def test_latents_of_the_clips_it_was_fitted_to_have_zero_mean_and_unit_variance(codec, pixels):
    latents = codec.encode(pixels).transpose(0, 1).flatten(1)
    assert latents.mean(1).abs().max() < 1e-3
    assert torch.allclose(latents.std(1), torch.ones(CHANNELS), atol=1e-3)


def test_no_linear_code_of_whole_patches_keeps_more_but_for_the_first_frame(codec, pixels):
    """Principal components by numpy's SVD, of patches that were cut by loops."""
    patches = np.stack([clip[:, t: t + 4, y: y + 8, x: x + 8].numpy().ravel() for clip in pixels
                        for t in range(1, 17, 4) for y in range(0, 32, 8) for x in range(0, 32, 8)])
    centred = patches - patches.mean(0)
    values = np.linalg.svd(centred.astype(np.float64), compute_uv=False) ** 2
    best = values[CHANNELS:].sum() / centred.size
    found = (codec.decode(codec.encode(pixels)) - pixels)[:, :, 1:].square().mean().item()
    assert best <= found < 1.3 * best


def test_more_channels_keep_more_and_all_of_them_keep_all(pixels):
    shares, errors = [], []
    for channels in (4, 32, 768):
        codec = PatchCodec(channels)
        shares.append(codec.fit(pixels.split(8)))
        errors.append((codec.decode(codec.encode(pixels)) - pixels).square().mean().item())
    assert shares[0] < shares[1] < shares[2] == pytest.approx(1)
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-8


def test_an_image_is_a_clip_of_one_latent_frame(codec, pixels):
    alone = codec.encode(pixels[:, :, :1])
    assert torch.allclose(alone, codec.encode(pixels)[:, :, :1], atol=1e-5)
    assert codec.decode(alone).shape == (20, 3, 1, 32, 32)


@pytest.mark.parametrize("whitening", [1.0, 0.5, 0.0])
def test_whitening_sets_how_far_channels_differ_and_never_how_much_all_vary(pixels, whitening):
    codec = PatchCodec(CHANNELS)
    codec.fit(pixels.split(8), whitening)
    variances = codec.encode(pixels).var(dim=(0, 2, 3, 4), correction=0)
    assert variances.mean() == pytest.approx(1, rel=0.02)  # what moves and what stands still are not quite apart
    plain = PatchCodec(CHANNELS)
    plain.fit(pixels.split(8), 0.0)
    of_pixels = plain.encode(pixels).var(dim=(0, 2, 3, 4), correction=0)
    ratios = variances / of_pixels ** (1 - whitening)
    assert ratios.std() / ratios.mean() < 0.02
    assert torch.allclose(codec.decode(codec.encode(pixels)), plain.decode(plain.encode(pixels)), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 16, 32, 32), (1, 3, 17, 30, 32)])
def test_clips_that_patches_do_not_tile_are_refused(codec, shape):
    with pytest.raises(ValueError, match=r"4k \+ 1 frames"):
        codec.encode(torch.zeros(shape))


def test_a_codec_of_no_clips_or_of_more_channels_than_numbers_is_refused():
    with pytest.raises(ValueError, match="got none"):
        PatchCodec(4).fit([])
    with pytest.raises(ValueError, match="1 to 768"):
        PatchCodec(769)


def test_the_command_fits_it_and_says_how_well_and_a_model_trains_and_samples_on_it(clips, tmp_path, capsys):
    common = ["--preset", "coded", "--device", "cpu", "--trackers", "none", "--data", str(clips)]
    folder = tmp_path / "vae"
    for _ in range(2):  # a run that is repeated ends alike
        assert main(["baseline", "vae", *common, "--out", str(folder)]) == 0
        assert "explained variance 0.89" in (said := capsys.readouterr().out) and "held-out PSNR (dB) 23" in said
    assert json.loads((folder / "summary.json").read_text())["checkpoint"] == read_card(folder).identity
    config = pretrain.Config(preset="coded", data=str(clips), out=str(tmp_path / "pretrain"), steps=2, batch_size=4,
                             warmup=1, eval_every=0, device="cpu", trackers=(), vae=str(folder))
    stage = pretrain.build(config)
    latents = torch.stack([stage.clips.store.clips([k])["latents"][0] for k in range(20)]).float()
    assert latents.shape[1:] == stage.model.latent_shape == (CHANNELS, 5, 4, 4)
    assert latents.var(dim=(0, 2, 3, 4)).mean() == pytest.approx(1, abs=0.2)  # some were held out
    train(stage, config)
    found = load_model(tmp_path / "pretrain")
    assert found.preset == CODED
    assert all(torch.equal(found.vae.state_dict()[name], value) for name, value in stage.model.vae.state_dict().items())
    frames = found.sample(["surfing 0"], [1], steps=2)
    assert frames.shape == (1, 17, 3, 32, 32) and 0 <= frames.min() <= frames.max() <= 1


def test_gradient_of_a_reward_goes_through_it(codec, pixels):
    latents = codec.encode(pixels[:1]).requires_grad_(True)
    codec.decode(latents).mean().backward()
    assert latents.grad.abs().sum() > 0


def test_latents_of_another_kind_are_refused(clips, tmp_path):
    assert main(["baseline", "vae", "--preset", "coded", "--device", "cpu", "--data", str(clips), "--out",
                 str(tmp_path / "vae")]) == 0
    trained = replace(CODED, vae={"base_dim": 4, "z_dim": CHANNELS, "dim_mult": [1, 1, 1], "num_res_blocks": 1,
                                  "temperal_downsample": [True, True]})
    with pytest.raises(UsageError, match="kind of latents"):
        load_vae(VideoDiffusion.build(trained), tmp_path / "vae")
    with pytest.raises(ValueError, match="patch_codec"):
        VideoDiffusion.build(replace(CODED, vae={"kind": "wavelets"}))
