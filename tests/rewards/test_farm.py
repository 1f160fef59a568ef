import pytest
import torch

from evalkit.clips import ClipBatch
from evalkit.data.corruptions import corrupt
from evalkit.features.base import Extractor, MissingWeights, extract, make_extractor, register_extractor
from evalkit.metrics.base import make_metric
from rewards.farm import FRAMES, Farm

FPS = 24.0


def scene(num_frames=20, size=72, seed=0):
    """(1, T, 3, H, W) in [0, 1]: a 1/f texture that glides, with a little noise of the camera."""
    generator = torch.Generator().manual_seed(seed)
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(2 * size)
    radius = torch.hypot(fy, fx)
    spectrum = torch.fft.rfft2(torch.randn(3, size, 2 * size, generator=generator))
    spectrum = spectrum / radius.clamp_min(1 / size) * torch.exp(-20 * radius**2)
    frames = torch.stack([torch.fft.irfft2(spectrum * torch.exp(-2j * torch.pi * fx * 0.8 * t), s=(size, 2 * size))
                          for t in range(num_frames)])[..., :size]
    noise = 0.004 * torch.randn(frames.shape, generator=generator)
    return (frames / frames.std() * 0.15 + 0.45 + noise).clamp(0, 1)[None]


def corrupted(frames, name, severity):
    return corrupt((frames[0] * 255).round().to(torch.uint8), name, severity)[None].float() / 255


def test_the_sum_grows_with_the_clip_and_the_mean_does_not():
    short, long = scene(20)[:, :10], scene(20)
    ratio = (Farm(pooling="sum", weight=0.0)(long, fps=FPS) / Farm(pooling="sum", weight=0.0)(short, fps=FPS)).item()
    assert ratio == pytest.approx(2, rel=0.05)
    assert Farm(weight=0.0)(long, fps=FPS).item() == pytest.approx(Farm(weight=0.0)(short, fps=FPS).item(), rel=0.05)


def test_reward_is_mean_minus_kappa_std_plus_lambda_coherence():
    frames, reward = scene(), Farm(weight=1.7, kappa=0.3)
    found = reward.measure(frames, {"motion": extract(make_extractor("motion"), frames)}, None, torch.tensor([FPS]))
    curve = found.curves["aesthetic"][0].double()
    wanted = curve.mean() - 0.3 * curve.std(correction=0) + 1.7 * found.components["coherence"][0]
    assert found.value.item() == pytest.approx(wanted.item(), abs=1e-4)
    assert len(curve) == FRAMES


def test_one_ugly_frame_costs_more_than_its_share():
    frames = scene(FRAMES)
    ugly = frames.clone()
    ugly[:, 7] = 1.0
    robust = Farm(weight=0.0, kappa=0.5)
    plain = Farm(weight=0.0, kappa=0.0)
    lost, share = (float(reward(frames, fps=FPS) - reward(ugly, fps=FPS)) for reward in (robust, plain))
    assert lost > 2 * share > 0


@pytest.mark.parametrize("hack", ["static", "repeat", "crossfade", "temporal_blur", "luma_flicker", "noise",
                                  "camera_jitter", "shuffle", "over_exposure"])
def test_farm_falls_under_every_hack(hack):
    frames = scene()
    assert Farm()(corrupted(frames, hack, 3), fps=FPS) < Farm()(frames, fps=FPS)


def test_metric_is_the_reward_itself_with_its_components():
    frames = scene()
    metric = make_metric("farm")
    features = {"motion": extract(make_extractor("motion"), frames)}
    measured = metric.measure(ClipBatch(frames, fps=torch.tensor([FPS]), features=features), None)
    assert torch.equal(measured.value, Farm()(frames, fps=FPS))
    assert {"aesthetic", "coherence", "dynamic_floor", "duplicates"} <= set(measured.components)
    assert metric.higher_is_better


def test_gradient_is_finite_and_reaches_every_frame():
    frames = scene(24).requires_grad_()
    Farm()(frames, fps=FPS).sum().backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("num_frames", [2, 3, 4, 7])
def test_a_black_clip_has_a_finite_score_and_gradient(num_frames):
    frames = torch.zeros(1, num_frames, 3, 32, 48, requires_grad=True)
    reward = Farm()(frames, fps=FPS)
    reward.sum().backward()
    assert -0.25 < reward.item() < 2
    assert frames.grad.isfinite().all()


def test_a_clip_scores_the_same_alone_and_in_a_batch():
    clips = torch.cat([scene(10, seed=k) for k in range(5)])
    reward = Farm()
    alone = [reward(clip[None], fps=FPS).item() for clip in clips]
    assert reward(clips, fps=FPS).tolist() == pytest.approx(alone, abs=1e-5)


def test_any_extractor_of_one_number_a_frame_can_be_the_aesthetic():
    @register_extractor("brightness_of_ten")
    class Brightness(Extractor):
        key = "brightness_of_ten"

        def forward(self, images):
            return 10 * images.mean((1, 2, 3), keepdim=True)[..., 0, 0]

    frames = scene(FRAMES)
    reward = Farm(aesthetic="brightness_of_ten", weight=0.0, kappa=0.0)
    assert reward(frames, fps=FPS).item() == pytest.approx(frames.mean().item(), abs=1e-5)
    assert reward.parameters_of_protocol()["aesthetic"] == "brightness_of_ten"


def test_laion_without_its_weights_says_how_to_fetch_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make_extractor.cache_clear()
    with pytest.raises(MissingWeights, match="evalkit weights fetch"):
        Farm(aesthetic="laion")


@pytest.mark.parametrize("arguments", [{"aesthetic": "no_such_scorer"}, {"pooling": "median"}])
def test_unknown_choices_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments.values()))):
        Farm(**arguments)


@pytest.mark.parametrize("defect", ["shuffle", "over_exposure"])
def test_real_clips_score_lower_step_by_step(assets, defect):
    from evalkit.clips import ClipSpec
    from evalkit.data.video import read_clips

    spec = ClipSpec(size=80, max_frames=24)
    paths = [assets / "data/ucf101/Surfing/v_Surfing_g02_c01.avi",
             assets / "data/ucf101/HorseRace/v_HorseRace_g01_c01.avi",
             assets / "data/webvid/1053841541.mp4"]
    clips = [read_clips(path, [spec])[spec][0].frames[None] / 255.0 for path in paths]
    reward = Farm().requires_grad_(False)
    with torch.no_grad():
        scores = torch.tensor([[reward(corrupted(clip, defect, severity), fps=FPS).item() for clip in clips]
                               for severity in (0, 2, 4)])
    assert (scores.mean(1).diff() < 0).all()
    assert (scores[2] < scores[0]).all()
