"""PSNR, SSIM and LPIPS of clips against closed forms and the packages they come from."""
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from evalkit.clips import ClipBatch
from evalkit.features.base import MissingWeights
from evalkit.features.weight_files import KNOWN, WeightFile
from evalkit.metrics.full_reference import Lpips, Psnr, Ssim, build_lpips


@pytest.fixture
def clips():
    torch.manual_seed(0)
    return F.interpolate(torch.rand(12, 3, 8, 9), size=(40, 48), mode="bicubic").clamp(0, 1).unflatten(0, (3, 4))


def noisy(clips, amount):
    generator = torch.Generator().manual_seed(1)
    return (clips + amount * torch.randn(clips.shape, generator=generator)).clamp(0, 1)


def random_lpips():
    import lpips

    torch.manual_seed(0)
    return lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).requires_grad_(False)


def metrics():
    return [Psnr(), Ssim(), Lpips(random_lpips())]


def score(metric, generated, reference):
    return metric.score(ClipBatch(generated), ClipBatch(reference))


def test_psnr_of_a_constant_error_is_its_closed_form(clips):
    dark = clips * 0.5
    assert score(Psnr(), dark + 0.1, dark).tolist() == pytest.approx([20.0] * 3, abs=1e-3)
    assert score(Psnr(), clips, clips).tolist() == [100.0] * 3  # the documented cap, not infinity


def test_psnr_averages_frames_in_decibels(clips):
    generated = clips[:1] * 0.5
    worse = generated + torch.tensor([0.1, 0.01, 0.1, 0.01]).view(1, 4, 1, 1, 1)
    found = Psnr().measure(ClipBatch(worse), ClipBatch(generated))
    assert found.value.item() == pytest.approx(30, abs=1e-2)
    assert found.curves["frame"][0].tolist() == pytest.approx([20, 40, 20, 40], abs=0.02)


def test_ssim_is_the_windowed_formula(clips):
    """An independent evaluation: Gaussian windows wholly inside the picture, float64."""
    one, two = clips[0].double(), noisy(clips, 0.1)[0].double()
    x = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-x**2 / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)

    def blur(images):
        return F.conv2d(images, window, groups=3)

    m1, m2 = blur(one), blur(two)
    v1, v2, cov = blur(one**2) - m1**2, blur(two**2) - m2**2, blur(one * two) - m1 * m2
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * m1 * m2 + c1) * (2 * cov + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))).mean()
    assert score(Ssim(), two[None].float(), one[None].float()).item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(score(Ssim(), clips, clips), torch.ones(3))


def test_lpips_of_a_random_network_is_the_package_s_own_number(clips):
    network, generated = random_lpips(), noisy(clips, 0.1)
    with torch.no_grad():
        expected = torch.stack([network(a, b, normalize=True).mean() for a, b in zip(generated, clips, strict=True)])
    torch.testing.assert_close(score(Lpips(network), generated, clips), expected)
    assert score(Lpips(network), clips, clips).tolist() == [0.0] * 3


@pytest.mark.parametrize("index", range(3))
def test_scores_worsen_with_noise_in_the_declared_direction(clips, index):
    metric = metrics()[index]
    values = [score(metric, noisy(clips, amount), clips) for amount in (0, 0.05, 0.1, 0.2)]
    sign = 1 if metric.higher_is_better else -1
    assert all(bool((sign * (a - b) > 0).all()) for a, b in pairwise(values))
    low, high = metric.range
    assert all(low <= v <= high and math.isfinite(v) for v in torch.cat(values).tolist())


@pytest.mark.parametrize("index", range(3))
def test_a_clip_s_score_does_not_depend_on_its_batch(clips, index):
    metric, generated = metrics()[index], noisy(clips, 0.1)
    alone = torch.cat([score(metric, generated[i: i + 1], clips[i: i + 1]) for i in range(3)])
    torch.testing.assert_close(score(metric, generated, clips), alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("index", range(3))
def test_a_constant_clip_is_finite(index):
    black, grey = torch.zeros(1, 2, 3, 64, 64), torch.full((1, 2, 3, 64, 64), 0.5)
    for pair in ((black, black), (black, grey)):
        assert math.isfinite(score(metrics()[index], *pair).item())


def test_shapes_must_agree_and_a_reference_is_needed(clips):
    with pytest.raises(ValueError, match=r"psnr: expected a reference of shape \(3, 4, 3, 40, 48\), got \(3, 3,"):
        score(Psnr(), clips, clips[:, :3])
    with pytest.raises(ValueError, match="got None"):
        Ssim().score(ClipBatch(clips), None)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        score(Ssim(), clips[..., :10], clips[..., :10])


def test_lpips_without_its_backbone_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(MissingWeights, match=r"evalkit weights fetch alexnet$"):
        Lpips().extractors()


def test_lpips_is_built_from_a_torchvision_backbone_and_the_package_s_linear_weights(monkeypatch, tmp_path, clips):
    import lpips
    from torchvision.models import alexnet

    torch.manual_seed(0)
    backbone = alexnet(num_classes=2)
    features = {name: value for name, value in backbone.state_dict().items() if name.startswith("features.")}
    torch.save(features, tmp_path / "random-alexnet.pth")
    monkeypatch.setenv("EVALKIT_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(KNOWN, "alexnet", WeightFile("alexnet", ("random-alexnet.pth",), "", "tests"))
    metric = Lpips()
    assert metric.extractors() == [] and len(metric.protocol()["parameters"]["weights_sha256"]) == 64
    network = metric._loaded[0]
    large = F.interpolate(clips[0], scale_factor=2)
    torch.testing.assert_close(network.net(large).relu1, backbone.features[1](backbone.features[0](large)))
    torch.testing.assert_close(network.net(large).relu5, backbone.features[:12](large))
    published = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).lin3.model[1].weight
    assert torch.equal(network.lin3.model[1].weight, published) and not torch.equal(published, published * 0)


def test_lpips_takes_the_squeeze_backbone_as_well():
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    backbone = squeezenet1_1()
    network = build_lpips(backbone.state_dict(), net="squeeze")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network.net(images).relu7, backbone.features(images))
