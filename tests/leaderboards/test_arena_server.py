"""The arena's server: no vote lost or doubled, nothing told that raters must not know, nobody let in unasked."""
from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))
from arenas import fill_arena, post, served, start_server, write_clip, write_models

from leaderboards.arena_app import make_app
from leaderboards.arena_store import ArenaStore

VOTES, KINDS = 500, ("left", "right", "tie", "bad")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A database with 520 pairs and no vote: 52 prompts, ten pairs of models."""
    return fill_arena(tmp_path_factory.mktemp("arena"), VOTES // 10 + 2, ("one", "two", "three", "four", "five"))


@pytest.fixture
def store(tmp_path, filled):
    return ArenaStore(str(shutil.copy(filled, tmp_path / "votes.db")))


@pytest.fixture
def client(store):
    return TestClient(make_app(store, seed=0), base_url="http://127.0.0.1")


def vote_many(where: str, rater: str, count: int, acknowledged: dict[str, dict], progress: threading.Semaphore) -> None:
    """As a browser would, with every seventh vote sent again as if its acknowledgement had been lost."""
    with httpx.Client(base_url=where, timeout=20) as client:
        for k in range(count):
            task = post(client, "/api/next", {"rater": rater}).json()["task"]
            answers = {name: KINDS[(k + shift) % 4] for shift, name in enumerate(("visual", "motion", "text"))}
            body = {"rater": rater, "token": task["token"], "answers": answers, "seconds": 1.5}
            for _ in range(1 + (k % 7 == 0)):
                answer = post(client, "/api/vote", body)
                assert answer.status_code == 200, answer.text
            acknowledged[task["token"]] = answers
            progress.release()


@pytest.mark.timeout(120)
def test_two_raters_and_a_killed_server_lose_and_double_no_vote(tmp_path, filled):
    votes = str(shutil.copy(filled, tmp_path / "votes.db"))
    server, where = start_server("--out", votes)
    acknowledged: dict[str, dict[str, dict]] = {"ann": {}, "bob": {}}
    progress = threading.Semaphore(0)
    raters = [threading.Thread(target=vote_many, args=(where, name, VOTES, acknowledged[name], progress))
              for name in acknowledged]
    for rater in raters:
        rater.start()
    for _ in range(VOTES):
        progress.acquire(timeout=60)
    server.kill()
    server.communicate()
    assert any(rater.is_alive() for rater in raters)  # it was in the middle
    again, _ = start_server("--out", votes, port=int(where.rpartition(":")[2]))
    try:
        for rater in raters:
            rater.join(60)
    finally:
        again.kill()
        again.communicate()
    assert [len(found) for found in acknowledged.values()] == [VOTES, VOTES]
    stored = {vote.token: vote for vote in ArenaStore(votes).votes()}
    assert {token: dict(vote.answers) for token, vote in stored.items()} == acknowledged["ann"] | acknowledged["bob"]
    assert len({(vote.rater, vote.pair) for vote in stored.values()}) == 2 * VOTES
    with sqlite3.connect(votes) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (2 * VOTES * 3,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_one_vote_sent_by_many_at_once_is_stored_once(store, client):
    task = client.post("/api/next", json={"rater": "ann"}).json()["task"]
    body = {"rater": "ann", "token": task["token"], "seconds": 2,
            "answers": {"visual": "left", "motion": "tie", "text": "bad"}}
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(client.post("/api/vote", json=body).json()["new"]))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]
    assert len(store.votes()) == 1


def test_the_first_answer_to_a_question_stands(store, client):
    task = client.post("/api/next", json={"rater": "ann"}).json()["task"]
    body = {"rater": "ann", "token": task["token"], "seconds": 2,
            "answers": {"visual": "left", "motion": "tie", "text": "bad"}}
    assert client.post("/api/vote", json=body).status_code == 200
    assert client.post("/api/vote", json=body | {"answers": body["answers"] | {"text": "tie"}}).status_code == 409
    assert client.post("/api/vote", json=body | {"rater": "bob"}).status_code == 404
    assert store.votes()[0].answers["text"] == "bad"


def test_the_server_imports_no_torch():
    check = "import sys, leaderboards.arena_app, leaderboards.arena_samples; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_two_windows_of_one_rater_show_one_question(client):
    one, two = (client.post("/api/next", json={"rater": "ann"}).json()["task"] for _ in range(2))
    assert one == two


@pytest.mark.parametrize("change", [
    {"answers": {"visual": "left"}}, {"answers": {"visual": "left", "motion": "tie", "text": "worse"}},
    {"answers": {"visual": "left", "motion": "tie", "text": "bad", "sound": "bad"}}, {"seconds": -1},
    {"seconds": "NaN"}, {"rater": ""}, {"rater": "a\x00b"}, {"rater": "x" * 65}, {"more": 1}])
def test_a_malformed_vote_is_refused_and_leaves_the_question_open(store, client, change):
    task = client.post("/api/next", json={"rater": "ann"}).json()["task"]
    body = {"rater": "ann", "token": task["token"], "seconds": 2,
            "answers": {"visual": "left", "motion": "tie", "text": "bad"}}
    assert client.post("/api/vote", json=body | change).status_code == 422
    assert not store.votes()
    assert client.post("/api/vote", json=body).json() == {"stored": True, "new": True}


def test_a_question_tells_neither_model_nor_path(store, client):
    told = client.post("/api/next", json={"rater": "ann"}).json()["task"]
    told = " ".join(value for name, value in told.items() if name != "token")  # drawn at random
    secrets = {secret for video in store.videos.values() for secret in (video.model, video.path, video.name)}
    assert not any(secret in told for secret in secrets)


def test_videos_are_served_by_range_and_by_nothing_but_their_ids(store, client):
    video = next(iter(store.videos.values()))
    content = Path(video.playable).read_bytes()
    part = client.get(f"/video/{video.id}", headers={"Range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, content[5:15])
    assert part.headers["content-type"] == "video/mp4"
    for path in ("/video/..%2f..%2fetc%2fpasswd", f"/video/{video.path}", "/video/0.mp4", "/arena.html", "/arena.py",
                 "/docs", "/openapi.json"):
        assert client.get(path).status_code in (404, 422), path


def test_other_hosts_need_a_token_and_a_browser_keeps_it(store):
    client = TestClient(make_app(store, token="s3cret"), base_url="http://arena.example")
    assert client.get("/").status_code == client.post("/api/next", json={"rater": "ann"}).status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    bearer = client.post("/api/next", json={"rater": "ann"}, headers={"Authorization": "Bearer s3cret"})
    assert bearer.status_code == 200
    first = client.get("/?token=s3cret", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert "httponly" in first.headers["set-cookie"].lower()
    assert client.post("/api/next", json={"rater": "ann"}).status_code == 200
    assert client.get(bearer.json()["task"]["left"]).status_code == 200


def test_without_a_token_only_this_machine_is_answered_and_only_json_is_read(store):
    client = TestClient(make_app(store), base_url="http://rebound.example")
    assert client.get("/").status_code == 421
    home = TestClient(make_app(store), base_url="http://localhost:8020")
    page = home.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert home.post("/api/next", content='{"rater": "x"}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert home.post("/api/next", json={"rater": "x" * 2**16}).status_code == 413


def test_a_host_that_others_reach_is_refused_without_a_token(filled):
    with pytest.raises(AssertionError, match="give --token"):
        start_server("--out", filled, "--host", "0.0.0.0")


def test_videos_that_browsers_do_not_play_are_copied_once(tmp_path):
    folders = write_models(tmp_path, 2, pixel_format="yuv444p")
    write_clip(Path(folders[0]) / "odd.mkv", 9, size=(31, 45), codec="ffv1", crf=None)
    for folder in folders:
        rows = (Path(folder) / "prompts.jsonl").read_text()
        if "one" in folder:
            (Path(folder) / "prompts.jsonl").write_text(rows + '{"path": "odd.mkv", "prompt": "odd"}\n')
    with served(*folders, "--out", str(tmp_path / "votes.db")):
        copies = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "votes.db.media").iterdir()}
    assert len(copies) == 2  # one per content; the video that has no partner is not needed
    with served(*folders, "--out", str(tmp_path / "votes.db")) as where:
        assert copies == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "votes.db.media").iterdir()}
        task = httpx.post(f"{where}/api/next", json={"rater": "ann"}).json()["task"]
        (tmp_path / "shown.mp4").write_bytes(httpx.get(where + task["left"]).content)
    from evalkit.data.video import probe
    assert probe(tmp_path / "shown.mp4").pixel_format == "yuv420p"
