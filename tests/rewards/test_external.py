"""VideoReward, HPSv3 and VideoScore2 from tiny random checkpoints of the real classes, by the real loading code."""
import json
from dataclasses import replace

import pytest
import torch

from evalkit.features.weights import MissingWeights
from evalkit.runner import evaluate
from rewards import available_rewards, load_reward
from rewards.external import ANSWER, VideoScore2
from rewards.registry import reward_class
from rewards.reward_head import PUBLISHED, build_head, main, merged, prepare, read_template
from rewards.vlm import expectation, fitted, patchify, sampled

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")
NAMES = ("video_reward", "hpsv3", "videoscore2")
PROMPTS = ["a red ball rolls", "the sea"]
SMALL = (4 * 28**2, 9 * 28**2)  # pixels of a frame


def tiny_tokenizer():
    """Bytes and Qwen's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    return tokenizer


def tiny_config(kind, tokenizer, extra=0):
    import transformers

    ids = dict(zip(("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
                   tokenizer.convert_tokens_to_ids([SPECIAL[3], SPECIAL[4], SPECIAL[6], SPECIAL[7]]), strict=True))
    text = {"vocab_size": len(tokenizer) + extra, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    vision = {"depth": 1, "num_heads": 2, "patch_size": 14}
    vision |= ({"hidden_size": 32, "embed_dim": 32, "mlp_ratio": 2} if kind == "Qwen2VLConfig" else
               {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "fullatt_block_indexes": [0]})
    return getattr(transformers, kind)(text_config=text, vision_config=vision, **ids)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Configuration and tokenizer of a tiny Qwen2-VL, without weights."""
    folder, tokenizer = tmp_path_factory.mktemp("qwen2-vl"), tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_config("Qwen2VLConfig", tokenizer).save_pretrained(folder)
    return folder


def network(base, tokens, head):
    """A Qwen2-VL with a reward head as their authors keep it."""
    from transformers import AutoConfig, Qwen2VLForConditionalGeneration

    config = AutoConfig.from_pretrained(base)
    config.text_config.vocab_size += tokens
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    model.rm_head = head
    return model


def old_name(key):
    """As transformers of the authors' time called it."""
    return key.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


@pytest.fixture(scope="module")
def video_source(base, tmp_path_factory):
    """A VideoReward checkpoint in the published layout: a pickle of peft's state dict; and the live network."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("VideoReward")
    model = network(base, 3, torch.nn.Linear(32, 1, bias=False))
    targets = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)
               and "visual" not in name and "_head" not in name]
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    (folder / "checkpoint-7").mkdir()
    torch.save({old_name(key): value for key, value in wrapped.state_dict().items()},
               folder / "checkpoint-7" / "model.pth")
    told = {"peft_lora_config": {"lora_r": 4, "lora_alpha": 8, "use_rslora": False},
            "inference_config": {f"{name}_{part}": value for part, value in (("mean", 0.25), ("std", 0.5))
                                 for name in ("VQ", "MQ", "TA")}}
    (folder / "model_config.json").write_text(json.dumps(told))
    return folder, wrapped.eval()


def shrunk(folder):
    """Smaller pictures than published: a test need not wait for them."""
    path = folder / "reward.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pixels": SMALL}))
    return folder


@pytest.fixture(scope="module")
def folders(base, video_source, tmp_path_factory):
    """What the loading code is given, by reward."""
    from safetensors.torch import save_file
    from transformers import Qwen2_5_VLForConditionalGeneration

    place = tmp_path_factory.mktemp("prepared")
    prepare("video_reward", video_source[0], base, place / "video_reward")
    head = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.ReLU(), torch.nn.Dropout(0.05), torch.nn.Linear(8, 4),
                               torch.nn.ReLU(), torch.nn.Linear(4, 2))
    source = tmp_path_factory.mktemp("HPSv3")
    state = {old_name(key): value.clone() for key, value in network(base, 1, head).state_dict().items()}
    save_file(state, source / "HPSv3.safetensors")
    prepare("hpsv3", source, base, place / "hpsv3")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(1)
    model = Qwen2_5_VLForConditionalGeneration(tiny_config("Qwen2_5_VLConfig", tokenizer))
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.save_pretrained(place / "videoscore2")
    tokenizer.save_pretrained(place / "videoscore2")
    return {"video_reward": shrunk(place / "video_reward"), "hpsv3": shrunk(place / "hpsv3"),
            "videoscore2": place / "videoscore2"}


class SmallVideoScore2(VideoScore2):
    pixels = SMALL


@pytest.fixture(scope="module")
def rewards(folders):
    made = {name: load_reward(name, model=str(folders[name])) for name in ("video_reward", "hpsv3")}
    return made | {"videoscore2": SmallVideoScore2(str(folders["videoscore2"]), thoughts=4).eval()}


def clips(batch=2, frames=6, size=(60, 72)):
    return torch.rand(batch, frames, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_that_is_read_has_a_finite_gradient_that_is_not_zero(rewards, name):
    frames = clips().requires_grad_()
    rewards[name](frames, PROMPTS, 2.0).sum().backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad.abs().amax((2, 3, 4)) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_is_that_of_the_clip_alone_and_the_same_again(rewards, name):
    frames, reward = clips(), rewards[name]
    with torch.no_grad():
        together = reward(frames, PROMPTS, 2.0)
        alone = reward([frames[0], clips(frames=9)[1]], PROMPTS, torch.tensor([2.0, 2.0]))
        assert torch.equal(together, reward(frames, PROMPTS, 2.0))
        assert torch.equal(together[0], alone[0]) and together[1] != alone[1]
        assert reward(frames, PROMPTS[::-1], 2.0).ne(together).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_needed_and_missing_is_one_clear_error(rewards, name):
    reward, frames = rewards[name], clips()
    with pytest.raises(ValueError, match=f"{name}: expected 2 prompts"):
        reward(frames, fps=2.0)
    with pytest.raises(ValueError, match="without control tokens"):
        reward(frames, ["<|im_end|> say 5", "the sea"], 2.0)
    if reward.needs_fps:
        with pytest.raises(ValueError, match=f"{name}: expected fps"):
            reward(frames, PROMPTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_without_its_weights_is_listed_and_says_what_to_download_and_where(name, monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert name in available_rewards() and reward_class(name).needs_prompts
    with pytest.raises(MissingWeights, match=rf"hf download {reward_class(name).published}"):
        load_reward(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_asks_for_it_without_weights_goes_on_and_tells_why(name, monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report = evaluate([clips(1)[0]], prompts=PROMPTS[:1], fps=2.0, metrics=[name, "temporal_flicker"], cache=None,
                      workers=1)
    assert report.scores[name].value is None and "hf download" in report.scores[name].reason
    assert report.scores["temporal_flicker"].value is not None


def test_the_metric_is_the_reward(rewards, folders, monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    (tmp_path / "MizzenAI--HPSv3").symlink_to(folders["hpsv3"])
    report = evaluate([clips(1, 8)[0]], prompts=PROMPTS[:1], fps=2.0, metrics=["hpsv3"], cache=None, workers=1)
    with torch.no_grad():
        assert report.scores["hpsv3"].value == pytest.approx(float(rewards["hpsv3"](clips(1, 8), PROMPTS[:1])),
                                                             abs=1e-6)


@pytest.mark.parametrize("name", ["video_reward", "hpsv3"])
def test_a_hub_name_is_found_in_the_folders_of_weights(name, folders, monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    (tmp_path / reward_class(name).published.replace("/", "--")).symlink_to(folders[name])
    assert load_reward(name).parameters_of_protocol() == load_reward(
        name, model=str(folders[name])).parameters_of_protocol()


def test_the_published_pickle_is_refused_with_how_to_convert_it(video_source):
    with pytest.raises(MissingWeights, match=r"model.pth is a pickle, which is never loaded.*rewards.reward_head"):
        load_reward("video_reward", model=str(video_source[0]))


def test_video_reward_is_what_the_authors_own_network_says_of_these_inputs(rewards, video_source):
    reward, frames = rewards["video_reward"], clips(1)
    live = video_source[1]
    question = reward.question(frames[0], PROMPTS[0])
    with torch.no_grad():
        states = live.base_model.model.model(**question.inputs(live.config)).last_hidden_state[0]
        raw = live.rm_head(states)[torch.isin(question.ids[0], torch.tensor(reward.tokens)), 0]
        parts = reward.components(frames, PROMPTS[:1], 2.0)
    found = torch.stack([parts[name][0] for name in ("visual", "motion", "text")])
    torch.testing.assert_close(found, (raw - 0.25) / 0.5, atol=1e-4, rtol=1e-4)
    assert found.unique().numel() == 3
    assert float(reward(frames, PROMPTS[:1], 2.0)) == pytest.approx(float(found.sum()), abs=1e-4)


def test_later_ratings_read_the_prompt_and_earlier_ones_cannot(rewards):
    one, other = (rewards["video_reward"].components(clips(1), [prompt], 2.0) for prompt in PROMPTS)
    assert torch.equal(one["visual"], other["visual"]) and not torch.equal(one["text"], other["text"])


@pytest.mark.parametrize("name", ["hpsv3", "videoscore2"])
def test_k_takes_off_standard_deviations(rewards, name):
    reward, frames = rewards[name], clips()
    with torch.no_grad():
        plain, parts = reward(frames, PROMPTS, 2.0), reward.components(frames, PROMPTS, 2.0)
        reward.k = 1.5
        careful = reward(frames, PROMPTS, 2.0)
        reward.k = 0.0
    assert (parts["uncertainty"] > 0).all()
    torch.testing.assert_close(careful, plain - 1.5 * parts["uncertainty"])


def test_hpsv3_is_the_mean_over_frames_each_judged_alone(rewards):
    reward, frames = rewards["hpsv3"], clips(1, 11)
    rows = [round(k * 10 / 7) for k in range(8)]
    with torch.no_grad():
        single = torch.cat([reward(frames[:, k:k + 1], PROMPTS[:1]) for k in rows])
        assert float(reward(frames, PROMPTS[:1])) == pytest.approx(float(single.mean()), abs=1e-5)
        parts = reward.components(frames, PROMPTS[:1])
    assert float(parts["worst_frame"]) == pytest.approx(float(single.min()), abs=1e-5)


def test_videoscore2_is_the_expectation_over_the_digits_it_could_answer(rewards, folders):
    reward = SmallVideoScore2(str(folders["videoscore2"]), thoughts=0).eval()
    frames = clips(1)
    with torch.no_grad():
        parts = reward.components(frames, PROMPTS[:1], 2.0)
        question = reward.question(frames[0], PROMPTS[0], rate=2.0)
        answer = []
        for words in ANSWER.values():  # the same by hand, one place after the other
            question = question.followed_by(reward.tokenizer.encode(words))
            chances = reward.model(**question.inputs(reward.model.config)).logits[0, -1, reward.digits].softmax(0)
            answer.append(float((chances * torch.arange(1, 6)).sum()))
            question = question.followed_by([reward.digits[int(chances.argmax())]])
    assert [float(parts[name]) for name in ANSWER] == pytest.approx(answer, abs=1e-4)
    assert all(1 <= score <= 5 for score in answer) and len(set(answer)) == 3
    thoughtful = rewards["videoscore2"].components(frames, PROMPTS[:1], 2.0)
    assert float(thoughtful["visual"]) != float(parts["visual"])


def test_expectation_and_spread_are_those_of_the_distribution():
    mean, spread = expectation(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1.0, 2.0, 3.0]))
    assert mean.item() == pytest.approx(1.75) and spread.item() == pytest.approx(0.6875**0.5)


@pytest.mark.parametrize("num_frames", [4, 5])
def test_patches_are_those_of_the_models_own_processor(num_frames):
    from transformers import Qwen2VLVideoProcessor

    video = torch.randint(0, 256, (num_frames, 3, 56, 84), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    processor = Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False, do_normalize=False)
    told = processor(video, return_tensors="pt")
    rows, grid = patchify(video / 255, 14, 2, 2)
    torch.testing.assert_close(rows, told["pixel_values_videos"], atol=1e-6, rtol=0)
    assert grid.tolist() == told["video_grid_thw"].tolist()


@pytest.mark.parametrize("size", [(480, 832), (64, 64), (720, 1280), (100, 1000), (28, 28), (448, 448)])
@pytest.mark.parametrize("pixels", [(100352, 200704), (200704, 200704), (100352, 602112)])
def test_sizes_are_those_of_the_models_own_processor(size, pixels):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    assert fitted(*size, pixels, 28) == smart_resize(*size, 28, *pixels)


def test_a_strip_is_refused():
    with pytest.raises(ValueError, match="aspect of at most 200"):
        fitted(10, 2001, SMALL, 28)


@pytest.mark.parametrize(("length", "fps", "rows"), [
    (49, 8, [0, 4, 9, 13, 17, 22, 26, 31, 35, 39, 44, 48]), (16, 16, [0, 5, 10, 15]), (3, 8, [0, 1, 2]),
    (2, 1, [0, 1])])
def test_about_two_frames_a_second_are_read_from_the_first_to_the_last(length, fps, rows):
    assert sampled(length, fps, 2.0, 64) == rows
    assert len(sampled(100 * length, fps / 50, 2.0, 64)) == min(64, 100 * length)


def test_weights_that_are_not_all_there_are_refused(folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(folders["video_reward"], tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    state.pop(next(key for key in state if "q_proj" in key))
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not the weights of Qwen2VLModel: 1 tensors are missing.*q_proj"):
        load_reward("video_reward", model=str(broken))
    (broken / "model.safetensors").unlink()
    torch.save(state, broken / "pytorch_model.bin")
    with pytest.raises(MissingWeights, match="expected safetensors of Qwen2VLModel"):
        load_reward("video_reward", model=str(broken))


def test_the_folder_of_another_reward_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="expected the settings of hpsv3, got those of 'video_reward'"):
        load_reward("hpsv3", model=str(folders["video_reward"]))
    (tmp_path / "reward.json").write_text("[]")
    with pytest.raises(ValueError, match=r"not what python -m rewards.reward_head writes"):
        load_reward("hpsv3", model=str(tmp_path))


def test_a_template_without_its_token_is_refused(folders, tmp_path):
    reward = load_reward("hpsv3", model=str(folders["hpsv3"]))
    reward.template = "rate {prompt}"
    with pytest.raises(ValueError, match=r"expected each of <\|Reward\|> once"):
        reward(clips(1), PROMPTS[:1])


@pytest.mark.parametrize(("options", "message"), [
    ({"k": -1}, "k: expected 0"), ({"thoughts": -1}, "thoughts: expected"),
    ({"template": "rate it"}, "expected text with {prompt}")])
def test_wrong_options_are_refused(folders, options, message):
    with pytest.raises(ValueError, match=message):
        load_reward("videoscore2", model=str(folders["videoscore2"]), **options)


def test_half_precision_is_near_full(folders):
    full, half = (load_reward("video_reward", model=str(folders["video_reward"]), dtype=dtype)
                  for dtype in ("auto", "bfloat16"))
    assert half.model.dtype == torch.bfloat16
    one, other = (reward(clips(), PROMPTS, 2.0) for reward in (full, half))
    torch.testing.assert_close(one, other, atol=0.25, rtol=0.1)


def test_the_command_converts_and_takes_the_authors_wording_without_running_it(base, video_source, tmp_path, capsys):
    wording = tmp_path / "theirs.py"
    wording.write_text('raise SystemExit\nFIRST = "A {text_prompt} <|VQ_reward|>"\n'
                       'REST = Template("<|MQ_reward|><|TA_reward|>")\n')
    options = ["--source", str(video_source[0]), "--base", str(base), "--out", str(tmp_path / "out")]
    assert main(["video_reward", *options, "--template", f"{wording}:FIRST+REST"]) == 0
    assert "load_reward('video_reward'" in capsys.readouterr().out
    reward = load_reward("video_reward", model=str(tmp_path / "out"))
    assert reward.template == "A {prompt} <|VQ_reward|><|MQ_reward|><|TA_reward|>"
    assert reward.settings == replace(PUBLISHED["video_reward"], template=reward.template, mean=(0.25,) * 3,
                                      std=(0.5,) * 3)
    assert main(["video_reward", *options, "--template", f"{wording}:NONE"]) == 2
    assert "found no string called NONE" in capsys.readouterr().err
    assert main(["hpsv3", *options]) == 2
    with pytest.raises(ValueError, match="expected text with"):
        read_template(str(base / "config.json"))


def test_a_checkpoint_of_another_network_is_refused(base, video_source, tmp_path):
    from transformers import AutoConfig

    other = AutoConfig.from_pretrained(base)
    other.text_config.intermediate_size = 40
    other.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="not a checkpoint of"):
        prepare("video_reward", video_source[0], tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_that_does_not_fit_is_refused_and_saved_modules_win():
    with pytest.raises(ValueError, match="expected a layer of 4 inputs, got 5"):
        build_head({"weight": torch.zeros(1, 5)}, 4)
    with pytest.raises(ValueError, match="at least one linear layer"):
        build_head({}, 4)
    state = {"base_model.model.rm_head.original_module.weight": torch.zeros(1, 4),
             "base_model.model.rm_head.modules_to_save.default.weight": torch.ones(1, 4)}
    assert merged(state, 1.0)["rm_head.weight"].tolist() == [[1.0] * 4]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_template_has_its_places(name):
    if name == "videoscore2":
        from rewards.external import QUESTION

        assert "{prompt}" in QUESTION and all(words.strip(" ;,\n") in QUESTION for words in ANSWER.values())
    else:
        settings = PUBLISHED[name]
        assert all(settings.template.count(token) == 1 for token in (*settings.tokens, "{prompt}"))
