"""clip_alignment: the cosine, its gradient, its prompts, and its metric."""
import copy

import pytest
import torch
import torch.nn.functional as F

from evalkit.features import openclip
from evalkit.features.base import MissingWeights, make_extractor, register_extractor
from evalkit.metrics.base import available_metrics, make_metric
from rewards.text_alignment import ClipAlignment

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROMPTS = ["a red ball", "a dog runs", "the sea", "snow falls", "a red ball"]


@register_extractor("tiny_clip_for_rewards")
def load_tiny_clip():
    import open_clip

    torch.manual_seed(0)
    model = open_clip.model.CLIP(**copy.deepcopy(CONFIG))
    return openclip.OpenClip(model, open_clip.SimpleTokenizer(context_length=16), openclip.ImageInput(size=32))


class TinyAlignment(ClipAlignment):
    extractor_keys = ("tiny_clip_for_rewards",)


@pytest.fixture(scope="module")
def reward():
    return TinyAlignment()


def clips(batch=5, frames=3):
    return torch.rand(batch, frames, 3, 40, 36, generator=torch.Generator().manual_seed(0))


def test_the_reward_is_the_mean_cosine_of_frames_and_prompt(reward):
    network, frames = make_extractor("tiny_clip_for_rewards"), clips()
    texts = network.encode_text(PROMPTS)
    expected = torch.stack([(F.normalize(network(clip), dim=-1) @ text).mean()
                            for clip, text in zip(frames, texts, strict=True)])
    torch.testing.assert_close(reward(frames, PROMPTS), expected, atol=1e-6, rtol=1e-4)
    parts = reward.components(frames, PROMPTS)
    assert bool((parts["worst_frame"] <= expected + 1e-6).all())


def test_every_frame_has_a_finite_gradient_also_in_a_black_clip(reward):
    for frames in (clips(), torch.zeros(2, 3, 3, 40, 36)):
        frames.requires_grad_(True)
        reward(frames, PROMPTS[: len(frames)]).sum().backward()
        per_frame = frames.grad.flatten(2).abs().sum(-1)
        assert torch.isfinite(frames.grad).all() and bool((per_frame > 0).all())


def test_ascent_on_the_frames_raises_the_reward(reward):
    frames = clips(1).requires_grad_(True)
    before = reward(frames, PROMPTS[:1])
    before.sum().backward()
    after = reward((frames + 0.02 * frames.grad.sign()).clamp(0, 1), PROMPTS[:1])
    assert after.item() > before.item()


def test_a_clip_s_reward_does_not_depend_on_its_batch_and_half_precision_is_accepted(reward):
    frames = clips()
    together = reward(frames, PROMPTS)
    alone = torch.cat([reward(frames[i: i + 1], PROMPTS[i: i + 1]) for i in range(5)])
    assert torch.equal(together, alone)
    torch.testing.assert_close(reward(frames.bfloat16(), PROMPTS), together, atol=0.02, rtol=0)


def test_the_prompt_decides_and_must_be_given(reward):
    frames = clips(1).expand(3, -1, -1, -1, -1)
    values = reward(frames, PROMPTS[:3])
    assert len(set(values.tolist())) == 3
    for wrong in (None, "a red ball", PROMPTS[:2]):
        with pytest.raises(ValueError, match="clip_alignment: expected 3 prompts"):
            reward(frames, wrong)


def test_one_frame_is_enough(reward):
    assert torch.isfinite(reward(clips(2, 1), PROMPTS[:2])).all()


def test_the_metric_has_the_reward_s_declarations_and_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    metric = available_metrics()["clip_alignment"]
    assert metric.higher_is_better and metric.needs_prompts and metric.spec.num_frames == 16
    with pytest.raises(MissingWeights, match=r"evalkit weights fetch open_clip/ViT-B-32/openai$"):
        make_metric("clip_alignment").extractors()
