"""The builders of simulated boards and arenas are modules of this folder; a built site and a browser for its tests."""
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from site_board import make_site_board

from leaderboards.reading import read_board
from leaderboards.site import build_site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return read_board(make_site_board(tmp_path_factory.mktemp("boards")).path)


@pytest.fixture(scope="module")
def site(board, tmp_path_factory):
    """The folder of a built site."""
    return build_site(board, tmp_path_factory.mktemp("built") / "site").parent
