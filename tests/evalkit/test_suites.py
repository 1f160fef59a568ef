"""Suites: what ships is valid, others' prompt files import whole, and a folder is scored as it lies."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.data.datasets import UnmatchedPrompts
from evalkit.suites import IMPORTERS, Suite, SuitePrompt, available_suites, import_suite, load_suite, match_videos

FILES = {"vbench": "VBench_full_info.json", "vbench2": "VBench2_full_info.json",
         "evalcrafter": "evalcrafter_prompt700.txt", "t2v_compbench": "t2v_compbench", "fetv": "fetv_data.json"}
SIZES = {"vbench": (946, 4730), "vbench2": (1230, 3 * 1220 + 20 * 10), "evalcrafter": (700, 700),
         "t2v_compbench": (700, 700), "fetv": (619, 619)}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Ours


def test_shipped_suites_hold_what_they_announce():
    suites = available_suites()
    assert list(suites) == ["alignment", "quick", "standard", "world"]
    assert all(suite.name == name and suite.summary for name, suite in suites.items())
    assert set(suites["quick"].metrics) < set(suites["standard"].metrics)
    assert {"diversity", "dynamic_degree", "clip_alignment"} <= set(suites["alignment"].metrics)
    assert not suites["quick"].prompts


def test_the_alignment_prompts_are_distinct_short_and_sampled_several_times():
    suite = load_suite("alignment")
    texts = [prompt.text for prompt in suite.prompts]
    assert len(texts) == len(set(texts)) == 40
    assert max(map(len, texts)) < 80 and suite.samples_per_prompt >= 2
    assert len({prompt.categories for prompt in suite.prompts}) >= 8
    assert [prompt.index for prompt in suite.prompts] == list(range(40))


def test_an_unknown_suite_names_those_that_exist():
    with pytest.raises(ValueError, match=r"unknown suite 'nope'; there are: alignment, quick, standard.*vbench:PATH"):
        load_suite("nope")
    with pytest.raises(ValueError, match=r"found no suite /nowhere/mine\.toml"):
        load_suite("/nowhere/mine.toml")


def test_a_users_own_suite_is_read_from_its_path(tmp_path):
    path = write(tmp_path / "mine.toml", 'name = "mine"\nsummary = "s"\nmetrics = ["farm"]\nsamples_per_prompt = 2\n'
                 'naming = ["{index:03d}_{sample}"]\n[prompts]\nanimals = ["a cat", "a dog"]\n')
    suite = load_suite(path)
    assert suite.prompts[1] == SuitePrompt("a dog", 1, ("animals",))
    assert (suite.protocol, suite.file_names(suite.prompts[1], 1)) == ("default", ["001_1"])


@pytest.mark.parametrize(("line", "message"), [
    ('metric = ["x"]', "expected name, summary, metrics and optionally protocol"),
    ("protocol = 3", "expected protocol as text, got 3"),
    ("samples_per_prompt = 0", "samples_per_prompt of at least 1, got 0"),
    ('naming = ["{promt}"]', "expected naming as a list of templates"),
    ('naming = "{prompt}"', "expected naming as a list of templates"),
    ('prompts = ["a cat"]', r"expected \[prompts\] as a table of lists"),
    ('prompts = {a = ["a cat"], b = ["a cat"]}', "expected each prompt once, as text; got 'a cat' in 'b'"),
    ("metrics = ", "mine.toml: "),
])
def test_a_faulty_suite_is_refused_with_the_reason(tmp_path, line, message):
    path = write(tmp_path / "mine.toml", f'name = "mine"\nsummary = "s"\nmetrics = ["farm"]\n{line}\n')
    with pytest.raises(ValueError, match=message):
        load_suite(path)


def test_metrics_must_be_a_list_of_names(tmp_path):
    with pytest.raises(ValueError, match="expected metrics as a list of names, got 'farm'"):
        load_suite(write(tmp_path / "mine.toml", 'name = "m"\nsummary = "s"\nmetrics = "farm"\n'))


# Others'


@pytest.mark.parametrize("kind", FILES)
def test_real_prompt_files_import_whole(assets, kind):
    suite = load_suite(f"{kind}:{assets / 'prompts' / FILES[kind]}")
    videos = sum(prompt.samples or suite.samples_per_prompt for prompt in suite.prompts)
    assert (len(suite.prompts), videos) == SIZES[kind]
    assert all(prompt.text == prompt.text.strip() != "" for prompt in suite.prompts)
    assert set(FILES) == set(IMPORTERS)


def test_imported_prompts_keep_dimensions_and_prescribed_names(assets):
    first = {kind: import_suite(kind, assets / "prompts" / file) for kind, file in FILES.items()}
    names = {kind: suite.file_names(suite.prompts[0], 0)[0] for kind, suite in first.items()}
    assert names == {"vbench": "In a still frame, a stop sign-0", "vbench2": "Camera_Motion/Garden, zoom in.-0",
                     "evalcrafter": "0000", "t2v_compbench": "consistent_attr/0001", "fetv": "0"}
    assert first["vbench"].prompts[0].categories == ("temporal_flickering",)
    assert len({c for prompt in first["vbench"].prompts for c in prompt.categories}) == 16
    assert len({c for prompt in first["vbench2"].prompts for c in prompt.categories}) == 18
    assert len({c for prompt in first["t2v_compbench"].prompts for c in prompt.categories}) == 7
    long = max(first["vbench2"].prompts, key=lambda prompt: len(prompt.text))
    assert first["vbench2"].file_names(long, 2)[0] == f"{long.categories[0]}/{long.text[:180]}-2"
    assert first["fetv"].prompts[1].text == "a horse race is happening"  # ratings count from 0 as well
    assert "content/temporal: actions" in first["fetv"].prompts[1].categories


def test_evalcrafters_two_files_hold_the_same_prompts(assets):
    plain = import_suite("evalcrafter", assets / "prompts/evalcrafter_prompt700.txt")
    rich = import_suite("evalcrafter", assets / "prompts/evalcrafter_metadata.json")
    assert [p.text for p in plain.prompts] == [p.text for p in rich.prompts]
    assert rich.prompts[0].categories == ("count",) and rich.prompts[0].extra == {"count": "2 dog"}


def test_files_of_another_layout_are_refused(tmp_path, assets):
    with pytest.raises(ValueError, match="unknown kind of suite 'gaia'; there are: vbench, vbench2"):
        import_suite("gaia", tmp_path)
    with pytest.raises(ValueError, match="vbench: found no prompt file"):
        import_suite("vbench", tmp_path / "x.json")
    with pytest.raises(ValueError, match="entry 0: expected 'prompt_en' as str, got"):
        import_suite("vbench", assets / "prompts/phygenbench_prompts.json")
    with pytest.raises(ValueError, match="expected a JSON file"):
        import_suite("vbench", assets / "prompts/fetv_data.json")
    with pytest.raises(ValueError, match=r"found no 1_consistent_attr\.txt"):
        import_suite("t2v_compbench", tmp_path)
    with pytest.raises(ValueError, match="line 1: expected a JSON object"):
        import_suite("fetv", assets / "prompts/vbench_all_dimension.txt")


# Folders as they lie


def vbench(tmp_path: Path, *prompts: dict) -> Suite:
    return import_suite("vbench", write(tmp_path / "info.json", json.dumps(prompts)))


def test_a_vbench_folder_is_matched_as_it_lies_and_the_missing_are_listed(tmp_path, assets):
    suite = import_suite("vbench", assets / "prompts/VBench_full_info.json")
    held = [f"{prompt.text}-{k}.mp4" for prompt in suite.prompts[:20] for k in range(5)]
    folder = touch(tmp_path / "videos", *held[:-1])
    items = match_videos(suite, folder)
    present = [item for item in items if item.source.exists()]
    assert {item.name for item in present} == set(held[:-1])
    assert len(items) == 944 * 5  # two prompts are listed twice, under other dimensions
    assert len({item.name for item in items}) == len(items)
    lost = next(item for item in items if item.name == held[-1])
    assert not lost.source.exists() and lost.prompt == suite.prompts[19].text and lost.seed == 4


def test_one_file_for_two_dimensions_is_one_item_with_both(tmp_path):
    suite = vbench(tmp_path, {"prompt_en": "a cat", "dimension": ["scene"]},
                   {"prompt_en": "a cat", "dimension": ["color", "scene"]})
    items = match_videos(suite, touch(tmp_path / "v", *[f"a cat-{k}.mp4" for k in range(5)]))
    assert [item.extra["categories"] for item in items] == ["scene; color"] * 5


def test_folders_per_dimension_give_every_file_its_prompt(tmp_path):
    suite = vbench(tmp_path, {"prompt_en": "A cat.", "dimension": ["scene", "color"]})
    folder = touch(tmp_path / "v", "scene/A cat.-0.mp4", "color/A cat.-0.mp4", "scene/A cat.-1.gif")
    items = match_videos(suite, folder)
    assert [item.name for item in items] == ["scene/A cat.-0.mp4", "color/A cat.-0.mp4", "scene/A cat.-1.gif",
                                             "A cat.-2.mp4", "A cat.-3.mp4", "A cat.-4.mp4"]
    assert {item.prompt for item in items} == {"A cat."}


def test_frame_folders_with_full_stops_in_their_names_are_matched(tmp_path):
    suite = vbench(tmp_path, {"prompt_en": "Mr. Cat", "dimension": ["scene"]})
    items = match_videos(suite, touch(tmp_path / "v", *[f"Mr. Cat-{k}/{f:04d}.png" for k in range(5) for f in (1, 2)]))
    assert [item.name for item in items] == [f"Mr. Cat-{k}" for k in range(5)]
    assert all(item.source.is_dir() for item in items)


def test_videos_that_belong_to_no_prompt_are_counted_aloud(tmp_path):
    suite = vbench(tmp_path, {"prompt_en": "a cat", "dimension": ["scene"]})
    folder = touch(tmp_path / "v", "a cat-0.mp4", "a cat-5.mp4", "a bat-0.mp4")
    with pytest.warns(UnmatchedPrompts, match="2 of the 3 videos .* belong to no prompt"):
        assert len(match_videos(suite, folder)) == 5
    with pytest.raises(ValueError, match=r"none of the 1 videos .* for example a cat-0\.mp4"):
        match_videos(suite, touch(tmp_path / "w", "7.mp4"))
    with pytest.raises(ValueError, match="suite 'quick' has no prompts of its own"):
        match_videos(load_suite("quick"), folder)


def test_the_numbered_benchmarks_find_their_videos(tmp_path, assets):
    folder = touch(tmp_path / "t2v", "consistent_attr/0001.mp4", "numeracy/0100.mp4")
    t2v = [i for i in match_videos(import_suite("t2v_compbench", assets / "prompts/t2v_compbench"), folder)
           if i.source.exists()]
    assert {i.name: i.prompt for i in t2v} == {
        "consistent_attr/0001.mp4": "A blue car drives past a white picket fence on a sunny day",
        "numeracy/0100.mp4": "Two swans glide gracefully on a tranquil lake."}
    fetv = import_suite("fetv", assets / "prompts/fetv_data.json")
    items = match_videos(fetv, touch(tmp_path / "fetv", "1.gif", "0002.mp4"))
    assert [i.prompt for i in items if i.source.exists()] == ["a horse race is happening", "people are dancing"]
