"""Which videos a user means, and which prompt belongs to which: no video twice, none lost, every error says where."""
from __future__ import annotations

import csv
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evalkit.data.datasets import DATASETS, MissingVideos, VideoItem, find_videos
from evalkit.data.items import natural_key
from evalkit.data.kinetics import read_kinetics
from evalkit.data.ucf101 import class_prompt, read_ucf101, read_ucf101_zips
from evalkit.data.webvid import read_webvid


@pytest.fixture(autouse=True)
def media(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpacked videos go to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("media")
    monkeypatch.setenv("EVALKIT_MEDIA", str(folder))
    return folder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def names(items: list[VideoItem]) -> list[str]:
    return [item.name for item in items]


def write_csv(path: Path, *rows: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)
    return path


# Folders, globs, files, lists


def test_a_folder_gives_videos_in_natural_order_and_nothing_else(tmp_path):
    touch(tmp_path, "clip10.mp4", "clip2.mp4", "Sub/a.GIF", "Sub/b.npz", "notes.txt", "index.csv", "cover.png",
          ".hidden.mp4", ".cache/x.mp4", "__MACOSX/y.mp4")
    assert names(find_videos(tmp_path)) == ["clip2.mp4", "clip10.mp4", "Sub/a.GIF", "Sub/b.npz"]


def test_non_video_content_with_a_video_suffix_is_an_item_that_fails_later(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert names(find_videos(tmp_path)) == ["empty.mp4", "gone.mp4"]


def test_a_sub_folder_of_numbered_images_is_one_video(tmp_path):
    touch(tmp_path, "run/frame_0001.png", "run/frame_0002.png", "plain/1.jpg", "plain/2.jpg", "mixed/0001.png",
          "mixed/a.mp4", "named/cat.png", "named/dog.png", "two/a1.png", "two/b1.png")
    items = find_videos(tmp_path)
    assert names(items) == ["mixed/a.mp4", "plain", "run"]
    assert items[1].source == tmp_path / "plain"
    assert names(find_videos(tmp_path / "run")) == ["run"]


def test_still_webp_frames_are_one_video_and_animated_ones_are_each_a_video(tmp_path):
    from PIL import Image

    images = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 90, 180)]
    (tmp_path / "frames").mkdir()
    (tmp_path / "videos").mkdir()
    for i in (1, 2):
        images[i].save(tmp_path / f"frames/{i}.webp")
        images[0].save(tmp_path / f"videos/{i}.webp", save_all=True, append_images=images[1:], duration=100)
    assert names(find_videos(tmp_path)) == ["frames", "videos/1.webp", "videos/2.webp"]


def test_a_link_back_up_does_not_count_videos_twice(tmp_path):
    touch(tmp_path, "a/x.mp4")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert names(find_videos(tmp_path)) == ["a/x.mp4"]


def test_a_glob_names_videos_from_its_fixed_part_and_skips_other_files(tmp_path):
    touch(tmp_path, "m1/a.mp4", "m2/a.mp4", "m2/a.txt", "f/1/0001.png", "f/1/0002.png")
    assert names(find_videos(f"{tmp_path}/m*/*")) == ["m1/a.mp4", "m2/a.mp4"]
    assert names(find_videos(f"{tmp_path}/m*")) == ["m1/a.mp4", "m2/a.mp4"]
    assert names(find_videos(f"{tmp_path}/f/*")) == ["1"]
    assert names(find_videos(f"{tmp_path}/**/*.mp4")) == ["m1/a.mp4", "m2/a.mp4"]


def test_a_file_whose_name_looks_like_a_glob_is_found_as_it_is(tmp_path):
    touch(tmp_path, "a cat [close-up]-0.mp4")
    assert names(find_videos(tmp_path / "a cat [close-up]-0.mp4")) == ["a cat [close-up]-0.mp4"]


def test_a_list_keeps_its_order_and_holds_paths_items_and_arrays(tmp_path):
    touch(tmp_path, "b/x.mp4", "a/x.mp4")
    given = VideoItem(tmp_path / "c.mp4", "mine", prompt="a cat")
    array = np.zeros((2, 8, 8, 3), np.uint8)
    items = find_videos([tmp_path / "b/x.mp4", str(tmp_path / "a/x.mp4"), given, array])
    assert names(items) == ["b/x.mp4", "a/x.mp4", "mine", "array-00003"]
    assert items[3].source is array
    with pytest.raises(ValueError, match="expected each video once"):
        find_videos([tmp_path / "b/x.mp4", tmp_path / "b/x.mp4"])
    with pytest.raises(ValueError, match="entry 0: expected a path, a VideoItem or an array"):
        find_videos([3])


def test_no_video_at_all_says_what_was_looked_for_and_where(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=rf"found no video in {tmp_path}.*\.mp4"):
        find_videos(tmp_path)
    with pytest.raises(ValueError, match=r"found nothing at /nowhere.*ucf101:FOLDER"):
        find_videos("/nowhere")
    with pytest.raises(ValueError, match="found no video"):
        find_videos([])


def test_natural_order_is_total():
    shuffled = ["b", "a10", "A10", "a2", "a02", "10", "2", "2a"]
    assert sorted(shuffled, key=natural_key) == sorted(reversed(shuffled), key=natural_key)
    assert sorted(["v10", "v9", "v1"], key=natural_key) == ["v1", "v9", "v10"]


# Data sets by name


def test_class_names_become_words():
    words = {"PlayingViolin": "playing violin", "YoYo": "yo yo", "TaiChi": "tai chi", "Archery": "archery",
             "CleanAndJerk": "clean and jerk", "HandstandPushups": "handstand pushups", "JumpRope": "jump rope"}
    assert {name: class_prompt(name) for name in words} == words


def make_ucf(root: Path) -> Path:
    touch(root, "UCF-101/YoYo/v_YoYo_g01_c01.avi", "UCF-101/YoYo/v_YoYo_g08_c01.avi",
          "UCF-101/Archery/v_Archery_g08_c10.avi", "UCF-101/Archery/v_Archery_g08_c02.avi")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist02.txt").write_bytes(b"YoYo/v_YoYo_g08_c01.avi 101\r\nArchery/v_Archery_g08_c02.avi 3\r\n"
                                            b"Archery/v_Archery_g08_c10.avi 3\r\nArchery/v_Archery_g09_c01.avi 3\r\n")
    (lists / "testlist02.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n")
    return root


def test_ucf101_splits_follow_the_official_lists(tmp_path):
    root = make_ucf(tmp_path)
    (test,) = read_ucf101(root, split=2, part="test")
    assert (test.name, test.prompt) == ("YoYo/v_YoYo_g01_c01.avi", "yo yo")
    assert test.extra == {"class": "YoYo", "group": "g01", "clip": "c01", "split": "2", "part": "test"}
    with pytest.warns(MissingVideos, match="1 of 4 listed videos have no file"):
        train = find_videos(f"ucf101:{root}?split=2&part=train")
    assert names(train) == ["Archery/v_Archery_g08_c02.avi", "Archery/v_Archery_g08_c10.avi",
                            "YoYo/v_YoYo_g08_c01.avi"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_videos(f"ucf101:{root}?split=2&part=train&keep_missing=true")) == 4
        assert len(find_videos(f"ucf101:{root}")) == 4


def test_ucf101_errors_say_what_is_missing(tmp_path):
    root = make_ucf(tmp_path)
    with pytest.raises(ValueError, match=r"found no trainlist01.txt; looked for .*ucfTrainTestlist"):
        read_ucf101(root, split=1, part="train")
    with pytest.raises(ValueError, match="expected part to be one of train, test, all, got 'val'"):
        read_ucf101(root, part="val")
    (root / "ucfTrainTestlist" / "testlist03.txt").write_text("YoYo/v_YoYo_g01_c01.avi\nnonsense\n")
    with pytest.raises(ValueError, match=r"line 2: expected Class/video.avi"):
        read_ucf101(root, split=3, part="test")
    with pytest.raises(ValueError, match="expected options split, part, keep_missing, got 'spilt'"):
        find_videos(f"ucf101:{root}?spilt=1")
    with pytest.raises(ValueError, match="expected split as a number, got 'one'"):
        find_videos(f"ucf101:{root}?split=one")
    with pytest.raises(ValueError, match=r"expected class folders with .avi files, or zips"):
        read_ucf101(touch(tmp_path / "void", "a.txt"))


def test_the_real_clips_of_ucf101_come_out_by_split(assets):
    root = assets / "data/ucf101/clips64"
    counts = {part: len(find_videos(f"ucf101:{root}?part={part}")) for part in ("train", "test", "all")}
    assert counts == {"train": 529, "test": 202, "all": 731}
    items = read_ucf101_zips(root)
    assert all(item.source.stat().st_size > 1000 for item in items)
    assert {item.prompt for item in items} == {"archery", "basketball dunk", "horse race", "playing piano",
                                               "playing violin", "surfing"}
    # The official rule of split 1: groups 1 to 7 test, 8 to 25 train.
    assert all((int(item.extra["group"][1:]) <= 7) == (item.extra["part"] == "test") for item in items)


def test_the_zips_and_the_official_lists_agree_on_the_split(assets):
    root = assets / "data/ucf101"
    with pytest.warns(MissingVideos, match="3741 of 3783"):
        avis = read_ucf101(root, split=1, part="test")
    zipped = {item.name.removesuffix(".mp4") for item in read_ucf101_zips(root / "clips64", part="test")}
    assert len(avis) == 42
    assert {item.name.removesuffix(".avi") for item in avis} <= zipped


def test_a_clip_that_the_index_lists_and_the_zip_lacks_stays_an_item(tmp_path):
    with zipfile.ZipFile(tmp_path / "YoYo.zip", "w") as archive:
        archive.writestr("index.csv", "file,class,group,clip,split1\n"
                                      "a.mp4,YoYo,g01,c01,test\nb.mp4,YoYo,g01,c02,test\n")
        archive.writestr("a.mp4", b"video")
    a, b = read_ucf101_zips(tmp_path)
    assert a.source.read_bytes() == b"video" and not b.source.exists()
    with pytest.raises(ValueError, match=r"expected index.csv with columns file, class, group, clip, split2"):
        read_ucf101_zips(tmp_path, split=2)


def test_webvid_finds_flat_and_paged_videos_and_counts_the_missing(tmp_path):
    touch(tmp_path, "1.mp4", "videos/p1_p2/2.mp4")
    write_csv(tmp_path / "t.csv", ["videoid", "name", "page_dir"], ["1", "a cat, running", "p9"],
              ["2", "a dog", "p1_p2"], ["3", "a bee", "p1_p2"], ["../1", "escape", ""])
    with pytest.warns(MissingVideos, match=r"2 of the 4 rows of t.csv have no video.*first 3.mp4"):
        items = find_videos(f"webvid:{tmp_path}")
    assert {item.name: item.prompt for item in items} == {
        "1.mp4": "a cat, running", "videos/p1_p2/2.mp4": "a dog"}
    assert len(read_webvid(tmp_path, keep_missing=True)) == 4
    write_csv(tmp_path / "u.csv", ["videoid", "name"], ["1", "x"])
    with pytest.raises(ValueError, match=r"found t.csv, u.csv; name it"):
        read_webvid(tmp_path)


def test_the_real_webvid_table_gives_its_captions(assets):
    with pytest.warns(MissingVideos, match="4990 of the 4999"):
        items = find_videos(f"webvid:{assets}/data/webvid?csv=webvid_2M_val.csv")
    subset = read_webvid(assets / "data/webvid", csv="results_2M_val_subset.csv")
    assert len(items) == 9 and [i.prompt for i in items] == [i.prompt for i in subset]
    assert items[0].prompt == "Horse grazing - seperated on green screen"


def test_kinetics_segments_are_found_in_label_folders_or_flat(tmp_path):
    table = tmp_path / "val.csv"
    write_csv(table, ["label", "youtube_id", "time_start", "time_end", "split"],
              ["air drumming", "abc-_123XYZ", "3", "13", "val"], ["yoga", "Q", "0", "10", "val"],
              ["yoga", "R", "100", "110", "train"], ["yoga", "S", "1", "11", "val"])
    touch(tmp_path, "air_drumming/abc-_123XYZ_000003_000013.mp4", "Q_000000_000010.mp4",
          "train/yoga/R_000100_000110.mp4")
    with pytest.warns(MissingVideos, match=r"1 of the 3 rows.*first S_000001_000011.mp4"):
        items = find_videos(f"kinetics:{tmp_path}?part=val")
    assert {item.name: item.prompt for item in items} == {
        "Q_000000_000010.mp4": "yoga", "air_drumming/abc-_123XYZ_000003_000013.mp4": "air drumming"}
    assert len(read_kinetics(tmp_path, keep_missing=True)) == 4
    with pytest.raises(ValueError, match="no row of split 'test'"):
        read_kinetics(tmp_path, part="test")


def test_kinetics_of_the_official_validation_split_lies_in_its_short_folder(tmp_path):
    write_csv(tmp_path / "validate.csv", ["label", "youtube_id", "time_start", "time_end", "split"],
              ["yoga", "Q", "0", "10", "validate"])
    touch(tmp_path, "val/Q_000000_000010.mp4")
    assert [item.prompt for item in read_kinetics(tmp_path, part="validate")] == ["yoga"]


def test_kinetics_without_a_table_takes_its_labels_from_folders(tmp_path):
    touch(tmp_path, "train/air_drumming/a_000003_000013.mp4", "train/yoga/b_000000_000010.mp4",
          "val/yoga/c_000000_000010.mp4")
    items = find_videos(f"kinetics:{tmp_path}?part=train")
    assert {item.name: item.prompt for item in items} == {
        "train/air_drumming/a_000003_000013.mp4": "air drumming", "train/yoga/b_000000_000010.mp4": "yoga"}
    assert len(read_kinetics(tmp_path)) == 3 and len(read_kinetics(tmp_path / "val")) == 1
    with pytest.raises(ValueError, match="folders test/label; found neither"):
        read_kinetics(tmp_path, part="test")


def test_every_named_data_set_has_an_example_that_is_understood(tmp_path):
    for dataset in DATASETS.values():
        assert dataset.summary and dataset.layout
        if dataset.read:
            with pytest.raises(ValueError, match=f"{dataset.name}: found no folder 'FOLDER'"):
                find_videos(dataset.example)


def test_listing_data_sets_and_suites_imports_neither_torch_nor_pandas():
    code = ("import sys; import evalkit.data.datasets, evalkit.suites as s; s.available_suites();"
            "sys.exit(bool({'torch', 'pandas', 'av', 'pyarrow'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, timeout=60, check=False).returncode == 0
