"""The site as files: the same bytes twice, nothing from outside, of a submission only text, whole or not at all."""
from __future__ import annotations

import hashlib
import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pandas as pd
import pytest
from boards import make_board
from site_board import CLIPS, EVIL, EVIL_PROMPT, change

from evalkit.catalogue import read_catalogue
from evalkit.errors import UsageError
from leaderboards.commands.serve import make_server
from leaderboards.fields import BoardError
from leaderboards.reading import read_board, read_submission
from leaderboards.schema import FileEntry
from leaderboards.site import PAGES, build_site
from leaderboards.site_data import ASSETS


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def read_script(path: Path) -> dict:
    """What a browser gets out of JSON.parse("…") or Site.receive("slug","…")."""
    return json.loads(json.loads(re.search(r'(?<=[(,])"\{.*"(?=\)$)', path.read_text()).group()))


def test_building_twice_gives_the_same_bytes(board, site, tmp_path):
    assert hashes(build_site(board, tmp_path / "again").parent) == hashes(site)


def test_a_second_build_leaves_nothing_of_the_first(tmp_path):
    board = make_board(tmp_path, models=3, prompts=8)
    out = build_site(read_board(board.path), tmp_path / "site").parent
    (board.folder / "model-02.json").unlink()
    build_site(read_board(board.path), out)
    assert not (out / "data/models/model-02.js").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_something_else_is_not_replaced(board, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="no site of ours"):
        build_site(board, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_build_that_fails_leaves_the_site_as_it_was(tmp_path):
    board = make_board(tmp_path, models=2, prompts=8)
    out = build_site(read_board(board.path), tmp_path / "site").parent
    before = hashes(out)
    table = read_submission(board.folder / "model-01.json")
    table.locate(table.videos).write_bytes(table.locate(table.videos).read_bytes() + b" ")
    with pytest.raises(BoardError, match="was changed"):
        build_site(read_board(board.path), out)
    assert hashes(out) == before


@pytest.mark.parametrize("data", [b"no table at all",
                                  pd.DataFrame({"video": ["a.mp4"], "prompt": ["x"], "farm": ["much"]}).to_parquet()])
def test_a_table_that_is_none_is_an_error_that_names_it(tmp_path, data):
    board = make_board(tmp_path, models=2, prompts=8)
    (board.folder / "model-01/videos.parquet").write_bytes(data)
    change(board, "model-01", videos=FileEntry("model-01/videos.parquet", hashlib.sha256(data).hexdigest(), len(data)))
    with pytest.raises(BoardError, match=r"model-01/videos\.parquet: not a (Parquet )?table"):
        build_site(read_board(board.path), tmp_path / "site")
    assert not (tmp_path / "site").exists()


class Links(HTMLParser):
    """Every address that a page points to, and every tag that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.links, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]


@pytest.mark.parametrize("page", PAGES)
def test_pages_point_at_files_of_the_site_alone(site, page):
    found = Links()
    found.feed((site / f"{page}.html").read_text())
    assert all(link == "#main" or (site / link).is_file() for link in found.links)
    assert {"script", "link"} <= found.tags and not {"iframe", "object", "base", "form"} & found.tags


def test_text_of_a_submission_is_in_no_page_and_in_no_script_but_as_a_string(site):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".js", ".css") and path.name != "plotly.js":
            text = path.read_text()
            assert EVIL not in text or path.parts[-2] in ("data", "models")
            assert path.suffix != ".html" or "alert" not in text
    assert read_script(site / "data/models/evil.js")["prompts"][0] == EVIL_PROMPT


def test_a_title_of_markup_is_text(tmp_path):
    board = make_board(tmp_path, models=1, prompts=4)
    content = json.loads(board.path.read_text()) | {"title": "<b>x</b>$page\"'"}
    board.path.write_text(json.dumps(content))
    page = build_site(read_board(board.path), tmp_path / "site").read_text()
    assert "<b>" not in page and "&lt;b&gt;x&lt;/b&gt;$page&quot;&#x27;" in page


def test_a_model_file_has_the_scores_of_its_table(board, site):
    row = read_submission(board.folder / "model-01.json")
    data, table = read_script(site / "data/models/model-01.js"), row.read_videos()
    for place, name in enumerate(board.metrics):
        if name in table:
            assert data["values"][place] == pytest.approx(table[name].tolist(), rel=1e-6)
        else:
            assert data["values"][place] is None
    assert data["videos"] == table["video"].tolist() and data["prompts"] == table["prompt"].tolist()


def test_clips_are_copied_under_names_of_ours(board, site):
    clips = [clip for clip in read_script(site / "data/models/model-03.js")["clips"] if clip]
    row = read_submission(board.folder / "model-03.json")
    assert len(clips) == CLIPS
    for clip, source in zip(clips, row.clips.values(), strict=True):
        assert re.fullmatch(r"clips/model-03/\d+\.mp4", clip)
        assert (site / clip).read_bytes() == row.locate(source).read_bytes()


def test_downloads_hold_every_row_and_agree(board, site):
    sheet, table = pd.read_csv(site / "board.csv"), pd.read_parquet(site / "board.parquet")
    content = json.loads((site / "board.json").read_text())
    assert sheet["slug"].tolist() == table["slug"].tolist() == [row["slug"] for row in content["rows"]]
    assert len(table) == len(list(board.folder.glob("*.json")))
    for name in board.metrics:
        values = [row["scores"][name].get("value") for row in content["rows"]]
        assert table[name].tolist() == pytest.approx([float("nan") if x is None else x for x in values], nan_ok=True)
        assert sheet[name].tolist() == pytest.approx(table[name].tolist(), nan_ok=True)
    lacking = table.set_index("slug").loc["model-02"]
    assert pd.isna(lacking["fvd_mini"]) and lacking["fvd_mini.reason"] == "24 of 128 clips"


def test_a_name_that_is_a_formula_is_text_in_the_sheet(tmp_path):
    board = make_board(tmp_path, models=1, prompts=4, references=False)
    change(board, "model-00", name="=HYPERLINK(1)")
    site = build_site(read_board(board.path), tmp_path / "site").parent
    assert pd.read_csv(site / "board.csv")["name"].tolist() == ["'=HYPERLINK(1)"]
    assert pd.read_parquet(site / "board.parquet")["name"].tolist() == ["=HYPERLINK(1)"]


def test_reward_cards_are_linked_from_their_metrics(board, tmp_path):
    (tmp_path / "farm.html").write_text("<p>the card</p>")
    site = build_site(board, tmp_path / "site", cards=tmp_path).parent
    cards = {metric["name"]: metric["card"] for metric in read_script(site / "data/board.js")["metrics"]}
    assert cards.pop("farm") == "cards/farm.html" and set(cards.values()) == {None}
    assert (site / "cards/farm.html").read_text() == "<p>the card</p>"
    with pytest.raises(BoardError, match="reward cards"):
        build_site(board, tmp_path / "other", cards=site)


def test_weaknesses_are_those_of_metrics_that_exist():
    known = {metric["name"] for metric in read_catalogue()["metrics"]}
    assert set(json.loads((ASSETS / "weaknesses.json").read_text())) <= known


def test_a_board_without_rows_builds(tmp_path):
    board = make_board(tmp_path, models=0, references=False)
    site = build_site(read_board(board.path), tmp_path / "site").parent
    assert read_script(site / "data/board.js")["rows"] == []


def test_the_server_gives_the_site_and_nothing_beside_it(site):
    (site.parent / "secret.txt").write_text("not yours")
    server = make_server(site, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert urlopen(f"{address}/").read() == (site / "index.html").read_bytes()
        part = urlopen(Request(f"{address}/index.html", headers={"Range": "bytes=3-9"}))  # as Safari asks for videos
        assert (part.status, part.read()) == (206, (site / "index.html").read_bytes()[3:10])
        assert part.headers["Content-Range"] == f"bytes 3-9/{(site / 'index.html').stat().st_size}"
        with pytest.raises(HTTPError, match="416"):
            urlopen(Request(f"{address}/index.html", headers={"Range": "bytes=99999999-"}))
        for path in ("/data/", "/../secret.txt", "/%2e%2e/secret.txt"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(address + path)
    finally:
        server.shutdown()
        server.server_close()


def test_serving_a_folder_that_is_no_site_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no site"):
        make_server(tmp_path, 0)
