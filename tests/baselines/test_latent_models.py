"""Models on latents: the autoencoder they stand on, and pipelines from elsewhere with T5."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from baselines import dpo, presets, pretrain, sft, vae
from baselines.adapters import Lora, add_adapter
from baselines.checkpoints import load_model, read_card, save_model, trainable_weights
from baselines.model import VideoDiffusion
from baselines.text import CutPrompts
from baselines.tracking import read_log
from baselines.train import train
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.errors import UsageError

SHAPE = {"dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [True, True], "scale_factor_temporal": 4,
         "scale_factor_spatial": 4}
TRANSFORMER = presets._transformer((1, 2, 2), 1, 32, 1, 32, 2, 16) | {"freq_dim": 16}
LATENT = presets.Preset(5, 8.0, 16, 16, TRANSFORMER, "words", 6, SHAPE | {
    "base_dim": 8, "z_dim": 2, "latents_mean": [0.0, 0.0], "latents_std": [1.0, 1.0]})
RUN = {"preset": "latent", "device": "cpu", "trackers": (), "log_every": 1, "warmup": 1, "eval_every": 0}


@pytest.fixture
def clips(monkeypatch, tmp_path):
    """A manifest of eight clips of the world, and a preset of their size."""
    monkeypatch.setitem(presets.PRESETS, "latent", LATENT)
    for k in range(8):
        frames = render_scenes([make_scene(SPLITS["train"] + k, level="simple")], 5, 8.0, 16)[0]
        np.save(tmp_path / f"{k}.npy", frames.permute(0, 2, 3, 1).numpy())
    table = tmp_path / "clips.csv"
    table.write_text("path,prompt,fps\n" + "".join(f"{k}.npy,surfing {k % 2},8\n" for k in range(8)))
    return table


def test_an_autoencoder_learns_and_its_latents_have_unit_spread_in_the_model_that_takes_it(clips, tmp_path):
    config = vae.Config(**{key: value for key, value in RUN.items() if key != "eval_every"} | {
        "out": str(tmp_path / "vae"), "data": str(clips), "steps": 24, "batch_size": 8, "lr": 1e-2})
    stage = vae.build(config)
    train(stage, config)
    errors = [row["error"] for row in read_log(tmp_path / "vae")]
    assert sum(errors[-4:]) < 0.8 * sum(errors[:4])
    settings = RUN | {"data": str(clips), "steps": 2, "batch_size": 4, "out": str(tmp_path / "pretrain")}
    with pytest.raises(UsageError, match="baseline vae"):
        pretrain.build(pretrain.Config(**settings))
    config = pretrain.Config(**settings | {"vae": str(tmp_path / "vae")})
    stage = pretrain.build(config)
    latents = stage.clips.store.clips(range(8))["latents"].float()
    assert torch.allclose(latents.std(dim=(0, 2, 3, 4)), torch.ones(2), atol=0.1)
    train(stage, config)
    found = load_model(tmp_path / "pretrain")
    assert found.preset == stage.model.preset
    saved = load_file(tmp_path / "vae" / "vae.safetensors")
    assert all(torch.equal(value.half(), saved[name]) for name, value in found.vae.state_dict().items())
    with pytest.raises(UsageError, match="not there"):
        load_model(tmp_path / "vae")


def test_clips_that_are_encoded_together_are_as_if_each_was_alone_and_a_broken_one_costs_itself(clips, tmp_path,
                                                                                                 monkeypatch):
    from baselines import data

    monkeypatch.setattr(data, "available_cores", lambda: 1)  # eight clips are four parts
    model = VideoDiffusion.build(replace(LATENT, vae={"kind": presets.PATCH_CODEC, "channels": 2}))
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda frames: calls.append(len(frames)) or encode(frames))
    (tmp_path / "4.npy").write_bytes(b"no array")
    store = data.open_clips(model, str(clips), str(tmp_path / "cache"), 0, max_failures=1).store
    assert calls == [2, 2, 1, 2] and list(store.failures) == ["4.npy"]
    names = [item.name for item in store.items]
    assert names == [f"{k}.npy" for k in range(8) if k != 4]
    alone = [encode(torch.from_numpy(np.load(tmp_path / name)).permute(0, 3, 1, 2)[None])[0] for name in names]
    assert torch.allclose(store.clips(range(7))["latents"].float(), torch.stack(alone), atol=2e-3, rtol=2e-3)


def test_latents_are_encoded_once_and_kept_by_content(clips, tmp_path):
    from baselines.data import ClipStore, captioned

    model = VideoDiffusion.build(LATENT)
    store = ClipStore(model, captioned(str(clips)), tmp_path / "cache")
    first = store.clips(range(8))["latents"]
    entries = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert len(entries) == 8
    again = ClipStore(model, captioned(str(clips)), tmp_path / "cache", in_memory=0)
    assert torch.equal(again.clips(range(8))["latents"], first)
    assert {path: path.stat().st_mtime_ns for path in entries} == entries
    other = ClipStore(VideoDiffusion.build(LATENT, seed=1), captioned(str(clips)), tmp_path / "cache")
    assert not torch.equal(other.clips(range(8))["latents"], first)  # another autoencoder, other entries


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A folder like that of a diffusers Wan pipeline, tiny, with random weights."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path / "pipeline"
    torch.manual_seed(0)
    WanTransformer3DModel(**TRANSFORMER).save_pretrained(folder / "transformer")
    AutoencoderKLWan(**SHAPE, base_dim=4, z_dim=2, latents_mean=[0.0, 0.1], latents_std=[1.0, 2.0]).save_pretrained(
        folder / "vae")
    config = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "surfing": 3, "archery": 4}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>",
                            unk_token="<unk>").save_pretrained(folder / "tokenizer")
    monkeypatch.setitem(presets.PRESETS, "other", presets.Preset(5, 8.0, 16, 16, TRANSFORMER, "t5", 6, {}))
    return folder


def test_a_pipeline_from_elsewhere_is_fine_tuned_by_an_adapter_that_comes_back(pipeline, clips, tmp_path):
    settings = RUN | {"preset": "other", "pretrained": str(pipeline), "data": str(clips), "steps": 2, "batch_size": 4,
                      "rank": 2, "lr": 0.01, "out": str(tmp_path / "sft")}
    config = sft.Config(**settings)
    stage = sft.build(config)
    assert stage.model.latent_shape == (2, 2, 4, 4)
    train(stage, config)
    assert read_card(tmp_path / "sft").pretrained == str(pipeline)
    found = load_model(tmp_path / "sft")
    assert found.sample(["surfing"], [1], steps=1).shape == (1, 5, 3, 16, 16)
    with pytest.warns(CutPrompts, match="1 of 1"):
        found.encode_prompts(["surfing archery " * 4])
    states = found.encode_prompts(["surfing", "archery archery"])
    assert states[0, 1:].abs().sum() == 0 and states[1, 1].abs().sum() > 0
    with pytest.raises(UsageError, match="either --from"):
        sft.build(sft.Config(**settings | {"source": "runs/pretrain"}))


def test_a_pipeline_of_another_shape_is_refused(pipeline, monkeypatch):
    from dataclasses import replace

    wider = replace(presets.PRESETS["other"], transformer=TRANSFORMER | {"ffn_dim": 64})
    with pytest.raises(ValueError, match=r"not of this preset.*ffn_dim"):
        VideoDiffusion.from_pretrained(wider, str(pipeline))


def test_an_adapter_on_nothing_is_not_saved(tmp_path):
    model = VideoDiffusion.build(LATENT)
    add_adapter(model.transformer, Lora(2, 2.0))
    with pytest.raises(ValueError, match="stands on"):
        save_model(model, tmp_path, "sft", 1, weights=trainable_weights(model), lora=Lora(2, 2.0))


def test_preferences_on_latents_start_at_log_2_in_bfloat16_too(clips, tmp_path):
    base = VideoDiffusion.build(LATENT)
    torch.nn.init.normal_(base.transformer.proj_out.weight, std=0.1)
    save_model(base, tmp_path / "base", "pretrain", 1, weights=trainable_weights(base))
    rows = "".join(f'{{"chosen": "{k}.npy", "rejected": "{k + 2}.npy", "prompt": "surfing"}}\n' for k in range(4))
    (tmp_path / "pairs.jsonl").write_text(rows)
    config = dpo.Config(**RUN | {"source": str(tmp_path / "base"), "pairs": str(tmp_path / "pairs.jsonl"), "steps": 3,
                                 "batch_size": 2, "rank": 2, "lr": 0.01, "out": str(tmp_path / "dpo")})
    stage = dpo.build(config)
    stage.model.to("cpu", torch.bfloat16)
    train(stage, config)
    log = read_log(tmp_path / "dpo")
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-6) and log[0]["drift"] == 0 and log[-1]["drift"] > 0
