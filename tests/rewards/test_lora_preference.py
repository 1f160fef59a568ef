"""A preference on a CLIP with LoRA, from tiny random checkpoints of the real classes; and ensembles."""
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from evalkit.cli import main
from evalkit.data.truth import make_preference
from evalkit.data.video_writer import write_video
from evalkit.errors import UsageError
from evalkit.features.weights import MissingWeights
from rewards import load_reward
from rewards.data import Pair, write_pairs
from rewards.ensemble import Ensemble
from rewards.lora import LoraNetwork, open_backbone
from rewards.preference import DIMENSIONS, Preference
from rewards.train import Config, divide, train
from rewards.train_lora import margins_of, read_clips

PROMPTS = ["a zeppelin lands", "the sea at night"]
SMALL = {"epochs": 3, "held_out": 0.2, "workers": 1, "lora_rank": 4}
CLIP = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """A CLIP of open_clip and one of transformers, saved as they save them."""
    import open_clip
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = tmp_path_factory.mktemp("backbones")
    (place / "tiny-clip-of-tests.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(place / "tiny-clip-of-tests.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-clip-of-tests", pretrained=None).state_dict(), place / "clip.pt")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: k for k, letter in enumerate([*letters, "<end>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
                                         ).save_pretrained(place / "hf")
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=small | {"vocab_size": 257, "max_position_embeddings": 24, "bos_token_id": 256,
                             "eos_token_id": 256, "pad_token_id": 256},
        vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(place / "hf")
    (place / "hf" / "preprocessor_config.json").write_text(json.dumps(
        {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 32}, "resample": 3}))
    return {"open_clip": f"open_clip:tiny-clip-of-tests:{place / 'clip.pt'}",
            "transformers": f"transformers:{place / 'hf'}"}


KINDS = ("open_clip", "transformers")


@pytest.fixture(scope="module")
def folders(backbones, tmp_path_factory):
    made = {}
    for kind, backbone in backbones.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        train(Config(str(made[kind]), world=24, backbone=backbone, **SMALL), command="evalkit rewards train")
    return made


def clips(batch=2, frames=10, size=(48, 40)):
    return torch.rand(batch, frames, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing_and_trained_ones_do(backbones, folders, kind):
    images, plain = clips()[0], open_backbone(backbones[kind])
    expected = plain(images)
    torch.testing.assert_close(LoraNetwork(open_backbone(backbones[kind]), 4).clip(images), expected)
    moved = Preference(folders[kind]).network.clip(images)
    assert not torch.equal(moved, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_and_heads_are_saved_and_the_card_names_the_rest(folders, backbones, kind):
    with safe_open(folders[kind] / "preference.safetensors", "pt") as held:
        names = set(held.keys())
    assert any(".lora_A." in name for name in names) and "shares" in names
    assert all(".lora_" in name or not name.startswith("clip.") for name in names)
    card = json.loads((folders[kind] / "card.json").read_text())
    assert card["lora"] == {"backbone": backbones[kind], "rank": 4,
                            "backbone_sha256": open_backbone(backbones[kind]).weights_sha256}
    assert card["n"]["pairs"] == 24 and "overall" in card["held_out"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_that_is_read_has_a_finite_gradient_that_is_not_zero(folders, kind):
    reward = load_reward("preference", folder=folders[kind])
    for name in (None, *DIMENSIONS):
        frames = clips(frames=8).requires_grad_()
        (reward(frames, PROMPTS) if name is None else reward.components(frames, PROMPTS)[name]).sum().backward()
        assert frames.grad.isfinite().all()
        assert (frames.grad.abs().amax((2, 3, 4)) > 0).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_is_that_of_the_clip_alone_and_of_its_prompt(folders, kind):
    reward, frames = load_reward("preference", folder=folders[kind]), clips()
    with torch.no_grad():
        together = reward(frames, PROMPTS)
        torch.testing.assert_close(together, reward(list(frames), PROMPTS), atol=1e-6, rtol=0)
        assert reward(frames, PROMPTS[::-1]).ne(together).all()
        order = torch.tensor([3, 0, 7, 1, 5, 2, 9, 4, 8, 6])
        assert reward.components(frames[:, order], PROMPTS)["motion"].ne(
            reward.components(frames, PROMPTS)["motion"]).all()
    assert reward.extractor_keys == () and reward.spec.num_frames == 8 and reward.spec.size == 32


def test_checkpointing_leaves_the_gradient_as_it_is(folders):
    reward, found = load_reward("preference", folder=folders["open_clip"]), []
    for _ in range(2):
        frames = clips().requires_grad_()
        reward(frames, PROMPTS).sum().backward()
        found.append(frames.grad)
        reward.checkpointed()
    torch.testing.assert_close(*found)


def test_fitting_makes_margins_agree_with_the_labels_fitted_to(backbones, tmp_path):
    config = Config(str(tmp_path), world=12, backbone=backbones["transformers"], **SMALL | {"epochs": 40})
    fitted = train(config).network
    clips_read = read_clips(config, 32, lambda *_: None, lambda _: None)
    labels = clips_read.labels[(rows := divide(clips_read.pairs, config)[0])]
    right = [float((margins_of(network, clips_read)[rows].sign() == labels)[labels != 0].float().mean())
             for network in (LoraNetwork(open_backbone(config.backbone), 4), fitted)]
    assert right[1] >= 0.8 > right[0]


def test_a_killed_run_goes_on_from_the_frames_it_has_read_with_the_same_result(folders, backbones, tmp_path):
    import shutil

    out = shutil.copytree(folders["open_clip"], tmp_path / "again")
    files = sorted((out / "features").glob("frames-*.npz"))
    assert len(files) == 48
    kept = {file: file.stat().st_mtime_ns for file in files[::2]}
    for lost in [*files[1::2], out / "preference.safetensors", out / "card.json"]:
        lost.unlink()
    train(Config(str(out), world=24, backbone=backbones["open_clip"], **SMALL))
    assert (out / "preference.safetensors").read_bytes() == (
        folders["open_clip"] / "preference.safetensors").read_bytes()
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


@pytest.mark.parametrize("other", [{}, {"lora_rank": 3}])
def test_a_fit_killed_after_an_epoch_ends_in_the_same_bytes_and_one_of_another_run_is_not_gone_on_with(
        folders, backbones, tmp_path, other):
    class Killed(Exception):
        pass

    def kill(stage, done, of):
        if stage == "preferences" and done == 2:
            raise Killed

    config = Config(str(tmp_path), world=24, backbone=backbones["open_clip"], **SMALL)
    with pytest.raises(Killed):
        train(replace(config, **other), kill)
    epochs = []
    train(config, lambda stage, done, of: epochs.append(done) if stage == "preferences" else None)
    assert epochs == ([1, 2, 3] if other else [3])
    assert (tmp_path / "preference.safetensors").read_bytes() == (
        folders["open_clip"] / "preference.safetensors").read_bytes()
    assert not (tmp_path / "unfinished.pt").exists()


def test_the_command_learns_from_files_of_any_language_and_size_and_score_reads_its_folder(backbones, tmp_path, capsys):
    pairs = []
    for seed in range(8):
        drawn = make_preference(seed)
        for side in "ab":
            write_video(tmp_path / f"{seed}{side}.mp4",
                        getattr(drawn, side).frames(size=(48, 64 if side == "a" else 56)), 8.0)
        pairs.append(Pair(f"{seed}a.mp4", f"{seed}b.mp4", f"a zeppelin lands {seed} times"))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    path = write_pairs(tmp_path / "pairs.jsonl", [*pairs, Pair("broken.mp4", "0a.mp4", pairs[0].prompt)])
    command = ["rewards", "train", "--pairs", str(path), "--backbone", backbones["open_clip"], "--lora-rank", "2",
               "--epochs", "1", "--held-out", "0.2", "--device", "cpu", "--workers", "1", "--out",
               str(tmp_path / "out")]
    assert main(command) == 2
    assert "broken.mp4" in capsys.readouterr().err
    assert main([*command, "--max-failures", "1"]) == 0
    assert "pairs fitted" in capsys.readouterr().out
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"video": "0a.mp4", "prompt": "a zeppelin lands"}) + "\n")
    assert main(["rewards", "score", str(tmp_path / "0a.mp4"), "--reward", str(tmp_path / "out"), "--prompts",
                 str(prompts), "--workers", "1", "--cache", "none"]) == 0
    assert "visual 0." in capsys.readouterr().out


@pytest.mark.parametrize(("backbone", "message"), [
    ("vit", "expected open_clip:MODEL:TAG"), ("open_clip:ViT-B-32", "expected open_clip:MODEL:TAG"),
    ("transformers:", "expected open_clip:MODEL:TAG")])
def test_another_spelling_of_a_backbone_is_refused(tmp_path, backbone, message):
    with pytest.raises(UsageError, match=message):
        train(Config(str(tmp_path), world=8, backbone=backbone, **SMALL))


def test_a_backbone_that_is_not_here_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingWeights, match="evalkit weights fetch open_clip/ViT-B-32/openai"):
        open_backbone("open_clip:ViT-B-32:openai")
    with pytest.raises(MissingWeights, match="hf download openai/clip-vit-base-patch32"):
        open_backbone("transformers:openai/clip-vit-base-patch32")


def test_files_that_do_not_fit_are_refused(backbones, folders, tmp_path):
    import shutil

    clip = backbones["open_clip"].split(":")[2]
    with pytest.raises(ValueError, match="open_clip knows no model 'no-such'"):
        open_backbone(f"open_clip:no-such:{clip}")
    with pytest.raises(ValueError, match="not weights of open_clip's ViT-S-16"):
        open_backbone(f"open_clip:ViT-S-16:{clip}")
    with pytest.raises(ValueError, match="rank: expected at least 1"):
        LoraNetwork(open_backbone(backbones["open_clip"]), 0)
    for change, message in (({"rank": 5}, "not the adapters and heads"),
                            ({"backbone_sha256": "0"}, "of sha256 0, got")):
        folder = tmp_path / message[:3]
        shutil.copytree(folders["open_clip"], folder)
        card = json.loads((folder / "card.json").read_text())
        card["lora"] |= change
        (folder / "card.json").write_text(json.dumps(card))
        with pytest.raises(ValueError, match=message):
            Preference(folder)


def test_a_siglip_is_adapted_too_and_reads_texts_filled_up_to_its_length(backbones, tmp_path):
    import shutil

    import transformers

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(text_config=small | {"vocab_size": 257, "max_position_embeddings": 24},
                                       vision_config=small | {"image_size": 32, "patch_size": 8})
    shutil.copytree(backbones["transformers"].split(":")[1], tmp_path / "siglip")
    transformers.SiglipModel(config).save_pretrained(tmp_path / "siglip")
    (tmp_path / "siglip" / "preprocessor_config.json").write_text(json.dumps(
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}, "resample": 2}))
    clip = open_backbone(f"transformers:{tmp_path / 'siglip'}")
    assert clip.image.squash and clip.image.interpolation == "bilinear"
    assert clip.tokenizer(["the sea"]).shape == (1, 24)
    frames = clips(frames=8).requires_grad_()
    network = LoraNetwork(clip, 2).eval()
    sum(network(frames, PROMPTS).values()).sum().backward()
    assert frames.grad.isfinite().all() and (frames.grad.abs().amax((2, 3, 4)) > 0).all()
    assert any(value.grad is not None for name, value in network.named_parameters() if ".lora_B" in name)


def test_a_network_without_a_text_tower_is_refused(tmp_path):
    import transformers

    config = transformers.ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                    image_size=16, patch_size=8)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected a network with image and text towers.*ViTModel"):
        open_backbone(f"transformers:{tmp_path}")


@pytest.fixture(scope="module")
def members(folders, backbones, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    train(Config(str(other), world=24, backbone=backbones["open_clip"], seed=1, **SMALL))
    return [load_reward("preference", folder=folder) for folder in (folders["open_clip"], other)]


def test_an_ensemble_is_the_mean_less_k_standard_deviations(members):
    frames = clips()
    one, other = (member(frames, PROMPTS) for member in members)
    apart = (one - other).abs() / math.sqrt(2)
    for k in (0.0, 1.0, 2.5):
        torch.testing.assert_close(Ensemble(members, k)(frames, PROMPTS), (one + other) / 2 - k * apart, atol=1e-5,
                                   rtol=0)
    parts = Ensemble(members).components(frames, PROMPTS)
    torch.testing.assert_close(parts["uncertainty"], apart, atol=1e-5, rtol=0)
    assert set(parts) == {*DIMENSIONS, "mean", "uncertainty"}


def test_an_ensemble_has_a_gradient_also_where_its_members_agree_and_stays_one_reward_in_a_sum(members):
    for pair in (members, [members[0], members[0]]):
        frames = clips(1).requires_grad_()
        Ensemble(pair)(frames, PROMPTS[:1]).sum().backward()
        assert frames.grad.isfinite().all() and float(frames.grad.abs().max()) > 0
    both = Ensemble(members, 2.0)
    twice = (2 * both).raw()
    torch.testing.assert_close(twice(clips(), PROMPTS), 2 * both(clips(), PROMPTS))
    assert both.spec == members[0].spec and both.needs_prompts


def test_an_ensemble_of_embedded_preferences_runs_their_extractor_once():
    rewards = [load_reward("preference") for _ in range(2)]
    assert Ensemble(rewards).extractor_keys == ("mini_clip",)


@pytest.mark.parametrize(("names", "options", "message"), [
    (["preference"], {}, "two or more rewards of one class, got one"), ([], {}, "got none"),
    (["preference", "farm"], {}, "got Farm, Preference"), (["farm", "farm"], {"k": -1.0}, "k: expected 0 or more")])
def test_what_is_no_ensemble_is_refused(names, options, message):
    with pytest.raises(ValueError, match=message):
        Ensemble([load_reward(name) for name in names], **options)
