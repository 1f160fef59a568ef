"""The arena in a browser: votes by keyboard and mouse, without an error and without a request to anywhere else."""
from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from arenas import fill_arena, served

from leaderboards.arena_store import ArenaStore


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A database with three pairs and no vote; a model is named as if to be run."""
    return fill_arena(tmp_path_factory.mktemp("arena"), 3, ("<img src=x onerror=alert(1)>", "two"), frames=16)


@pytest.fixture
def votes(tmp_path, filled):
    return str(shutil.copy(filled, tmp_path / "votes.db"))


@pytest.fixture
def page(browser):
    """A page that fails the test for an error in its console, or a request that leaves this machine."""
    context = browser.new_context()
    page, wrong = context.new_page(), []
    page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("http://127.0.0.1:") else wrong.append(asked.url))
    yield page
    context.close()
    assert not wrong


@pytest.mark.timeout(120)
def test_people_vote_by_keyboard_and_by_mouse(votes, page):
    with served("--out", votes, "--title", "<b>Which?</b>") as where:
        _start(page, where)
        for key in ("ArrowLeft", "ArrowRight", "Backspace", "ArrowDown", "4"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        _until(page, "() => document.getElementById('progress').textContent.includes('1 answered')")

        _wait_for_videos(page)
        assert page.is_disabled("#send")
        for row, spoken in enumerate(("B is better", "A is better", "Tie")):
            page.locator(".question").nth(row).get_by_role("radio", name=spoken).click()
        page.click("#play")
        page.keyboard.press("Enter")  # sends, wherever the mouse was
        _until(page, "() => document.getElementById('progress').textContent.includes('2 answered')")

        prompt = page.inner_text("#prompt")
        page.reload()  # the open question comes again
        _wait_for_videos(page)
        assert page.inner_text("#prompt") == prompt
        page.click("#skip")
        page.wait_for_selector("#done:visible")
        assert page.inner_text("#title") == "<b>Which?</b>"  # as text

        page.goto(f"{where}/results")
        page.wait_for_selector("table")
        assert "2 votes on 2 of 3 pairs, 1 skipped" in page.inner_text("#progress")
        assert "<img src=x onerror=alert(1)>" in page.inner_text("#results")
    given = [dict(vote.answers) for vote in ArenaStore(votes).votes()]
    assert given == [{"visual": "left", "motion": "tie", "text": "bad"},
                     {"visual": "right", "motion": "left", "text": "tie"}, {}]


@pytest.mark.timeout(120)
def test_a_vote_given_while_the_server_is_away_arrives_when_it_is_back(votes, browser):
    page = browser.new_context().new_page()
    with served("--out", votes) as where:
        _start(page, where)
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#notice:visible")
    with served("--out", votes, port=int(where.rpartition(":")[2])):
        _until(page, "() => document.getElementById('progress').textContent.includes('1 answered')")
        page.wait_for_selector("#notice", state="hidden")
    assert [dict(vote.answers) for vote in ArenaStore(votes).votes()] == [
        {"visual": "left", "motion": "right", "text": "tie"}]


@pytest.mark.timeout(120)
def test_the_two_videos_stay_together(votes, page):
    with served("--out", votes) as where:
        _start(page, where)
        page.evaluate("() => { document.getElementById('right').currentTime = 1.5; }")
        _until(page, "() => Math.abs(document.getElementById('left').currentTime"
                     " - document.getElementById('right').currentTime) < 0.15")
        page.keyboard.press(" ")
        _until(page, "() => [...document.querySelectorAll('video')].every((video) => video.paused)")


def _start(page, where: str) -> None:
    page.goto(where)
    page.fill("#rater", "ann")
    page.keyboard.press("Enter")
    _wait_for_videos(page)


def _wait_for_videos(page) -> None:
    _until(page, "() => [...document.querySelectorAll('video')].every((video) => video.readyState >= 2 "
                 "&& !video.closest('[hidden]'))")


def _until(page, condition: str, seconds: float = 20) -> None:
    """As `wait_for_function`, which the page's Content-Security-Policy does not allow."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)
