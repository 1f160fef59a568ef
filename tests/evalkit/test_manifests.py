"""Tables of videos: every kind reads alike, and every error names its line."""
from __future__ import annotations

import json

import pytest

from evalkit.data.datasets import VideoItem, find_videos


def names(items: list[VideoItem]) -> list[str]:
    return [item.name for item in items]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_table_lists_the_same_videos(tmp_path, suffix):
    table = tmp_path / f"set{suffix}"
    rows = [{"Video": "b/2.mp4", "caption": "a dog", "seed": 2**62 + 1, "fps": 8, "Model": "m"},
            {"Video": "b/1.mp4", "caption": "a cat", "seed": None, "fps": None, "Model": None}]
    if suffix == ".jsonl":
        table.write_text("\n\n".join(map(json.dumps, rows)))
    elif suffix == ".json":
        table.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        sep = "," if suffix == ".csv" else "\t"
        lines = [sep.join(rows[0])] + [sep.join("" if v is None else str(v) for v in row.values()) for row in rows]
        table.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    one, two = find_videos(table)
    assert (one.name, one.prompt, one.seed, one.fps, dict(one.extra)) == ("b/1.mp4", "a cat", None, None, {})
    assert (two.source, two.seed, two.fps, dict(two.extra)) == (tmp_path / "b/2.mp4", 2**62 + 1, 8.0, {"Model": "m"})


def test_a_listed_file_that_does_not_exist_stays_an_item(tmp_path):
    (tmp_path / "set.csv").write_text("path\ngone.mp4\n../elsewhere/x.mp4\n")
    assert names(find_videos(tmp_path / "set.csv")) == ["../elsewhere/x.mp4", "gone.mp4"]


@pytest.mark.parametrize(("content", "message"), [
    ('{"path": "a.mp4"}\n{"path": ', "line 2: expected a JSON object"),
    ('{"path": "a.mp4"}\n[1]', "line 2: expected a JSON object, got list"),
    ('{"path": "a.mp4"}\n{"prompt": "x"}', "line 2: expected a file in column 'path', got None"),
    ('{"path": "a.mp4", "seed": "x"}', "line 1: expected seed as int, got 'x'"),
    ('{"path": "a.mp4", "fps": -1}', "line 1: expected fps above 0"),
    ('{"path": "a.mp4"}\n{"path": "./a.mp4"}', "expected each video once, got 'a.mp4' twice"),
    ('{"clip": "a.mp4", "words": "x"}', r"expected a column path .*got clip, words"),
    ('{"video": "a.mp4", "file": "b.mp4"}', "columns video, file could all be the 'path' column"),
    ("", "got an empty table"),
])
def test_a_bad_table_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "set.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        find_videos(tmp_path / "set.jsonl")


def test_bytes_that_are_no_text_are_refused_with_the_file(tmp_path):
    (tmp_path / "set.csv").write_bytes(b"path\n\xff\xfe.mp4\n")
    with pytest.raises(ValueError, match=r"set\.csv: expected UTF-8 text"):
        find_videos(tmp_path / "set.csv")


def test_a_csv_row_with_too_many_cells_is_refused_with_its_line(tmp_path):
    (tmp_path / "set.csv").write_text("path,prompt\na.mp4,a cat, running\n")
    with pytest.raises(ValueError, match=r"line 2: expected 2 cells \(path, prompt\)"):
        find_videos(tmp_path / "set.csv")
