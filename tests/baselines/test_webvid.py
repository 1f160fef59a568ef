"""The preset webvid from nine real clips to scores, at a size that takes seconds."""
import csv
import io
import json
import tarfile
from dataclasses import replace

import pytest

from baselines import presets
from evalkit.cli import main


@pytest.fixture
def webvid(assets, monkeypatch, tmp_path):
    """The folder of clips; the preset is shrunk, and its parts are of the same kind."""
    monkeypatch.setenv("EVALKIT_MEDIA", str(tmp_path / "media"))
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "scores-cache"))
    whole = presets.PRESETS["webvid"]
    small = {"num_attention_heads": 1, "attention_head_dim": 16, "num_layers": 1, "ffn_dim": 16, "text_dim": 16,
             "freq_dim": 16}
    monkeypatch.setitem(presets.PRESETS, "webvid", replace(
        whole, num_frames=5, height=32, width=56, transformer=dict(whole.transformer) | small,
        vae=dict(whole.vae) | {"base_dim": 4}))
    return assets / "data" / "webvid"


def as_table(folder, _):
    return f"webvid:{folder}?csv=results_2M_val_subset.csv"


def as_tars(folder, out):
    """Two WebDataset shards of the same clips."""
    with (folder / "results_2M_val_subset.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for shard in range(2):
        with tarfile.open(out / f"shard-{shard:03d}.tar", "w") as archive:
            for row in rows[shard::2]:
                archive.add(folder / f"{row['videoid']}.mp4", f"{row['videoid']}.mp4")
                text = row["name"].encode()
                entry = tarfile.TarInfo(f"{row['videoid']}.txt")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text))
    return str(out / "shard-{000..001}.tar")


@pytest.mark.parametrize("spelt", [as_table, as_tars])
def test_the_webvid_preset_goes_from_real_clips_to_scores(spelt, webvid, tmp_path, capsys):
    data = spelt(webvid, tmp_path)
    common = ["--preset", "webvid", "--device", "cpu", "--trackers", "none", "--steps", "2", "--batch-size", "2"]
    at = {name: str(tmp_path / name) for name in ("vae", "pretrain", "sft", "pairs", "dpo", "samples", "scores")}
    few = ["--prompts", str(tmp_path / "prompts.txt"), "--steps", "2", "--device", "cpu"]
    (tmp_path / "prompts.txt").write_text("a horse grazes\nwaves at the shore\n")

    def run(*words):
        assert main([*words]) == 0, capsys.readouterr().err

    run("baseline", "vae", *common, "--data", data, "--out", at["vae"])
    run("baseline", "pretrain", *common, "--data", data, "--vae", at["vae"], "--out", at["pretrain"])
    run("baseline", "sft", *common, "--data", data, "--from", at["pretrain"], "--out", at["sft"])
    run("baseline", "pairs", *few, "--from", at["sft"], "--out", at["pairs"], "--label", "farm", "--samples", "2",
        "--margin", "0")
    run("baseline", "dpo", *common, "--pairs", f"{at['pairs']}/pairs.jsonl", "--from", at["sft"], "--out", at["dpo"])
    run("baseline", "sample", *few, "--from", at["dpo"], "--out", at["samples"])
    run("run", f"{at['samples']}/prompts.jsonl", "--metrics", "farm,temporal_flicker", "--out", at["scores"],
        "--workers", "1", "--no-report")
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]
    assert {name: scores[name]["n"] for name in ("farm", "temporal_flicker")} == {"farm": 2, "temporal_flicker": 2}
