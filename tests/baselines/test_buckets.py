"""Clips of several shapes: none is stretched, batches are of one shape, and runs of them go on to the bit."""
import json
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import presets, pretrain, sft
from baselines.buckets import Bucket, Mixed, buckets_of, check_bucket, grain, measure, schedule
from baselines.checkpoints import save_model, save_vae, trainable_weights
from baselines.data import FAILURES, SHAPES, epoch_rows, open_clips
from baselines.loop_state import read_state
from baselines.model import VideoDiffusion, build_transformer, build_vae
from baselines.reading import read_views
from baselines.sample import Config as SampleConfig
from baselines.sample import sample
from baselines.stage import Shard
from baselines.text import HashedWords
from baselines.train import train
from evalkit.data.items import VideoItem
from evalkit.data.video import write_video
from evalkit.data.video_types import VideoError
from evalkit.errors import UsageError

TRANSFORMER = presets._transformer((1, 2, 2), 1, 32, 1, 32, 2, 16) | {"freq_dim": 16}
VAE = {"base_dim": 8, "z_dim": 2, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [True, True],
       "scale_factor_temporal": 4, "scale_factor_spatial": 4, "latents_mean": [0.0] * 2, "latents_std": [1.0] * 2}
OWN = {
    "latent": presets.Preset(9, 8.0, 32, 32, TRANSFORMER, "words", 6, VAE),
    "pixels": presets.Preset(8, 8.0, 32, 32, TRANSFORMER | {"patch_size": [1, 8, 8], "in_channels": 3,
                                                            "out_channels": 3}, "words", 6, prediction="clean"),
}
RUN = {"device": "cpu", "trackers": (), "log_every": 1, "warmup": 1, "eval_every": 0, "batch_size": 2, "buckets": True,
       "decay": "constant", "lr": 0.01, "max_failures": 1}
VIDEOS = ((9, 32, 32), (9, 32, 32), (9, 32, 32), (12, 36, 48), (12, 36, 48), (5, 64, 48), (9, 18, 32))
IMAGES = ((40, 40), (30, 40), (48, 36))


def noise(*shape, seed):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A table of seven videos of five shapes and of three images, one of which is cut off, and one of images alone."""
    folder, rows = tmp_path_factory.mktemp("media"), ["path,prompt,fps"]
    for k, (frames, height, width) in enumerate(VIDEOS):
        write_video(folder / f"v{k}.mp4", noise(frames, 3, height, width, seed=k), 8.0)
        rows.append(f"v{k}.mp4,surfing {k % 2},")
    for k, size in enumerate(IMAGES):
        Image.fromarray(noise(*size, 3, seed=k).numpy()).save(folder / f"i{k}.{'png' if k == 1 else 'jpg'}")
        rows.append(f"i{k}.{'png' if k == 1 else 'jpg'},archery,")
    cut = (folder / "i0.jpg").read_bytes()
    (folder / "bad.jpg").write_bytes(cut[:len(cut) // 2])
    rows.append("bad.jpg,archery,")
    (folder / "all.csv").write_text("\n".join(rows))
    (folder / "images.csv").write_text("\n".join([rows[0], *rows[8:]]))
    (folder / "videos.csv").write_text("\n".join(rows[:8]))
    return folder


@pytest.fixture(params=["latent", "pixels"])
def settings(request, media, monkeypatch, tmp_path):
    """Settings of a run on all media, of a model on latents and of one on pixels."""
    monkeypatch.setitem(presets.PRESETS, request.param, OWN[request.param])
    found = RUN | {"preset": request.param, "data": str(media / "all.csv"), "cache": str(tmp_path / "cache")}
    if request.param == "latent":
        model = VideoDiffusion.build(OWN["latent"])
        save_vae(model, tmp_path / "vae", 0, dict(model.vae.named_parameters()))
        found["vae"] = str(tmp_path / "vae")
    return found


@pytest.fixture
def clips(media, tmp_path):
    """flags -> the clips of all media for a model on pixels."""
    def opened(table="all.csv", **flags):
        return open_clips(VideoDiffusion.build(OWN["pixels"]), str(media / table), str(tmp_path / "pixels"), 3, 1,
                          mixed=Mixed(buckets=True, **flags))
    return opened


# --- which shapes there are ---

@pytest.mark.parametrize("name", [*presets.PRESETS])
def test_every_bucket_is_a_shape_that_its_preset_takes(name):
    preset = presets.PRESETS[name]
    with torch.device("meta"):
        transformer, vae = build_transformer(preset), build_vae(preset)
    model = VideoDiffusion(preset, transformer, HashedWords(1, 1), vae)
    buckets, pixels = buckets_of(model), preset.height * preset.width
    assert buckets.durations[0] == preset.num_frames and buckets.sizes[0][0] == (preset.height, preset.width)
    assert buckets.durations[-1] == (1 if vae is not None else grain(model)[0])
    for scale, same in zip((1, 4), buckets.sizes, strict=True):
        assert {(width, height) for height, width in same} == set(same)  # each lies and stands
        for size in same:
            assert 0.7 < scale * size[0] * size[1] / pixels < 2.01
            for frames in buckets.durations:
                check_bucket(model, Bucket(frames, *size))
    with pytest.raises(ValueError, match="multiples of"):
        check_bucket(model, Bucket(preset.num_frames, preset.height, preset.width + 4))


@pytest.mark.parametrize("name", [*OWN])
def test_a_model_takes_clips_of_every_bucket(name):
    model = VideoDiffusion.build(OWN[name])
    buckets = buckets_of(model)
    for frames, size in [(frames, size) for frames in buckets.durations for same in buckets.sizes for size in same]:
        latents = model.encode(noise(1, frames, 3, *size, seed=0))
        found = model.velocity(latents, torch.ones(1), model.encode_prompts(["surfing"]))
        assert found.shape == latents.shape and model.decode(latents).shape == (1, frames, 3, *size)


def test_a_clip_goes_to_the_longest_bucket_of_the_nearest_aspect_that_hardly_enlarges_it():
    buckets = buckets_of(VideoDiffusion.build(OWN["latent"]))
    assert buckets.durations == (9, 5, 1)
    assert str(buckets.of(100, 1080, 1080)) == "9x32x32"
    assert buckets.of(8, 720, 960).num_frames == 5 and buckets.of(4, 720, 960).num_frames == 1
    lying, standing = buckets.of(9, 1080, 1920), buckets.of(9, 1920, 1080)
    assert (lying.height, lying.width) == (standing.width, standing.height) and lying.width > lying.height
    assert buckets.of(9, 24, 24).height == 32 and buckets.of(9, 20, 20).height == 16
    with pytest.raises(VideoError, match="too short: 3 frames"):
        replace(buckets, durations=(9, 5)).of(3, 32, 32)


# --- what is read ---

@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (100, 128), (96, 96), (61, 203)])
def test_no_clip_is_stretched(height, width, tmp_path):
    """A circle stays one, in the middle, although its frame is cut to the shape of a bucket."""
    rows, columns = np.mgrid[:height, :width]
    disc = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2) < min(height, width) / 3
    Image.fromarray((disc[..., None] * np.full(3, 255)).astype(np.uint8)).save(tmp_path / "a.png")
    buckets = buckets_of(VideoDiffusion.build(replace(OWN["pixels"], height=64, width=64)))
    frames = read_views([VideoItem(tmp_path / "a.png", "a")], OWN["pixels"], buckets)[0]
    there = frames[0, 0].float() / 255
    tall, wide = there.sum(0).max(), there.sum(1).max()  # its diameters, to a part of a pixel
    assert abs(tall - wide) < 0.5 and there.sum() == pytest.approx(float(np.pi / 4 * tall * wide), rel=0.03)
    middle = [(there.sum(axis) * torch.arange(len(there.sum(axis)))).sum() / there.sum() for axis in (1, 0)]
    assert middle == pytest.approx([(side - 1) / 2 for side in there.shape], abs=1)


def test_a_clip_is_measured_as_it_is_shown_and_at_the_preset_s_rate(media, tmp_path):
    assert measure(VideoItem(media / "v3.mp4", "a"), 8.0) == (12, 36, 48)
    assert measure(VideoItem(media / "v3.mp4", "a"), 4.0) == (6, 36, 48)
    assert measure(VideoItem(media / "i1.png", "a"), 60.0) == (1, 30, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert measure(VideoItem(tmp_path / "a.jpg", "a"), 8.0) == (1, 40, 30)


# --- batches ---

def test_every_clip_comes_once_an_epoch_and_every_batch_is_of_one_shape(clips):
    found = clips()
    assert len(found.groups) == 7 and sum(map(len, found.groups)) == 10
    names = {item.name for item in found.store.items}
    seen = Counter()
    for step, batch in enumerate(islice(found.batches(0, Shard(), 1), 100), 1):
        seen.update(batch.names)
        if step % 10 == 0:
            assert set(seen) <= names and all(abs(seen[name] - step / 10) <= 1 for name in names)
    assert all(set(epoch_rows(3, step, 3, 0)) == {0, 1, 2} for step in range(5))
    shapes = {tuple(batch["frames"].shape) for batch in islice(found.batches(0, Shard(), 2), 30)}
    assert len(shapes) == 7 and all(shape[0] == 2 for shape in shapes)


def test_shapes_take_turns_by_their_shares():
    shares = [0.5, 0.3, 0.2]
    taken = list(islice(schedule(shares, 1), 1000))
    for group, share in enumerate(shares):
        own = [k for which, k in taken if which == group]
        assert own == list(range(len(own))) and abs(len(own) - 1000 * share) <= 2
    assert taken[:50] != list(islice(schedule(shares, 2), 50))


def test_images_get_the_share_of_steps_that_is_asked_for(clips, tmp_path, monkeypatch):
    def stills(found):
        return sum(batch["frames"].shape[1] == 1 for batch in islice(found.batches(0, Shard(), 2), 200)) / 200

    assert stills(clips()) == pytest.approx(0.3, abs=0.02)
    assert stills(clips(image_share=0.6)) == pytest.approx(0.6, abs=0.02)
    joint = clips("videos.csv", images=str(clips("images.csv").store.items[0].source.parent / "images.csv"))
    assert stills(joint) == pytest.approx(0.3, abs=0.02)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for item in clips("images.csv").store.items:
            (tmp_path / "caption").write_text(item.prompt)
            tar.add(item.source, item.name)
            tar.add(tmp_path / "caption", f"{item.name.split('.')[0]}.txt")
    monkeypatch.setenv("EVALKIT_MEDIA", str(tmp_path / "unpacked"))
    packed = clips("videos.csv", images=str(tmp_path / "images.tar"))
    assert stills(packed) == pytest.approx(0.3, abs=0.02)
    assert [item.prompt for item in packed.store.items] == [item.prompt for item in joint.store.items]
    with pytest.raises(UsageError, match="found 0 images among 7"):
        clips("videos.csv", image_share=0.5)
    with pytest.raises(UsageError, match="less than 1"):
        clips(image_share=1.0)


def test_a_batch_depends_on_its_step_alone_and_two_processes_share_it(clips):
    whole = [batch.names for batch in islice(clips().batches(0, Shard(), 3), 12)]
    assert [batch.names for batch in islice(clips().batches(5, Shard(), 3), 7)] == whole[5:]
    parts = [[batch.names for batch in islice(clips().batches(0, Shard(rank, 2), 3), 12)] for rank in (0, 1)]
    assert [[first[0], second[0], first[1]] for first, second in zip(*parts, strict=True)] == whole


# --- runs ---

def test_a_bad_image_is_listed_and_skipped_and_all_others_are_counted_by_shape(settings, tmp_path):
    stage = pretrain.build(pretrain.Config(**settings | {"out": str(tmp_path / "run")}))
    failures = json.loads((tmp_path / "cache" / FAILURES).read_text())
    assert failures == {"bad.jpg": "corrupt: the image is damaged, or of more than 268435456 pixels"}
    assert len(stage.clips.store.items) == 10
    counts = json.loads((tmp_path / "cache" / SHAPES).read_text())
    assert sum(counts.values()) == 10 and sum(number for shape, number in counts.items() if shape[:2] == "1x") == 3
    with pytest.raises(UsageError, match=r"1 of 11 videos cannot be used.*bad.jpg"):
        pretrain.build(pretrain.Config(**settings | {"out": str(tmp_path / "run"), "max_failures": 0}))


def test_a_run_on_many_shapes_that_was_stopped_ends_as_if_it_had_not_been(settings, tmp_path):
    def run(name, kill=lambda *_: None):
        config = pretrain.Config(**settings | {"out": str(tmp_path / name), "steps": 12, "save_every": 5})
        stage = pretrain.build(config)
        assert not stage.one_shape
        train(stage, config, kill)
        return read_state(tmp_path / name / "state.pt")

    def kill(name, done, of):
        if done == 8:
            raise KeyboardInterrupt

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", kill)
    cut = run("cut")
    assert all(torch.equal(whole[part][name], cut[part][name]) for part in ("weights", "ema") for name in whole[part])


def test_clips_are_encoded_once_for_their_buckets_and_not_taken_for_stretched_ones(settings, tmp_path):
    def build(**flags):
        store = pretrain.build(pretrain.Config(**settings | {"out": str(tmp_path / "run")} | flags)).clips.store
        return store, {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*")}

    first, entries = build()
    again, same = build()
    assert again.groups() == first.groups() and same == entries
    stretched, more = build(buckets=False, max_failures=5)  # the images and the video of 5 frames are too short for it
    assert {shape.num_frames for shape in stretched.groups()} == {stretched.model.preset.num_frames}
    assert len(more) == len(entries) + len(stretched.items)


def test_fine_tuning_takes_buckets_too_and_samples_have_the_shape_that_is_asked_for(media, monkeypatch, tmp_path):
    monkeypatch.setitem(presets.PRESETS, "latent", OWN["latent"])
    model = VideoDiffusion.build(OWN["latent"])
    save_model(model, tmp_path / "base", "pretrain", 1, weights=trainable_weights(model))
    config = sft.Config(**RUN | {"preset": "latent", "source": str(tmp_path / "base"), "rank": 2, "steps": 4,
                                 "data": str(media / "videos.csv"), "images": str(media / "images.csv"),
                                 "image_share": 0.5, "out": str(tmp_path / "sft")})
    train(sft.build(config), config)
    wide = SampleConfig(source=str(tmp_path / "sft"), prompts=str(tmp_path / "prompts.txt"), out=str(tmp_path / "wide"),
                        size="16x48", frames=5, steps=1, batch_size=2, device="cpu", format="npy")
    (tmp_path / "prompts.txt").write_text("surfing\narchery\n")
    sample(wide)
    clip = np.load(tmp_path / "wide" / "0000-0.npy")
    assert clip.shape == (5, 16, 48, 3)
    (tmp_path / "wide" / "0000-0.json").unlink()
    sample(wide)  # alone, the other being there
    assert np.array_equal(np.load(tmp_path / "wide" / "0000-0.npy"), clip)
    with pytest.raises(UsageError, match="shape '5x16x48', now None"):
        sample(replace(wide, size="", frames=0))
    for wrong, why in (({"size": "20x48"}, "multiples of 8"), ({"frames": 4}, "4k"), ({"size": "wide"}, "HxW")):
        with pytest.raises(UsageError, match=why):
            sample(replace(wide, out=str(tmp_path / "other"), **wrong))


@pytest.mark.parametrize(("flags", "why"), [
    ({"data": "world"}, "made-up world are all of one shape"),
    ({"buckets": False, "images": "a.csv"}, "expected --buckets"),
    ({"buckets": False, "image_share": 0.5}, "expected --buckets")])
def test_flags_that_do_not_go_together_are_refused(flags, why, media):
    wanted = RUN | {"preset": "smoke", "data": str(media / "all.csv"), "out": "nowhere"} | flags
    for module in (pretrain, sft):
        with pytest.raises(UsageError, match=why):
            module.build(module.Config(**wanted))


def test_rewards_do_not_compare_clips_of_several_shapes(media):
    with pytest.raises(UsageError, match="goes without --reward"):
        sft.build(sft.Config(buckets=True, reward="farm", select="top", data=str(media / "all.csv")))
