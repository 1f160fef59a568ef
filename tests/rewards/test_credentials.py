import json
from dataclasses import replace

import pytest
import torch

from evalkit.data.corruptions import corrupt
from evalkit.metrics.base import Measurement
from rewards import card, credentials
from rewards.base import Reward
from rewards.flicker import TemporalFlicker
from rewards.hack_clips import world_clips


class Brightness(Reward):
    """Mean luma: blind to time, moved by nothing but light."""

    name = "brightness <b>"
    summary = "mean & nothing else"

    def measure(self, frames, features, prompts, fps):
        return Measurement(frames.float().mean((1, 2, 3, 4)), {})


CLIPS = [replace(clip, prompt=None) for clip in world_clips(4)]


def test_a_response_falls_where_the_reward_answers_for_the_corruption_and_stays_where_not():
    found = credentials.responses(TemporalFlicker(), CLIPS, ("luma_flicker",))["luma_flicker"]
    assert found["spearman"] == -1 and all(a > b for a, b in zip(found["means"], found["means"][1:], strict=False))
    blind = credentials.responses(Brightness(), CLIPS, ("shuffle",))["shuffle"]
    assert max(blind["means"]) - min(blind["means"]) < 1e-6


def test_shifts_are_in_standard_deviations_over_clips():
    found = credentials.invariances(Brightness(), CLIPS)
    assert set(found) == {"half the frame rate", "first half", "re-encoded", "twice the size", "cropped"}
    values = credentials.scores_of(Brightness(), CLIPS)
    cropped = credentials.scores_of(Brightness(), CLIPS, lambda frames, _: frames[:, :, 4:60, 4:60])
    assert found["cropped"]["shift"] == pytest.approx((cropped - values).mean() / values.std(ddof=1), abs=1e-6)
    assert found["re-encoded"]["absolute"] < 0.1 and found["twice the size"]["absolute"] < 0.1


def test_a_reward_that_is_blind_to_order_says_so():
    found = credentials.order_sensitivity(Brightness(), CLIPS)
    assert found["same"] == 1 and found["n"] == 4
    seen = credentials.order_sensitivity(TemporalFlicker(), CLIPS)
    assert seen["same"] == 0 and seen["auc"] == 1


def test_gradients_are_counted_frame_by_frame():
    class FirstFrame(Brightness):
        def measure(self, frames, features, prompts, fps):
            return Measurement(frames[:, 0].float().mean((1, 2, 3)), {})

    found = credentials.gradient_health(FirstFrame(), CLIPS)
    assert found["float32"]["reached"] == 1 / 16 and found["bfloat16"]["finite"] == 1
    assert credentials.gradient_health(Brightness(), CLIPS)["float32"]["spread"] == pytest.approx(1, abs=1e-4)


def test_ascent_that_brightens_everything_raises_the_reward_and_lowers_the_psnr():
    found = credentials.ascent(Brightness(), CLIPS[:1], {"twin": TemporalFlicker()}, "noise")
    assert found["risen"] == 1 and found["reward"][1] > found["reward"][0] + 0.1
    assert found["psnr"][1] < found["psnr"][0] and len(found["twin"]) == 2
    start = corrupt(CLIPS[0].frames, "noise", 3, seed=0, fps=8.0).float() / 255
    error = (start - CLIPS[0].frames.float() / 255).square().mean()
    assert found["psnr"][0] == pytest.approx(float(-10 * torch.log10(error)), abs=1e-4)


def test_the_card_says_what_speaks_against_the_reward_and_escapes_what_it_is_told(tmp_path):
    found = card.measure(Brightness(), CLIPS, {})
    found["hacks"] = [{"hack": "<i>static</i>", "clips": "world", "auc": 0.5, "ci": [0.4, 0.6], "n": 4}]
    spots = card.blind_spots(found)
    assert any("shuffled frames score the same in 100%" in spot for spot in spots)
    assert any("<i>static</i> on world" in spot and "50%" in spot for spot in spots)
    path = card.write_card(found, tmp_path / "card.html")
    page = path.read_text()
    assert "brightness &lt;b&gt;" in page and "<i>static" not in page.replace("\\u003ci>", "") and "Ascent" in page
    assert json.loads((tmp_path / "card.json").read_text())["order"]["n"] == 4
