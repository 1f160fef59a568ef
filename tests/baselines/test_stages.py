"""Stages from the command line to the last file: fine-tuning, preferences, rewards, samples and pairs."""
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import dpo, nft, pairs, pretrain, reward_gradient, sft
from baselines.adapters import adapter_parameters
from baselines.checkpoints import load_model, read_card, save_model, trainable_weights
from baselines.data import captioned, epoch_rows, select
from baselines.pairs import pair_up
from baselines.presets import PRESETS
from baselines.prompts import read_prompts
from baselines.reading import read_frames
from baselines.sample import Config as SampleConfig
from baselines.sample import sample, write_sample
from baselines.stage import Draws, Shard
from baselines.tracking import read_log
from baselines.train import train
from baselines.world import FreshClips, WorldData, judge, verdict, world_prompts
from evalkit.cli import main
from evalkit.data.corruptions import corrupt
from evalkit.data.items import VideoItem
from evalkit.data.oracle import read_frames as read_by_oracle
from evalkit.data.scene import SPLITS, make_scene
from evalkit.data.synthetic import render_scenes
from evalkit.errors import UsageError
from rewards.data import Pair, read_pairs, write_pairs


@pytest.fixture(scope="module")
def samples(pretrained, tmp_path_factory):
    """A folder with two samples of each of three prompts, and the settings that made it."""
    config = SampleConfig(source=str(pretrained), prompts="world:3", samples=2, steps=2, batch_size=4, device="cpu",
                          out=str(tmp_path_factory.mktemp("samples")))
    sample(config)
    return config


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory):
    """pairs.jsonl of clips of the world, of which those that are rejected are over-exposed."""
    out, found = tmp_path_factory.mktemp("pairs"), []
    for k, prompt in enumerate(world_prompts(8)):
        frames = render_scenes([make_scene(SPLITS["test"] + k, level="simple")])[0]
        write_sample(out / f"{k}-good.npy", frames, 8.0)
        write_sample(out / f"{k}-bad.npy", corrupt(frames, "over_exposure", 5, seed=k, fps=8.0), 8.0)
        found.append(Pair(f"{k}-good.npy", f"{k}-bad.npy", prompt))
    return write_pairs(out / "pairs.jsonl", found)


def first_batch(stage, config):
    batch = next(stage.batches(0, Shard()))
    batch.draws = Draws(config.seed, 0, config.batch_size, torch.device("cpu"))
    return batch


def align(module, pretrained, out, **settings):
    wanted = module.PRESETS["smoke"] | {"preset": "smoke", "source": str(pretrained), "device": "cpu", "eval_every": 0,
                                        "log_every": 1, "out": str(out)}
    return module.Config(**wanted | settings)


# --- samples ---

def test_samples_say_what_they_were_led_away_from_and_never_mix_with_others(samples, build_smoke, tmp_path):
    model, weaker = build_smoke(3), str(tmp_path / "weaker")
    save_model(model, weaker, "pretrain", 1, weights=trainable_weights(model))
    away = replace(samples, out=str(tmp_path / "away"), weaker=weaker, guidance=1.5, temperature=1.1,
                   guided_above=0.3, guidance_to=2.5, motion=0.0)
    sample(away)
    sidecar = json.loads((tmp_path / "away" / "0000-1.json").read_text())
    names = ("weaker", "temperature", "guided_above", "guidance_to", "motion")
    assert [sidecar[name] for name in names] == [read_card(weaker).identity, 1.1, 0.3, 2.5, 0.0]
    made, plain = (next(Path(one.out).glob("0000-1.[mn]p*")).read_bytes() for one in (away, samples))
    assert made != plain
    for other in (replace(away, weaker=""), replace(away, temperature=1.0), replace(away, guided_above=0.2),
                  replace(away, guidance_to=0.0), replace(away, motion=1.0)):
        with pytest.raises(UsageError, match="of another sample"):
            sample(other)
    for wrong, why in (({"guidance": 1.0, "guidance_to": 0.0}, "--guidance other than 1"),
                       ({"guidance": 1.0, "guidance_to": 0.0, "weaker": ""}, "--guidance other than 1"),
                       ({"guidance_to": 1.5}, "--guidance-to"), ({"temperature": 0.0}, "--temperature"),
                       ({"guided_above": 1.0}, "--guided-above"), ({"motion": -1.0}, "--motion")):
        with pytest.raises(UsageError, match=why):
            sample(replace(away, out=str(tmp_path / "wrong"), **wrong))


def test_samples_are_files_with_sidecars_that_evalkit_reads(samples, pretrained, tmp_path, capsys):
    folder = Path(samples.out)
    items = captioned(str(folder))
    assert [item.seed for item in items] == [0, 1] * 3 and len({item.prompt for item in items}) == 3
    sidecar = json.loads((folder / "0000-1.json").read_text())
    assert sidecar["checkpoint"] == read_card(pretrained).identity
    assert (sidecar["seed"], sidecar["steps"], sidecar["guidance"]) == (1, 2, 3.0)
    assert main(["run", str(folder / "prompts.jsonl"), "--metrics", "frame_consistency_mini", "--cache", "none",
                 "--workers", "1", "--out", str(tmp_path / "scores")]) == 0


def test_sampling_goes_on_where_it_was_with_the_same_result(samples, tmp_path):
    config = replace(samples, out=str(tmp_path), format="npy")
    sample(config)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.npy")}
    assert len(before) == 6
    for name in ("0000-1.json", "0002-0.npy"):  # a kill between the two writes, and a lost video
        (tmp_path / name).unlink()
    kept = (tmp_path / "0001-0.npy").stat().st_mtime_ns
    sample(config)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.npy")} == before
    assert (tmp_path / "0001-0.npy").stat().st_mtime_ns == kept
    with pytest.raises(UsageError, match=r"steps 2, now 3.*another --out"):
        sample(replace(config, steps=3))
    clip = np.load(tmp_path / "0000-0.npy")
    assert clip.shape == (16, 64, 64, 3) and clip.dtype == np.uint8
    item = VideoItem(tmp_path / "0000-0.npy", "a", fps=8.0)
    shown = read_frames(VideoItem(Path(samples.out) / "0000-0.mp4", "b"), PRESETS["smoke"])
    assert (read_frames(item, PRESETS["smoke"]).int() - shown.int()).abs().float().mean() < 4  # of 255: the file's loss


def test_prompts_come_from_the_world_a_file_or_a_suite(tmp_path):
    assert len(read_prompts("world:5")) == 5
    assert not {p.text for p in read_prompts("world:40")} & {p.text for p in read_prompts("world:40:compositional")}
    text = tmp_path / "prompts.txt"
    text.write_text("one\n\ntwo\none\n")
    assert [prompt.text for prompt in read_prompts(str(text))] == ["one", "two"]
    table = tmp_path / "prompts.jsonl"
    table.write_text('{"prompt": "three"}\n')
    assert read_prompts(str(table))[0].name(2) == "0000-2"
    with pytest.raises(UsageError, match=r"no file nowhere\.txt"):
        read_prompts("nowhere.txt")
    text.write_bytes("one".encode("utf-16"))
    with pytest.raises(UsageError, match=r"prompts\.txt: expected UTF-8"):
        read_prompts(str(text))
    assert len(read_prompts("alignment")) > 10
    for wrong in ("world:no", "world", "nowhere"):
        with pytest.raises(UsageError):
            read_prompts(wrong)


# --- the world as data and as judge ---

def test_the_world_s_clips_depend_on_their_number_alone():
    def clips(seed, number, clean):
        return FreshClips(WorldData(seed=seed, clean=clean), 4, 16, 8.0, (64, 64))[number]

    frames, prompts = clips(0, 3, 1.0)
    again, same = clips(0, 3, 1.0)
    assert torch.equal(frames, again) and prompts == same
    assert not torch.equal(frames, clips(0, 4, 1.0)[0]) and not torch.equal(frames, clips(1, 3, 1.0)[0])
    assert not torch.equal(frames, clips(0, 3, 0.0)[0])  # damaged


def test_the_judge_tells_true_clips_from_damaged_and_from_those_of_other_prompts():
    scenes = [make_scene(SPLITS["test"] + k, level="simple") for k in range(6)]
    prompts = world_prompts(6)
    frames = render_scenes(scenes)
    damaged = torch.stack([corrupt(clip, "blur", 4, seed=1, fps=8.0) for clip in frames])
    whole, broken, others = judge(frames, prompts), judge(damaged, prompts), judge(frames, [*prompts[1:], prompts[0]])
    assert all(one.follows for one in whole) and sum(one.follows for one in others) <= 1
    assert all(a.quality["visual"] > b.quality["visual"] + 0.2 for a, b in zip(whole, broken, strict=True))
    assert all(a.quality["overall"] > b.quality["overall"] for a, b in zip(whole, others, strict=True))
    reading = read_by_oracle(frames[:1])[0]
    assert verdict(reading, prompts[0]).quality["text"] == 1


# --- stages ---

def test_dpo_starts_at_log_2_and_learns_the_labels(pretrained, pair_file, tmp_path):
    config = align(dpo, pretrained, tmp_path, pairs=str(pair_file), beta=2000.0, lr=3e-3, steps=30, rank=8)
    stage = dpo.build(config)
    for loss in ("dpo", "sdpo", "segments"):
        stage.config = replace(config, loss=loss)
        found = {name: value.detach() for name, value in stage.loss(first_batch(stage, config)).items()}
        assert abs(float(found["loss"]) - math.log(2)) < 1e-6 and float(found["drift"]) == 0
    stage.config = config
    train(stage, config)
    log = read_log(tmp_path)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert sum(row["loss"] for row in log[-10:]) / 10 < math.log(2) - 0.1
    assert sum(row["agree"] for row in log[-10:]) / 10 > 0.7
    card = read_card(tmp_path)
    assert card.lora.rank == 8 and card.base_identity == read_card(pretrained).identity
    before, after = load_model(pretrained), load_model(tmp_path)
    x_t, t = torch.randn(1, *before.latent_shape), torch.tensor([0.5])
    text = before.encode_prompts(world_prompts(1))
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path, lora_scale=0).velocity(x_t, t, text), before.velocity(x_t, t, text))
        assert not torch.equal(after.velocity(x_t, t, text), before.velocity(x_t, t, text))


def test_fine_tuning_on_what_a_reward_likes_best_takes_one_clip_of_each_prompt(pretrained, samples, tmp_path):
    config = align(sft, pretrained, tmp_path, data=samples.out, reward="farm", select="best", steps=2,
                   rank=0)
    stage = sft.build(config)
    assert len(stage.clips.store.items) == 3
    card = train(stage, config)
    assert card.lora is None and load_model(tmp_path).preset == PRESETS["smoke"]
    weighted = sft.build(align(sft, pretrained, tmp_path / "w", data=samples.out, reward="farm", select="weighted"))
    assert abs(float(weighted.clips.weights.mean()) - 1) < 1e-5 and len(weighted.clips.weights) == 6


def test_selection_keeps_the_best():
    items = [VideoItem(str(k), str(k), prompt) for k, prompt in enumerate("aabb")]
    rewards = [0.1, 0.9, 0.8, 0.2]
    assert select(items, rewards, "best", 0) == [1, 2] and select(items, rewards, "top", 0.25) == [1]
    with pytest.raises(UsageError, match="weighted"):
        select(items, rewards, "worst", 0)


def test_a_reward_gradient_climbs_its_reward(pretrained, tmp_path):
    config = align(reward_gradient, pretrained, tmp_path, reward="clip_alignment_mini", steps=8, lr=0.02, rank=8,
                   prompts="world:4:train", anchor=0.0, guidance=1.0)
    stage = reward_gradient.build(config)
    train(stage, config)
    rewards = [row["reward"] for row in read_log(tmp_path)]
    assert sum(rewards[-2:]) > sum(rewards[:2])


def test_nft_resumes_within_a_round_to_the_bit(pretrained, tmp_path):
    def settings(name, steps):
        return align(nft, pretrained, tmp_path / name, reward="temporal_flicker", steps=steps, round_steps=4, lr=0.01)

    whole = nft.build(settings("whole", 7))
    train(whole, settings("whole", 7))
    cut = settings("cut", 7)

    def kill(name, done, of):
        if done == 6:  # in the second round, of whose start the weights are no longer those of the policy
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(nft.build(cut), nft.Config(**vars(cut) | {"save_every": 6}), kill)
    (tmp_path / "cut" / "log.jsonl").unlink(missing_ok=True)
    resumed = nft.build(cut)
    train(resumed, cut)
    first, second = (adapter_parameters(stage.model.transformer) for stage in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_epoch_shows_every_row_once():
    rows = [row for step in range(5) for row in epoch_rows(10, step, 4, seed=1)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10)) and rows[:10] != rows[10:]


# --- pairs ---

def test_pairs_are_labelled_by_the_truth_or_by_a_reward(pretrained, tmp_path):
    config = pairs.Config(source=str(pretrained), prompts="world:3", samples=2, steps=2, batch_size=4, device="cpu",
                          out=str(tmp_path), margin=0.0, which="all")
    by_truth = read_pairs(pairs.make_pairs(config)).pairs
    by_farm = read_pairs(pairs.make_pairs(replace(config, label="farm"))).pairs
    assert len(by_truth) == len(by_farm) == 3 and {pair.rater for pair in by_truth} == {"truth"}
    assert {pair.rater for pair in by_farm} == {"farm"}
    with pytest.raises(UsageError, match="all 3 pairs tie"):
        pairs.make_pairs(replace(config, margin=1.0))


def test_the_noise_dial_turns_its_share_of_labels_and_ties_stay_ties(tmp_path):
    items = [VideoItem(str(tmp_path / str(k)), str(k), str(k // 2)) for k in range(4000)]
    values = [float(k % 2) if k // 2 % 4 else 0.5 for k in range(4000)]  # every fourth pair ties
    clean, noisy, noisier = ([*pair_up(items, values, pairs.Config(noise=noise), tmp_path)] for noise in (0, 0.1, 0.3))
    assert sum(pair.tie for pair in clean) == 500 == sum(pair.tie for pair in noisy)
    turned, more = ({k for k, pair in enumerate(some) if not pair.tie and pair.chosen != clean[k].chosen}
                    for some in (noisy, noisier))
    assert 0.07 < len(turned) / 1500 < 0.13 and turned < more
    assert all(int(pair.chosen) % 2 == 1 for pair in clean if not pair.tie)


# --- what users get wrong ---

@pytest.mark.parametrize(("rows", "why"), [
    ([], "empty file"), ([{"tie": True}], "1 are ties"), ([{"dimension": "motion"}], "dimension overall")])
def test_pairs_without_a_winner_are_refused(rows, why, pretrained, samples, tmp_path):
    videos = {"chosen": str(Path(samples.out) / "0000-0.mp4"), "rejected": str(Path(samples.out) / "0000-1.mp4"),
              "prompt": "a red star moves left over a blue background"}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(videos | row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=why):
        dpo.build(align(dpo, pretrained, tmp_path / "out", pairs=str(path)))


@pytest.mark.parametrize(("arguments", "why"), [
    (["sft", "--preset", "smoke"], "--from CHECKPOINT or --pretrained"),
    (["sft", "--preset", "smoke", "--from", "nowhere"], "expected a checkpoint"),
    (["sft", "--preset", "large", "--from", "nowhere"], "expected one of tiny, smoke"),
    (["sft", "--preset", "tiny", "--from", "PRETRAINED"], "not a checkpoint of preset tiny"),
    (["sft", "--preset", "smoke", "--from", "PRETRAINED", "--select", "best"], "goes with --reward"),
    (["dpo", "--preset", "smoke", "--from", "PRETRAINED"], "expected --pairs FILE"),
    (["nft", "--preset", "smoke", "--from", "PRETRAINED", "--reward", "nothing"], "expected a reward of"),
    (["nft", "--preset", "smoke", "--from", "PRETRAINED", "--reward", "farm", "--held-out", "farm"], "another reward"),
    (["pretrain", "--preset", "wan2.1-1.3b"], "--pretrained"),
    (["pretrain", "--preset", "smoke", "--trackers", "nothing_of_the_kind"], "not installed"),
    (["sample", "--from", "PRETRAINED", "--prompts", "zebra.txt", "--steps", "1"], "'zebra'"),
    (["pairs", "--from", "PRETRAINED", "--frames", "8"], "of the preset's shape"),
    (["pairs", "--from", "PRETRAINED", "--noise", "0.5"], "less than 0.5")])
def test_what_cannot_be_done_is_said_in_a_sentence(arguments, why, pretrained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zebra.txt").write_text("a red zebra\n")
    arguments = [str(pretrained) if word == "PRETRAINED" else word for word in arguments]
    assert main(["baseline", *arguments, "--out", "out", *(["--device", "cpu"])]) == 2
    assert why in capsys.readouterr().err


def test_unknown_flags_are_errors(capsys):
    with pytest.raises(SystemExit):
        main(["baseline", "dpo", "--betta", "3"])
    assert "--betta" in capsys.readouterr().err


def test_unreadable_videos_are_listed_and_counted(pretrained, samples, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    prompt = world_prompts(1)[0]
    good = Path(samples.out) / "0000-0.mp4"
    manifest = tmp_path / "videos.jsonl"
    manifest.write_text("".join(json.dumps({"path": str(path), "prompt": prompt}) + "\n"
                                for path in (good, tmp_path / "bad.mp4")))
    with pytest.raises(UsageError, match=r"1 of 2 videos cannot be used, more than --max-failures 0.*bad.mp4"):
        sft.build(align(sft, pretrained, tmp_path / "out", data=str(manifest)))
    stage = sft.build(align(sft, pretrained, tmp_path / "out", data=str(manifest), max_failures=1))
    assert len(stage.clips.store.items) == 1
    assert list(json.loads((tmp_path / "out" / "encoded" / "failures.json").read_text())) == ["bad.mp4"]


def test_the_tiny_world_needs_no_pyav_and_no_plots(smoke, tmp_path):
    """As on a machine that has only what training needs."""
    code = ("import sys\n"
            "for name in ('av', 'lpips', 'plotly', 'tyro', 'tensorboard'): sys.modules[name] = None\n"
            "from evalkit.cli import main\n"
            f"out = {str(tmp_path)!r}\n"
            "common = ['--device', 'cpu']\n"
            "runs = [['pretrain', '--preset', 'smoke', '--out', out + '/p'],\n"
            "        ['pairs', '--from', out + '/p', '--prompts', 'world:2', '--steps', '2', '--samples', '2',\n"
            "         '--margin', '0', '--label', 'farm', '--out', out + '/pairs'],\n"
            "        ['dpo', '--preset', 'smoke', '--from', out + '/p', '--pairs', out + '/pairs/pairs.jsonl',\n"
            "         '--out', out + '/d']]\n"
            "for run in runs: assert main(['baseline', *run, *common]) == 0, run\n")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
    assert (tmp_path / "pairs" / "samples" / "0000-0.npy").is_file()
    assert read_card(tmp_path / "d").stage == "dpo"


def test_defaults_of_all_stages_hold_together():
    for module in (pretrain, sft, dpo, reward_gradient, nft):
        assert set(module.PRESETS) == set(PRESETS)
        for values in module.PRESETS.values():
            module.Config(**values)
