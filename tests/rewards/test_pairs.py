"""Files of preference pairs: what is read, what is refused, and that splits share nothing."""
import json

import pytest

from evalkit.errors import UsageError
from rewards.data import Pair, group_pairs, read_pairs, split_pairs, write_pairs

GOOD = {"chosen": "a.mp4", "rejected": "b.mp4", "prompt": "a red star"}


@pytest.fixture
def folder(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.mp4").touch()
    return tmp_path


def written(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_what_is_written_is_read_back(folder):
    pairs = [Pair(str(folder / "a.mp4"), str(folder / "b.mp4"), "x"),
             Pair(str(folder / "c.mp4"), str(folder / "b.mp4"), "y", True, "motion", "r1")]
    found = read_pairs(write_pairs(folder / "pairs.jsonl", pairs))
    assert found.pairs == pairs and found.lines == [1, 2] and found.bad == []


def test_videos_are_looked_for_beside_the_file_and_columns_have_defaults(folder):
    (pair,) = read_pairs(written(folder, GOOD)).pairs
    assert pair == Pair(str(folder / "a.mp4"), str(folder / "b.mp4"), "a red star", False, "overall", "")


@pytest.mark.parametrize(("row", "message"), [
    ("{", "line 2: not JSON"),
    ("[1]", "line 2: expected a JSON object, got list"),
    (GOOD | {"rejected": None}, "line 2: one-sided: expected a video as 'rejected', got None"),
    ({"chosen": "a.mp4", "prompt": "x"}, "line 2: one-sided"),
    (GOOD | {"prompt": " "}, "line 2: expected a prompt"),
    (GOOD | {"tie": "no"}, "line 2: tie: expected true or false, got 'no'"),
    (GOOD | {"dimension": "beauty"}, "line 2: dimension: expected one of visual, motion, text, overall, got 'beauty'"),
    (GOOD | {"rejected": "a.mp4"}, "line 2: a video against itself"),
    (GOOD | {"rejected": "z.mp4"}, "line 2: missing video: found no rejected .*z.mp4"),
    (GOOD | {"winner": "a"}, "line 2: unknown columns winner"),
])
def test_a_bad_row_is_told_with_its_line(folder, row, message):
    path = written(folder, GOOD, row)
    with pytest.raises(UsageError, match=message):
        read_pairs(path)
    found = read_pairs(path, max_failures=1)
    assert len(found.pairs) == 1 and [bad.line for bad in found.bad] == [2]


def test_both_rows_of_a_contradiction_are_left_out(folder):
    other = {"chosen": "c.mp4", "rejected": "d.mp4", "prompt": "a red star"}
    path = written(folder, GOOD, other, GOOD | {"chosen": "b.mp4", "rejected": "a.mp4"})
    with pytest.raises(UsageError, match="line 1: contradictory: the same pair answers otherwise in line 3"):
        read_pairs(path)
    assert [bad.line for bad in read_pairs(path, 2).bad] == [1, 3]
    assert read_pairs(path, 2).lines == [2]


def test_raters_dimensions_and_prompts_may_differ_and_an_answer_may_be_repeated(folder):
    turned = GOOD | {"chosen": "b.mp4", "rejected": "a.mp4"}
    rows = [GOOD, GOOD, turned | {"rater": 7}, turned | {"dimension": "text"}, turned | {"prompt": "a blue star"}]
    assert len(read_pairs(written(folder, *rows)).pairs) == 5


def test_a_tie_contradicts_a_choice(folder):
    with pytest.raises(UsageError, match="contradictory"):
        read_pairs(written(folder, GOOD, GOOD | {"tie": True}))


def test_empty_missing_and_wholly_bad_files_are_one_error_each(folder):
    with pytest.raises(UsageError, match="found no file"):
        read_pairs(folder / "none.jsonl")
    with pytest.raises(UsageError, match="empty file"):
        read_pairs(written(folder, ""))
    with pytest.raises(UsageError, match="at least one good pair, all 1 rows are bad"):
        read_pairs(written(folder, "{"), max_failures=9)
    (folder / "bytes.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match="UTF-8"):
        read_pairs(folder / "bytes.jsonl")


def test_no_video_and_no_prompt_is_in_two_parts():
    pairs = [Pair(f"v{k}", f"v{(k * 7 + 1) % 60}", f"p{k % 23}") for k in range(0, 60, 2)]
    pairs += [Pair(f"w{k}", f"u{k}", f"q{k // 2}") for k in range(60)]
    parts = split_pairs(pairs, (0.6, 0.2, 0.2), seed=3)
    assert sorted(index for part in parts for index in part) == list(range(len(pairs)))
    for what in (lambda p: (p.chosen, p.rejected), lambda p: (p.prompt,)):
        sides = [{name for index in part for name in what(pairs[index])} for part in parts]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert [round(len(part) / len(pairs), 1) for part in parts] == [0.6, 0.2, 0.2]


def test_pairs_hang_together_through_chains_of_videos_and_prompts():
    pairs = [Pair("a", "b", "p"), Pair("x", "y", "q"), Pair("c", "d", "p"), Pair("d", "e", "r"), Pair("z", "w", "s")]
    assert group_pairs(pairs) == [[0, 2, 3], [1], [4]]


def test_splits_depend_on_the_seed_alone_and_leave_no_part_empty():
    pairs = [Pair(f"a{k}", f"b{k}", f"p{k}") for k in range(12)]
    assert split_pairs(pairs, (0.8, 0.1, 0.1), 1) == split_pairs(pairs, (0.8, 0.1, 0.1), 1)
    assert split_pairs(pairs, (0.8, 0.1, 0.1), 1) != split_pairs(pairs, (0.8, 0.1, 0.1), 2)
    assert all(split_pairs(pairs[:3], (0.98, 0.01, 0.01)))


def test_one_prompt_for_all_pairs_cannot_be_split():
    with pytest.raises(ValueError, match="share no video and no prompt, got 1 among 5"):
        split_pairs([Pair(f"a{k}", f"b{k}", "p") for k in range(5)], (0.8, 0.2))
    with pytest.raises(ValueError, match="shares"):
        split_pairs([Pair("a", "b", "p")], (0.5, 0.2))
