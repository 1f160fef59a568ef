import numpy as np
import pytest
import torch

from evalkit.data.captions import caption
from evalkit.data.corruptions import corrupt
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.features.base import extract, make_extractor
from evalkit.features.mini_clip import END, START, MiniClip, build_clip, sixteen_frames, tokenize
from evalkit.features.weights import MissingWeights
from evalkit.metrics.base import make_metric
from evalkit.metrics.frechet import frechet_distance_from_features
from evalkit.mini import weights

CLIPS = render_scenes([make_scene(SPLITS["test"] + k) for k in range(240)])


def features(clips):
    with torch.no_grad():
        return extract(make_extractor("mini_video"), clips.float() / 255).double()


@pytest.fixture(scope="module")
def halves():
    return features(CLIPS[:120]), features(CLIPS[120:])


@pytest.mark.parametrize(("defect", "floors"), [("blur", 3), ("noise", 1.2), ("luma_flicker", 3), ("freeze", 3),
                                                ("shuffle", 3), ("reverse", 3)])  # noise shows least in the world
def test_fvd_mini_sees_it(halves, defect, floors):
    reference, clean = halves
    floor = frechet_distance_from_features(reference, clean)
    damaged = torch.stack([corrupt(clip, defect, 5, seed=k, fps=8) for k, clip in enumerate(CLIPS[120:])])
    assert frechet_distance_from_features(reference, features(damaged)) > floors * floor


def test_features_do_not_depend_on_the_batch(halves):
    assert torch.equal(features(CLIPS[3:4])[0], halves[0][3])


def test_frame_consistency_mini_falls_where_the_picture_changes():
    metric = make_metric("frame_consistency_mini")
    extractor = make_extractor("mini_frame")

    def score(clip):
        with torch.no_grad():
            cosines = torch.nn.functional.cosine_similarity(*(lambda f: (f[1:], f[:-1]))(extractor(clip.float() / 255)))
        return float(cosines.mean())

    assert metric.higher_is_better
    lower = [score(corrupt(clip, "colour_flicker", 4)) < score(clip) for clip in CLIPS[:20]]
    assert sum(lower) >= 18
    assert score(CLIPS[0][:1].expand(16, -1, -1, -1)) == pytest.approx(1)


@pytest.mark.parametrize("size", [(48, 48), (90, 120)])
def test_other_sizes_are_brought_to_the_network(size):
    clip = torch.rand(1, 16, 3, *size)
    assert extract(make_extractor("mini_video"), clip).shape == (1, 24)
    assert extract(make_extractor("mini_frame"), clip).shape == (1, 16, 64)


def test_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="expected 16 frames, got 9"):
        make_extractor("mini_video")(torch.rand(1, 9, 3, 64, 64))


def test_clips_of_any_length_are_read_from_their_first_frame_to_their_last():
    assert sixteen_frames(torch.arange(31)[None])[0].tolist() == list(range(0, 31, 2))
    assert sixteen_frames(torch.arange(4)[None])[0].tolist() == [0] * 3 + [1] * 5 + [2] * 5 + [3] * 3


def test_texts_become_tokens_that_end_with_the_highest():
    ids = tokenize([caption(make_scene(1)), caption(make_scene(2), "dense")])
    assert ids.shape == (2, 96) and bool((ids[:, 0] == START).all()) and bool((ids.amax(1) == END).all())


def test_a_word_that_the_world_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"'astronaut'.*clip_alignment"):
        tokenize(["a red astronaut moves left over a blue background"])


def test_token_states_serve_as_conditioning_and_texts_do_not_depend_on_their_batch():
    torch.manual_seed(0)
    clip = MiniClip(build_clip().eval())
    texts = [caption(make_scene(k)) for k in range(3)]
    states, mask = clip.encode_tokens(texts)
    assert states.shape == (3, 96, 128) and mask.sum(1).tolist() == (tokenize(texts) != 0).sum(1).tolist()
    assert torch.equal(clip.encode_text(texts)[1], clip.encode_text(texts[1:2])[0])


def test_weights_that_do_not_ship_name_the_command_that_makes_them(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "nothing")
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path / "also nothing"))
    with pytest.raises(MissingWeights, match="evalkit world train clip"):
        weights.load_shipped(build_clip(), "clip")


def test_weights_trained_by_the_user_are_found(monkeypatch, tmp_path):
    torch.manual_seed(0)
    trained, loaded = build_clip(), build_clip()
    weights.save_weights(trained, tmp_path / "clip.safetensors")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "nothing")
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    assert len(weights.load_shipped(loaded, "clip")) == 64
    assert np.allclose(trained.text_projection.detach(), loaded.text_projection.detach(), atol=1e-3)


def test_shipped_weights_fit_the_budget_and_carry_their_card():
    files = list(weights.FOLDER.glob("*.safetensors"))
    assert {path.stem for path in files} == set(weights.shipped())
    assert sum(path.stat().st_size for path in files) < weights.BUDGET_MIB * 2**20
    for name, entry in weights.shipped().items():
        assert entry["command"].startswith("evalkit world train") and (weights.FOLDER / f"{name}.md").is_file()


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    from evalkit.features.mini_video import MiniVideoNetwork

    data = bytearray((weights.FOLDER / "video.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "video.safetensors").write_bytes(data)
    weights.shipped()
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="expected sha256"):
        weights.load_shipped(MiniVideoNetwork(), "video")


def test_weights_of_another_network_are_refused(tmp_path):
    from evalkit.features.mini_video import MiniVideoNetwork

    weights.save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not the weights of MiniVideoNetwork"):
        weights.load_weights(MiniVideoNetwork(), tmp_path / "other.safetensors")
