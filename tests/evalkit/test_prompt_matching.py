"""Which prompt made which video: joined by name or by convention, never guessed, never lost in silence."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.data.datasets import UnmatchedPrompts, find_videos, match_prompts


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def attach(tmp_path: Path, videos: list[str], rows: list[dict], **options):
    folder = touch(tmp_path / "v", *videos)
    table = tmp_path / "prompts.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    return match_prompts(find_videos(folder), table, **options)


def prompts_of(match) -> dict[str, tuple[str | None, int | None]]:
    return {item.name: (item.prompt, item.seed) for item in match.items}


@pytest.mark.parametrize("spelling", ["s/a.mp4", "a.mp4", "a", "outputs/run/s/a.mp4", "./s/a.mp4"])
def test_rows_with_a_video_are_joined_by_path_name_or_stem(tmp_path, spelling):
    match = attach(tmp_path, ["s/a.mp4", "s/b.mp4"], [{"file": spelling, "prompt": "a cat", "seed": 7, "kind": "x"},
                                                     {"file": "zzz.mp4", "prompt": "a bee"}])
    assert prompts_of(match) == {"s/a.mp4": ("a cat", 7), "s/b.mp4": (None, None)}
    assert (match.convention, match.without_prompt, match.without_video) == ("file", ("s/b.mp4",), ("a bee",))
    assert match.items[0].extra == {"kind": "x"}


def test_a_row_that_fits_two_videos_and_a_video_with_two_prompts_are_errors(tmp_path):
    with pytest.raises(ValueError, match="line 1: 'x' fits 2 videos"):
        attach(tmp_path, ["a/x.mp4", "b/x.mp4"], [{"path": "x", "prompt": "p"}])
    with pytest.raises(ValueError, match=r"lines 1 and 2: two prompts for 'a/x.mp4'"):
        attach(tmp_path, [], [{"path": "a/x", "prompt": "p"}, {"path": "a/x.mp4", "prompt": "q"}])


def test_files_named_by_their_prompt_are_matched_also_sanitised_and_cut(tmp_path):
    long = "A very long prompt about a lighthouse keeper who, one night, " + "walks " * 40
    prompts = ["A person is walking.", "a cat-2", "a cat", "Two dogs, one ball", long]
    match = attach(tmp_path, ["A person is walking.-0.mp4", "A person is walking.-1.mp4", "a cat-2.mp4", "a cat-3.mp4",
                              "two_dogs_one_ball_4.mp4", f"{long[:60]}-0.mp4"], [{"prompt": p} for p in prompts])
    assert match.convention == "prompt"
    assert prompts_of(match) == {
        "A person is walking.-0.mp4": (prompts[0], 0), "A person is walking.-1.mp4": (prompts[0], 1),
        "a cat-2.mp4": ("a cat-2", None), "a cat-3.mp4": ("a cat", 3),
        "two_dogs_one_ball_4.mp4": (prompts[3], 4), f"{long[:60]}-0.mp4": (long.strip(), 0),
    }
    assert match.without_prompt == match.without_video == ()


def test_a_cut_name_that_fits_two_prompts_is_an_error(tmp_path):
    common = "a slow walk along the river "
    with pytest.raises(ValueError, match="fits several prompts: lines 1 and 2"):
        attach(tmp_path, [f"{common}-0.mp4"], [{"prompt": common + "at dawn"}, {"prompt": common + "at night"}])


@pytest.mark.parametrize(("videos", "expected"), [
    (["0000.mp4", "0002.mp4"], {"0000.mp4": ("p0", None), "0002.mp4": ("p2", None)}),
    (["1.mp4", "3.mp4"], {"1.mp4": ("p0", None), "3.mp4": ("p2", None)}),
    (["0_2.mp4", "1_0.mp4"], {"0_2.mp4": ("p0", 2), "1_0.mp4": ("p1", 0)}),
    (["prompt0000_seed5.mp4", "prompt0001_seed5.mp4"],
     {"prompt0000_seed5.mp4": ("p0", 5), "prompt0001_seed5.mp4": ("p1", 5)}),
])
def test_numbered_files_are_matched_from_zero_or_from_one(tmp_path, videos, expected):
    match = attach(tmp_path, videos, [{"prompt": f"p{i}"} for i in range(3)])
    assert match.convention == "index"
    assert prompts_of(match) == expected


def test_numbers_that_fit_from_zero_and_from_one_are_an_error_unless_a_column_decides(tmp_path):
    with pytest.raises(ValueError, match=r"number 1 to 2 for 4 prompts.*add a column index"):
        attach(tmp_path, ["1.mp4", "2.mp4"], [{"prompt": f"p{i}"} for i in range(4)])
    rows = [{"prompt": f"p{i}", "index": 10 + i} for i in range(4)]
    match = attach(tmp_path / "again", ["11.mp4", "13.mp4"], rows)
    assert prompts_of(match) == {"11.mp4": ("p1", None), "13.mp4": ("p3", None)}
    with pytest.raises(ValueError, match="lines 1 and 2: expected each index once, got 5 twice"):
        attach(tmp_path, [], [{"prompt": "a", "index": 5}, {"prompt": "b", "index": 5}])


def test_lines_of_text_are_matched_in_order_only_on_request(tmp_path):
    folder = touch(tmp_path / "v", "x.mp4", "y.mp4")
    text = tmp_path / "p.txt"
    text.write_text("a cat\r\na dog\n\n")
    with pytest.raises(ValueError, match=r"none of the 2 videos \(first 'x.mp4'\) fits any of the 2 prompts"):
        find_videos(folder, text)
    match = match_prompts(find_videos(folder), text, in_order=True)
    assert prompts_of(match) == {"x.mp4": ("a cat", None), "y.mp4": ("a dog", None)}
    text.write_text("a cat\n\na dog\n")
    with pytest.raises(ValueError, match="line 2: expected a prompt, got an empty line"):
        match_prompts(find_videos(folder), text, in_order=True)
    text.write_text("a cat\n")
    with pytest.raises(ValueError, match=r"as many prompts as videos \(2\), got 1"):
        match_prompts(find_videos(folder), text, in_order=True)


def test_what_finds_no_partner_is_counted_aloud(tmp_path):
    folder = touch(tmp_path / "v", "0.mp4", "9.mp4")
    (tmp_path / "p.txt").write_text("a\nb\nc")
    with pytest.warns(UnmatchedPrompts, match=r"1 of 2 videos have a prompt.*1 have none; 2 prompts have no video"):
        items = find_videos(folder, tmp_path / "p.txt")
    assert [item.prompt for item in items] == ["a", None]


def test_a_prompts_file_without_prompts_names_its_columns(tmp_path):
    with pytest.raises(ValueError, match=r"expected a column prompt .*got path, words"):
        attach(tmp_path, ["a.mp4"], [{"path": "a.mp4", "words": "x"}])


def test_the_real_ratings_table_joins_all_real_clips(assets):
    folder = assets / "data/generated/fetv"
    match = match_prompts(find_videos(folder), folder / "index.csv")
    assert len(match.items) == 89 and match.without_prompt == match.without_video == ()
    assert {item.extra["model"] for item in match.items} >= {"cogvideo", "ground-truth", "zeroscope"}
    assert match.items[0].extra["CLIPScore"].startswith("0.26")


def test_real_sanitised_file_names_find_their_vbench_prompts(assets):
    match = match_prompts(find_videos(assets / "data/generated/aigve_lavie"),
                          assets / "prompts/vbench_all_dimension.txt")
    assert match.convention == "prompt"
    beach = "a_beautiful_coastal_beach_in_spring_waves_lapping_on_sand"  # two styles that VBench does not have
    assert match.without_prompt == (f"{beach}_chalk_drawing_0.mp4", f"{beach}_claude_monet_style_0.mp4")
    assert len(match.items) == 11
    assert match.items[0].prompt == "A beautiful coastal beach in spring, waves lapping on sand, animated style"
