"""farm with a learned aesthetic: LAION's real head on a small CLIP of the real class, and the embedded network."""
import os

import pytest
import torch
import torch.nn.functional as F

from evalkit.data.corruptions import corrupt
from evalkit.data.synthetic import render_clip
from evalkit.features.aesthetic import load_head
from evalkit.features.base import make_extractor
from evalkit.features.weights import load_state
from rewards import load_reward
from rewards.preference import Preference

SMALL = {"embed_dim": 768,
         "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
         "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}


@pytest.fixture
def laion(assets, tmp_path, monkeypatch):
    """farm with the head's own file; the CLIP has the class and width of ViT-L/14, fewer layers and random weights."""
    import open_clip
    from open_clip import factory
    from safetensors.torch import save_file

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-L-14", SMALL)
    folder = tmp_path / "vit_large_patch14_clip_224.openai"
    folder.mkdir()
    torch.manual_seed(0)
    network = open_clip.create_model("ViT-L-14", pretrained=None, force_quick_gelu=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()},
              folder / "open_clip_model.safetensors")
    monkeypatch.setenv("EVALKIT_WEIGHTS", os.pathsep.join([str(tmp_path), str(assets / "weights/aesthetic")]))
    make_extractor.cache_clear()
    yield load_reward("farm", aesthetic="laion", weight=0.0, kappa=0.0)
    make_extractor.cache_clear()


def clips(batch=2, frames=8, size=(40, 48)):
    return torch.rand(batch, frames, 3, *size, generator=torch.Generator().manual_seed(0))


def test_laion_is_the_real_heads_mean_score_of_unit_embeddings(laion, assets):
    state = load_state(assets / "weights/aesthetic/sac+logos+ava1-l14-linearMSE.pth")
    frames = clips()
    with torch.no_grad():
        x = F.normalize(laion.extractors["aesthetic/l14_mlp"].clip(frames.flatten(0, 1)), dim=1)
        for layer in ("0", "2", "4", "6", "7"):
            x = x @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
        torch.testing.assert_close(laion(frames, fps=8.0), x.reshape(2, 8).mean(1) / 10, atol=1e-5, rtol=1e-4)
        assert torch.equal(laion(frames, fps=8.0)[:1], laion(frames[:1], fps=8.0))


def test_the_real_head_rises_with_peoples_ratings_and_has_its_published_scale(assets, monkeypatch):
    import numpy as np

    monkeypatch.setenv("EVALKIT_WEIGHTS", str(assets / "weights/aesthetic"))
    head, _ = load_head("l14_mlp")
    means = [np.load(assets / f"weights/aesthetic/vit_l_14_embeddings/rating{k}.npy") for k in range(10)]
    with torch.no_grad():
        scores = head(F.normalize(torch.from_numpy(np.stack(means)).float().reshape(10, -1), dim=1))[:, 0]
    assert (scores.diff() > 0).all()
    assert scores[0].item() == pytest.approx(1.66, abs=0.01) and scores[9].item() == pytest.approx(5.75, abs=0.01)


def test_laion_has_a_finite_gradient_at_every_frame_that_is_judged(laion):
    frames = clips().requires_grad_()
    laion(frames, fps=8.0).sum().backward()
    assert frames.grad.isfinite().all() and (frames.grad.abs().amax((2, 3, 4)) > 0).all()
    assert laion.parameters_of_protocol()["aesthetic"] == "aesthetic/l14_mlp"


@pytest.fixture(scope="module")
def embedded():
    return load_reward("farm", aesthetic="embedded", weight=0.0, kappa=0.0)


def test_embedded_is_the_preferences_visual_score_of_each_frame_held_still(embedded):
    frames, preference = clips(1, 3, (64, 64)), Preference()
    prompt = ["a red circle moves left over a blue background"]
    with torch.no_grad():
        each = [preference.components(frames[:, k:k + 1].expand(-1, 16, -1, -1, -1), prompt)["visual"]
                for k in range(3)]
        torch.testing.assert_close(embedded(frames, fps=8.0), torch.stack(each).mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("defect", ["blur", "noise", "grid", "border", "caption_overlay", "over_sharpen"])
def test_embedded_scores_spoilt_frames_of_unseen_worlds_lower(embedded, defect):
    with torch.no_grad():
        for seed in range(2_000_000, 2_000_004):
            clip = render_clip(seed, size=64).frames
            spoilt = corrupt(clip, defect, 4, seed=seed, fps=8.0)
            clean, bad = (embedded(each[None, ::4].float() / 255, fps=8.0).item() for each in (clip, spoilt))
            assert bad < clean, seed


@pytest.mark.parametrize("level", [0.0, 0.5, None])
def test_embedded_has_a_finite_gradient_at_every_frame_also_of_blank_clips(embedded, level):
    frames = clips() if level is None else torch.full((1, 4, 3, 40, 48), level)
    frames.requires_grad_()
    embedded(frames, fps=8.0).sum().backward()
    assert frames.grad.isfinite().all()
    if level is None:
        assert (frames.grad.abs().amax((2, 3, 4)) > 0).all()


def test_embedded_is_the_same_alone_and_in_a_batch(embedded):
    frames = clips(3)
    alone = torch.cat([embedded(clip[None], fps=8.0) for clip in frames])
    torch.testing.assert_close(embedded(frames, fps=8.0), alone, atol=1e-6, rtol=0)
