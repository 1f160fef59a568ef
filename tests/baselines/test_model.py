"""The model object: sampling, shapes, adapters and their reference, checkpoints."""
import json
from dataclasses import replace

import pytest
import torch

from baselines import presets
from baselines.adapters import Lora, adapter_parameters, add_adapter, is_adapted, merge_adapter, reference
from baselines.checkpoints import load_model, read_card, save_model, trainable_weights
from baselines.model import VideoDiffusion
from baselines.text import CutPrompts, HashedWords
from evalkit.errors import UsageError

PROMPTS = ["a red star moves left over a blue background", "a green ring moves up over a white background"]
SMALL_VAE = {"base_dim": 4, "z_dim": 2, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [True, True],
             "scale_factor_temporal": 4, "scale_factor_spatial": 4, "latents_mean": [0.0, 0.1],
             "latents_std": [1.0, 2.0]}
LATENT = presets.Preset(5, 8.0, 16, 16, presets._transformer((1, 2, 2), 1, 32, 1, 32, 2, 16) | {"freq_dim": 16},
                        "words", 6, SMALL_VAE)


@pytest.fixture(scope="module")
def model(build_smoke):
    return build_smoke()


@pytest.fixture
def point(model):
    """x_t, t and text of two prompts."""
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(2, *model.latent_shape, generator=generator)
    return x_t, torch.tensor([0.3, 0.8]), model.encode_prompts(PROMPTS)


def test_a_sample_depends_on_its_seed_and_prompt_alone(model):
    together = model.sample(PROMPTS, [5, 6], steps=2)
    alone = model.sample(PROMPTS[1:], [6], steps=2)
    assert together.shape == (2, 16, 3, 64, 64) and 0 <= float(together.min()) <= float(together.max()) <= 1
    assert (together[1] - alone[0]).abs().max() < 1e-4
    assert torch.equal(together, model.sample(PROMPTS, [5, 6], steps=2))
    assert not torch.allclose(alone, model.sample(PROMPTS[1:], [7], steps=2), atol=1e-2)
    assert not torch.allclose(alone, model.sample(PROMPTS[:1], [6], steps=2), atol=1e-4)


def test_guidance_of_one_is_no_guidance_and_more_of_it_goes_further(model, point):
    x_t, t, text = point
    nothing = model.encode_prompts([""]).expand_as(text)
    with torch.no_grad():
        plain, without = model.velocity(x_t, t, text), model.velocity(x_t, t, nothing)
        assert torch.allclose(model._guided(x_t, t, text, nothing, 1.0), plain, atol=1e-4)
        assert torch.allclose(model._guided(x_t, t, text, nothing, 3.0), without + 3 * (plain - without), atol=1e-4)


def test_guidance_leads_away_from_a_weaker_model_of_the_same_latents_alone(build_smoke, point):
    model, weaker, (x_t, t, text) = build_smoke(), build_smoke(seed=1), point
    plain = model.sample(PROMPTS, [5, 6], steps=2, guidance=1.0)
    model.guide_away_from(weaker)
    with torch.no_grad():
        better, worse = model.velocity(x_t, t, text), weaker.velocity(x_t, t, text)
        assert not torch.allclose(better, worse, atol=1e-2)
        assert torch.allclose(model._guided(x_t, t, text, None, 1.5), worse + 1.5 * (better - worse), atol=1e-5)
    assert torch.equal(model.sample(PROMPTS, [5, 6], steps=2, guidance=1.0), plain)
    with pytest.raises(ValueError, match="same latents"):
        model.guide_away_from(VideoDiffusion.build(LATENT))
    other = VideoDiffusion.build(LATENT, seed=1)
    other.guide_away_from(VideoDiffusion.build(LATENT, seed=1))
    with pytest.raises(ValueError, match="same latents"):
        other.guide_away_from(VideoDiffusion.build(LATENT, seed=2))


def test_guidance_acts_above_a_time_alone(model):
    noise, text = model.noise([5, 6]), model.encode_prompts(PROMPTS)
    nothing = model.encode_prompts([""]).expand_as(text)
    with torch.no_grad():
        found = {above: model.sample_latents(text, noise, 2, 3.0, guided_above=above) for above in (0.0, 0.8)}
        late = float(model.scheduler.sigmas[1])  # the first step leads from time 1 to here, and is guided in both
        plain, without = (model.velocity(noise, torch.ones(2), one) for one in (text, nothing))
        x = noise + (late - 1) * (without + 3 * (plain - without))
        clean = x - late * model.velocity(x, torch.full((2,), late), text)
    assert late < 0.8 and torch.allclose(found[0.8], clean, atol=1e-4)
    assert not torch.allclose(found[0.8], found[0.0], atol=1e-3)


@pytest.mark.parametrize("guidance", [3.0, torch.tensor([1.5, 4.0]).reshape(2, 1, 1, 1, 1)])
def test_guidance_of_motion_acts_on_what_changes_over_time_and_leaves_the_means_over_frames(model, guidance):
    noise, text = model.noise([5, 6]), model.encode_prompts(PROMPTS)

    def moved(guidance, motion):  # by one step
        return model.sample_latents(text, noise, 1, guidance, motion=motion) - noise

    with torch.no_grad():
        without, plain, twice, none = (moved(*one) for one in ((1.0, 1.0), (guidance, 1.0), (guidance, 2.0),
                                                               (guidance, 0.0)))
    assert torch.allclose(twice.mean(2), plain.mean(2), atol=1e-4)
    apart = [one - without - (one - without).mean(2, keepdim=True) for one in (plain, twice, none)]
    assert torch.allclose(apart[1], 2 * apart[0], atol=1e-3) and apart[0].abs().max() > 0.01
    assert apart[2].abs().max() < 1e-4


def test_guidance_drawn_by_seed_is_within_its_range_and_that_of_a_clip_sampled_alone(model):
    seeds = list(range(-1, 199))
    drawn = model._guidances(seeds, 1.0, 2.5).flatten()
    assert 1 <= drawn.min() < 1.1 and 2.4 < drawn.max() <= 2.5 and abs(float(drawn.mean()) - 1.75) < 0.1
    both = model.sample(PROMPTS, [5, 6], steps=2, guidance=1.0, guidance_to=4.0)
    alone = [model.sample(PROMPTS[k:k + 1], [5 + k], steps=2, guidance=float(model._guidances([5 + k], 1.0, 4.0)))
             for k in (0, 1)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(both, model.sample(PROMPTS, [5, 6], steps=2, guidance=1.0), atol=1e-4)


def test_temperature_scales_the_noise_that_sampling_starts_at(model, monkeypatch):
    warm = model.sample(PROMPTS, [5, 6], steps=2, temperature=1.5)
    noise = 1.5 * model.noise([5, 6])
    monkeypatch.setattr(model, "noise", lambda seeds: noise)
    assert torch.equal(warm, model.sample(PROMPTS, [5, 6], steps=2))


def test_a_clean_prediction_is_where_the_velocity_leads(model, point):
    """x_t - t * velocity is what the transformer says."""
    x_t, t, text = point
    with torch.no_grad():
        said = model.transformer(x_t, t * 1000, text, return_dict=False)[0]
        led = x_t - t.reshape(-1, 1, 1, 1, 1) * model.velocity(x_t, t, text)
    assert torch.allclose(said, led, atol=1e-5)


def test_a_v_prediction_that_says_nothing_leaves_less_noise_than_it_was_given(build_smoke, point):
    """Its last layer starts at 0; a clean prediction throws away all that x_t shows."""
    model, (x_t, t, text) = build_smoke(), point
    model.preset = replace(model.preset, prediction="v")
    torch.nn.init.zeros_(model.transformer.proj_out.weight)
    torch.nn.init.zeros_(model.transformer.proj_out.bias)
    x = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(4))
    late = torch.full_like(t, 0.1)
    noised = 0.9 * x + 0.1 * x_t
    with torch.no_grad():
        clean = noised - 0.1 * model.velocity(noised, late, text)
    assert (clean - x).std() < (noised - x).std()


def test_gradient_reaches_the_weights_through_the_last_steps_alone(model):
    weight, found = model.transformer.proj_out.weight, {}
    for steps in (1, 2):
        weight.grad = None
        model.sample(PROMPTS[:1], [1], steps=2, gradient_steps=steps).mean().backward()
        found[steps] = weight.grad.clone()
    weight.grad = None
    assert found[1].abs().sum() > 0 and not torch.allclose(found[1], found[2], rtol=1e-3)
    assert not model.sample(PROMPTS[:1], [1], steps=2).requires_grad
    with pytest.raises(ValueError, match="gradient"):
        model.sample(PROMPTS[:1], [1], steps=2, gradient_steps=3)


def test_frame_counts_that_come_back_as_others_are_refused():
    with pytest.raises(ValueError, match=r"4k \+ 1.*take 13 or 17"):
        VideoDiffusion.build(replace(LATENT, num_frames=16))
    with pytest.raises(ValueError, match="multiple of 4"):
        VideoDiffusion.build(replace(presets.PRESETS["smoke"], num_frames=15))
    model = VideoDiffusion.build(LATENT)
    with pytest.raises(ValueError, match="take 1 or 5"):
        model.encode(torch.zeros(1, 4, 3, 16, 16))


def test_a_latent_model_brings_back_as_many_frames_as_it_was_given():
    model = VideoDiffusion.build(LATENT)
    frames = torch.rand(2, 5, 3, 16, 16)
    latents = model.encode(frames)
    assert latents.shape[1:] == model.latent_shape == (2, 2, 4, 4)
    assert model.decode(latents).shape == frames.shape
    raw = model.vae.encode((2 * frames - 1).transpose(1, 2)).latent_dist.mode()
    assert torch.allclose(latents[:, 1], (raw[:, 1] - 0.1) / 2, atol=1e-6)
    assert model.sample(["anything at all"], [0], steps=1).shape == (1, 5, 3, 16, 16)


def test_pixels_pass_through_a_model_without_a_vae(model):
    frames = torch.randint(0, 256, (1, 16, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal((model.decode(model.encode(frames)) * 255).round().to(torch.uint8), frames)


def test_the_shape_of_wan_is_the_published_one():
    with torch.device("meta"):
        from baselines.model import build_transformer

        transformer = build_transformer(presets.PRESETS["wan2.1-1.3b"])
    assert sum(p.numel() for p in transformer.parameters()) == 1_418_996_800


def test_the_tiny_model_ships_in_nine_and_a_half_mebibytes():
    with torch.device("meta"):
        from baselines.model import build_transformer

        transformer = build_transformer(presets.PRESETS["tiny"])
    assert 2 * sum(p.numel() for p in transformer.parameters()) < 9.5 * 2**20


def test_with_the_adapter_off_a_policy_is_its_reference_before_and_after_training(build_smoke, point):
    model = build_smoke()
    x_t, t, text = point
    with torch.no_grad():
        before = model.velocity(x_t, t, text)
        add_adapter(model.transformer, Lora(4, 4.0))
        assert torch.equal(model.velocity(x_t, t, text), before)
    learns = [p for p in model.transformer.parameters() if p.requires_grad]
    assert {id(p) for p in learns} == {id(p) for p in adapter_parameters(model.transformer).values()}
    optimizer = torch.optim.AdamW(learns, lr=0.05)
    for _ in range(3):
        with torch.no_grad(), reference(model.transformer):
            assert torch.equal(model.velocity(x_t, t, text), before)
        model.velocity(x_t, t, text).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = model.velocity(x_t, t, text)
        assert not torch.allclose(after, before, atol=1e-2)
        merge_adapter(model.transformer)
        assert not is_adapted(model.transformer)
        assert torch.allclose(model.velocity(x_t, t, text), after, atol=1e-3)


def test_an_adapter_cannot_be_put_on_an_adapter_or_a_reference_be_had_without_one(build_smoke):
    model = build_smoke()
    with pytest.raises(ValueError, match="without one there is no ref_model"), reference(model.transformer):
        pass
    add_adapter(model.transformer, Lora(2))
    with pytest.raises(ValueError, match="merge"):
        add_adapter(model.transformer, Lora(2))


def saved(folder, model):
    save_model(model, folder, "pretrain", 1, weights=trainable_weights(model))
    return load_model(folder)


def test_a_chain_of_adapters_comes_back_from_disk(build_smoke, tmp_path, point):
    x_t, t, text = point
    model = saved(tmp_path / "base", build_smoke())
    lora = Lora(4, 4.0)
    add_adapter(model.transformer, lora)
    with torch.no_grad():
        base = model.velocity(x_t, t, text)
        for parameter in adapter_parameters(model.transformer).values():
            parameter.add_(0.05)
    save_model(model, tmp_path / "dpo", "dpo", 3, weights=trainable_weights(model), lora=lora, base=tmp_path / "base")
    with torch.no_grad():
        trained = model.velocity(x_t, t, text)
        found = load_model(tmp_path / "dpo").velocity(x_t, t, text)
        assert torch.allclose(found, trained, atol=0.02 * float(trained.std()))
        assert not torch.allclose(found, base, atol=0.1)
        assert torch.allclose(load_model(tmp_path / "dpo", lora_scale=0).velocity(x_t, t, text), base, atol=1e-5)
    saved(tmp_path / "base", build_smoke(1))
    with pytest.raises(UsageError, match="trained again"):
        load_model(tmp_path / "dpo")
    with pytest.raises(UsageError, match="no LoRA scale"):
        load_model(tmp_path / "base", lora_scale=0.5)


def test_missing_damaged_and_foreign_checkpoints_say_what_is_wrong(model, tmp_path):
    with pytest.raises(UsageError, match="baseline pretrain"):
        load_model(tmp_path)
    saved(tmp_path, model)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="damaged or replaced"):
        load_model(tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    for preset, why in (({"num_frames": 3}, "not the card"),
                        (card["preset"] | {"prediction": "score"}, "expected a prediction of velocity, clean, v, got")):
        (tmp_path / "model.json").write_text(json.dumps(card | {"preset": preset}))
        with pytest.raises(UsageError, match=why):
            read_card(tmp_path)


def test_prompts_outside_the_language_or_too_long_are_told(model):
    with pytest.raises(ValueError, match="'zebra'"):
        model.encode_prompts(["a red zebra"])
    with pytest.warns(CutPrompts, match="1 of 2 prompts"):
        states = model.encode_prompts([PROMPTS[0], "a red star " * 60])
    assert states.shape == (2, 96, 128)
    words = HashedWords(3, 8)
    with pytest.warns(CutPrompts, match="3 tokens"):
        assert words(["one two three four"]).shape == (1, 3, 8)
    assert words([""]).abs().sum() == 0
    assert not torch.allclose(words(["surfing"]), words(["archery"]))


@pytest.mark.parametrize(("share", "expected"), [(0.5, [1, 3]), (1.0, [0, 1, 2, 3]), (0.25, [3])])
def test_the_asked_share_of_blocks_computes_activations_twice_and_gradients_stay_equal(share, expected, monkeypatch):
    import baselines.train as loop

    block = presets.PRESETS["smoke"].transformer | {"num_layers": 4}
    preset = replace(presets.PRESETS["smoke"], transformer=block)
    model, seen, gradients = VideoDiffusion.build(preset), [], []
    model.transformer.train()
    torch.nn.init.normal_(model.transformer.proj_out.weight)
    kept = loop.checkpoint
    monkeypatch.setattr(loop, "checkpoint", lambda part, *inputs, **settings: (
        seen.append(list(model.transformer.blocks).index(part)), kept(part, *inputs, **settings))[1])
    for asked in (0.0, share):
        if asked:
            loop.checkpoint_blocks(model.transformer, asked)
        model.transformer.zero_grad()
        model.velocity(model.noise([0]), torch.tensor([0.5]), model.encode_prompts([""])).sum().backward()
        gradients.append([p.grad.clone() for p in model.transformer.parameters() if p.grad is not None])
    assert seen == expected
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
