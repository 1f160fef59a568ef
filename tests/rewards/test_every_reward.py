"""What holds for every registered reward: its metric is the reward, its gradient survives bf16, it compiles."""
import json
import warnings

import pytest
import torch

from evalkit.data.synthetic import render_clip, write_samples
from evalkit.data.video import read_clips
from evalkit.features import motion
from evalkit.features.base import MissingWeights
from evalkit.runner import evaluate
from rewards import available_rewards, load_reward
from rewards.registry import reward_class
from rewards.segments import Segments

PROMPT = "a red circle moves left over a blue background"


def load(name):
    try:
        return load_reward(name)
    except MissingWeights as error:
        pytest.skip(str(error).split(";")[0])


def loadable():
    found = []
    for name in available_rewards():
        try:
            load_reward(name)
        except MissingWeights:
            continue
        found.append(name)
    return found


@pytest.fixture(scope="module")
def clip():
    made = render_clip(2_000_000, size=64)
    return made.frames[None].float() / 255, made.prompt, made.fps


@pytest.fixture(scope="module")
def report_of_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    manifest = write_samples(folder, 2, quality="flickering", size=96)
    items = [json.loads(line) for line in manifest.read_text().splitlines()]
    sources = [(folder / item["path"], item["prompt"]) for item in items]
    return sources, evaluate(manifest, metrics=loadable(), cache=None, workers=1)


@pytest.fixture(scope="module")
def report_of_real_clips(assets, tmp_path_factory):
    manifest = tmp_path_factory.mktemp("real") / "clips.jsonl"
    sources = [(assets / "data" / path, PROMPT)
               for path in ("ucf101/HorseRace/v_HorseRace_g01_c01.avi", "ucf101/Surfing/v_Surfing_g02_c01.avi")]
    manifest.write_text("".join(json.dumps({"path": str(path), "prompt": said}) + "\n" for path, said in sources))
    return sources, evaluate(manifest, metrics=loadable(), cache=None, workers=1)


def check_metric_is_sign_times_reward(name, sources, report):
    reward, sign = load(name), reward_class(name).metric_sign
    expected = []
    for path, prompt in sources:
        found, = read_clips(path, [reward.spec])[reward.spec]
        with torch.no_grad():
            expected.append(sign * reward(found.frames[None].float() / 255, [prompt], found.fps).item())
    assert not report.failures
    assert report.videos[name].tolist() == pytest.approx(expected, abs=1e-6)
    assert report.scores[name].value == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert len(set(expected)) == len(expected)  # a constant would pass everything above


@pytest.mark.parametrize("name", available_rewards())
def test_metric_of_a_run_on_the_worlds_files_is_sign_times_reward(name, report_of_world):
    check_metric_is_sign_times_reward(name, *report_of_world)


@pytest.mark.parametrize("name", available_rewards())
def test_metric_of_a_run_on_real_files_is_sign_times_reward(name, report_of_real_clips):
    check_metric_is_sign_times_reward(name, *report_of_real_clips)


def gradient(reward, clip, dtype=torch.float32):
    frames, prompt, fps = clip
    pixels = frames.to(dtype, copy=True).requires_grad_()
    value = reward(pixels, [prompt], fps)
    value.sum().backward()
    return value.detach(), pixels.grad[0].float()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("name", available_rewards())
def test_gradient_is_finite_and_reaches_every_frame_in_every_precision(name, precision, clip):
    reward = load(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        value, found = gradient(reward, clip, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    assert value.dtype == torch.float32 and value.isfinite().all()
    assert found.isfinite().all()
    assert (found.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", available_rewards())
def test_autocast_hardly_moves_a_reward(name, clip):
    reward = load(name)
    frames, prompt, fps = clip
    with torch.no_grad():
        plain = reward(frames, [prompt], fps)
        with torch.autocast("cpu", torch.bfloat16):
            cast = reward(frames, [prompt], fps)
    assert cast.item() == pytest.approx(plain.item(), abs=2e-3)


@pytest.mark.parametrize("name", available_rewards())
def test_checkpointed_reward_has_the_same_value_and_gradient(name, clip):
    reward = load(name)
    plain, checkpointed = gradient(reward, clip), gradient(load_reward(name).checkpointed(), clip)
    assert torch.equal(plain[0], checkpointed[0])
    torch.testing.assert_close(checkpointed[1], plain[1], atol=1e-6, rtol=0)


def bytes_kept(reward, frames, prompts):
    """For the gradient, by one forward pass."""
    kept = []

    def pack(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        reward(frames.clone().requires_grad_(), prompts, 8)
    return sum(kept)


def test_checkpointed_reward_keeps_little_of_its_network_for_the_gradient(clip):
    frames, prompts = clip[0].expand(4, -1, -1, -1, -1), [clip[1]] * 4
    plain = bytes_kept(load_reward("clip_alignment_mini"), frames, prompts)
    checkpointed = load_reward("clip_alignment_mini").checkpointed()
    assert bytes_kept(checkpointed, frames, prompts) < plain / 50
    assert bytes_kept((2 * checkpointed).raw(), frames, prompts) < plain / 50
    assert bytes_kept(Segments(checkpointed), frames, prompts) < plain / 50
    assert bytes_kept(checkpointed.checkpointed(False), frames, prompts) == plain


def test_compiled_reward_equals_the_plain_one(clip):
    """Traced, not made into C++, which takes minutes: that and all rewards in `benchmarks/reward_cost.py --compile`."""
    frames, prompt, fps = clip
    reward = load_reward("temporal_flicker")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.compile(reward, backend="aot_eager")(frames, [prompt], fps)
        assert found.item() == pytest.approx(reward(frames, [prompt], fps).item(), abs=1e-4)


def test_search_for_shifts_compiles():
    first, second = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(motion._shift_costs, backend="aot_eager")
    torch.testing.assert_close(compiled(first, second), motion._shift_costs(first, second))
