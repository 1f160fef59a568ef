"""The quickstart's stage: shipped checkpoints found, checked, sampled, scored and drawn."""
import json
import shutil
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from baselines import quickstart, shipped
from baselines.checkpoints import CARD, WEIGHTS, read_card
from baselines.ladder_scores import score_frames
from baselines.ladder_summary import RESULT
from baselines.world import world_prompts
from evalkit.errors import UsageError


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """The two lowest shipped rungs in a folder of their own, which a test may damage."""
    folder = tmp_path / "tiny"
    for name in ("pretrain", "sft"):
        shutil.copytree(shipped.FOLDER / name, folder / name)
    rungs = tuple(replace(rung, folder=str(folder / rung.name)) for rung in shipped.RUNGS)
    monkeypatch.setattr(shipped, "RUNGS", rungs)
    monkeypatch.setattr(quickstart, "RUNGS", rungs)
    return folder


def test_evalkit_finds_the_stage_and_knows_nothing_of_it():
    (entry,) = (entry for entry in entry_points(group="evalkit.quickstart") if entry.name == "baselines")
    assert entry.load() is quickstart.run


def test_every_shipped_checkpoint_is_whole_stands_on_the_one_below_and_all_weigh_little():
    rungs = shipped.shipped()
    assert {"pretrain", "sft"} <= {rung.name for rung in rungs}
    for rung in rungs:
        card = read_card(rung.folder)
        below = None if card.base is None else read_card(Path(rung.folder) / card.base)
        assert (below and below.identity) == card.base_identity
        assert shipped.load_shipped(rung.name).preset.num_frames == 16
        assert card.sha256 in (shipped.FOLDER / "README.md").read_text()  # the card is of these weights
    weights = sum(path.stat().st_size for path in shipped.FOLDER.parents[2].rglob("*/weights/**/*.safetensors"))
    assert weights < 24 * 2**20


def test_damaged_weights_are_refused_and_missing_rungs_are_named(moved, tmp_path, capsys):
    path = moved / "sft" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="not the weights of its card"):
        quickstart.run(tmp_path / "out")
    shutil.rmtree(moved)
    assert quickstart.run(tmp_path / "out") is None
    assert "left out: pretrain, sft, dpo, over-optimized" in capsys.readouterr().out
    with pytest.raises(UsageError, match="expected a shipped checkpoint of none, got 'sft'"):
        shipped.load_shipped("sft")


def test_the_stage_scores_all_checkpoints_on_the_same_prompts_and_draws_the_trade_off(moved, tmp_path, capsys):
    page = quickstart.run(tmp_path / "out", 0, prompts=2, samples=1, steps=2)
    assert "left out: dpo, over-optimized" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / RESULT).read_text())
    assert list(found["rungs"]) == ["pretrain", "sft"]
    (change,) = found["comparisons"]
    assert (change["below"], change["above"], change["prompts"]) == ("pretrain", "sft", 2)
    assert {"truth.overall", "farm", "preference", "dynamic_degree"} <= set(change["changes"])
    rows = [[json.loads(line) for line in (tmp_path / "out" / name / "samples" / "prompts.jsonl").open()]
            for name in ("pretrain", "sft")]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    assert (tmp_path / "out" / "sft" / "results.json").is_file() and (moved / "sft" / CARD).is_file()
    text = page.read_text()
    assert text.count("data:video/mp4") == 2 and '<section id="trade-off"' in text


def test_guidance_of_motion_adds_motion_to_samples_of_a_shipped_checkpoint():
    model, prompts = shipped.load_shipped("pretrain"), world_prompts(6)

    def moving(motion):
        with torch.no_grad():
            frames = (255 * model.sample(prompts, range(6), 8, 3.0, motion=motion)).round().byte()
        return score_frames(frames, prompts, 8.0, model.device, ("dynamic_degree",)).values["dynamic_degree"].mean()

    assert moving(0.0) + 2 < moving(2.0)
