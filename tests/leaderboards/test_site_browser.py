"""The site in a browser, from the disk: sorts, filters, opens, compares, plays, without an error or a request out."""
from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from boards import make_board, prompt_of
from site_board import EVIL, EVIL_PROMPT

from evalkit.pareto import hypervolume, pareto_front
from evalkit.statistics import compare_paired, compare_unpaired, holm
from leaderboards.ranking import rank_board
from leaderboards.reading import read_board, read_board_rows, read_submission
from leaderboards.schema import WINS, format_json
from leaderboards.site import PAGES, build_site

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture
def page(browser, site):
    """A page whose errors, dialogs and requests beyond the site fail the test that made them."""
    context = browser.new_context(viewport=DESK, color_scheme="light")
    page, wrong = context.new_page(), []
    page.set_default_timeout(15_000)
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: is_foreign(request.url, site) and wrong.append(request.url))
    yield page
    context.close()
    assert wrong == []


def is_foreign(url: str, site) -> bool:
    parts = urlsplit(url)
    return parts.scheme != "file" or not unquote(parts.path).startswith(str(site.parent))


def visit(page, site, place: str) -> None:
    page.goto("about:blank")
    page.goto(f"{site.as_uri()}/{place}")


def slugs(page) -> list[str]:
    return page.eval_on_selector_all("table.board tbody tr", "rows => rows.map((row) => row.dataset.slug)")


def test_the_overview_sorts_by_any_metric_in_both_directions(page, site, board):
    rows = [row for row in read_board_rows(board) if not row.withdrawal]
    visit(page, site, "index.html")
    for index, name in enumerate(board.metrics):
        known = [row for row in rows if row.scores[name].value is not None]
        higher = board.metrics[name].higher_is_better
        best_first = [row.slug for row in sorted(known, key=lambda row: row.scores[name].value, reverse=higher)]
        null = [row.slug for row in rows if row not in known]
        page.click(f"[data-sort='{index}']")
        assert slugs(page) == best_first + null
        page.click(f"[data-sort='{index}']")
        assert slugs(page) == best_first[::-1] + null
    assert page.get_attribute("th:has([data-sort='0'])", "aria-sort") is None


def test_the_table_sorts_from_the_keyboard_and_keeps_the_focus(page, site):
    visit(page, site, "index.html")
    before = slugs(page)
    page.focus("[data-sort='name']")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    after = [slug for slug in slugs(page) if slug != "evil"]
    assert slugs(page) != before and after == sorted(after, reverse=True)
    assert page.evaluate("document.activeElement.dataset.sort") == "name"


def test_the_overview_filters_by_name_badge_and_kind(page, site):
    visit(page, site, "index.html")
    page.fill("#search", "TINY")
    assert sorted(slugs(page)) == [f"tiny-dpo-{step:04d}" for step in (100, 200, 300, 400)]
    page.fill("#search", "")
    page.get_by_label("verified only").check()
    assert slugs(page) == ["model-00"]
    page.get_by_label("verified only").uncheck()
    assert "model-04" not in slugs(page) and "real" in slugs(page)
    page.get_by_label("withdrawn").check()
    page.get_by_label("reference rows").uncheck()
    assert "model-04" in slugs(page) and "real" not in slugs(page)


def test_a_long_board_is_drawn_a_page_at_a_time(page, tmp_path, browser):
    board = make_board(tmp_path, models=60, prompts=4, references=False)
    site = build_site(read_board(board.path), tmp_path / "site").parent
    context = browser.new_context()
    page = context.new_page()
    visit(page, site, "index.html")
    first = slugs(page)
    page.click("text=Next →")
    assert len(first) == 50 and len(slugs(page)) == 10 and not set(first) & set(slugs(page))
    page.fill("#search", "model-59")
    assert slugs(page) == ["model-59"]
    context.close()


def test_a_model_opens_with_its_numbers_figures_and_history(page, site, board):
    visit(page, site, "index.html")
    page.click("text=tiny-dpo-0200")
    page.wait_for_selector("h1:has-text('tiny-dpo-0200')")
    row = read_submission(board.folder / "tiny-dpo-0200.json")
    shown = page.eval_on_selector_all(".split tbody tr b", "cells => cells.map((cell) => Number(cell.textContent))")
    assert shown == pytest.approx([score.value for score in row.scores.values()], rel=1e-3)
    page.wait_for_selector(".js-plotly-plot .polarlayer .scatterlayer path")
    page.locator("#history").scroll_into_view_if_needed()
    page.wait_for_selector("#history ~ .grid .js-plotly-plot path.point")
    page.locator("#provenance").scroll_into_view_if_needed()
    page.wait_for_selector(".js-plotly-plot .barlayer path")
    assert row.videos.sha256 in page.inner_text("main") and "euler" in page.inner_text("main")


def test_a_model_page_says_who_verified_it_and_how_far_off(page, site):
    visit(page, site, "model.html#model-00")
    page.wait_for_selector("text=Verified")
    assert "by the board's keepers on 2026-11-02: 6 videos (25 %)" in page.inner_text("main")
    assert "0.02 % in farm" in page.inner_text("main")


def test_best_and_worst_videos_play(page, site, board):
    visit(page, site, "model.html#model-01")
    page.wait_for_selector("#play")
    farm = read_submission(board.folder / "model-01.json").read_videos()["farm"][:4]
    captions = page.eval_on_selector_all(".tile b", "cells => cells.map((cell) => Number(cell.textContent))")
    assert captions == pytest.approx(sorted(farm)[::-1][:2] + sorted(farm)[:2], rel=1e-3)
    page.click("#play")
    page.wait_for_function("() => [...document.querySelectorAll('video')].every((video) => video.currentTime > 0.1)")
    page.click("#play")
    assert page.evaluate("[...document.querySelectorAll('video')].every((video) => video.paused)")


def test_two_ticked_rows_are_compared_as_the_paired_test_of_evalkit_says(page, site, board):
    visit(page, site, "index.html")
    for name in ("model-01", "model-03"):
        page.get_by_label(f"compare {name}").check()
    page.click("#compare")
    page.wait_for_selector("tr[data-metric]")
    a, b = (read_submission(board.folder / f"{name}.json") for name in ("model-01", "model-03"))
    expected = expect(board, a, b)
    for name, found in expected.items():
        text = page.inner_text(f"tr[data-metric={name}]").replace("\n", "\t").split("\t")
        numbers = [word.strip() for word in text if word.strip()]
        assert float(numbers[3]) == pytest.approx(found.difference, rel=2e-3)
        low, high = map(float, numbers[4].split(" to "))
        assert (low, high) == pytest.approx(found.ci95, abs=0.05 * (found.ci95[1] - found.ci95[0]))
    p_values = dict(zip(expected, holm([one.p_value for one in expected.values()]), strict=True))
    for name, p_value in p_values.items():
        shown = page.inner_text(f"tr[data-metric={name}] small:has-text('p ')")
        assert float(shown.removeprefix("p ").lstrip("=< ")) == pytest.approx(p_value, abs=0.02)


def expect(board, a, b) -> dict:
    left, right, found = a.read_videos(), b.read_videos(), {}
    for name in board.metrics:
        if name in left:
            found[name] = compare_paired(left[name], right[name], left["prompt"].tolist(), right["prompt"].tolist())
        else:
            one, other = a.scores[name], b.scores[name]
            found[name] = compare_unpaired(one.value, one.ci95, other.value, other.ci95)
    return found


def test_the_browsers_paired_test_is_that_of_evalkit(page, site):
    visit(page, site, "compare.html#model-01,model-03")
    for count in (1, 5, 9, 14, 60):
        check_paired(page, count)
    p_values = [0.01, 0.04, 0.03, 0.2]
    assert page.evaluate("(p) => Statistics.holm(p)", p_values) == pytest.approx(holm(p_values))


def check_paired(page, count: int) -> None:
    """Exact where all signs are enumerated, within the noise of 10 000 draws elsewhere."""
    differences = np.random.default_rng(count).normal(0.4, 1, count)
    found = page.evaluate("(differences) => Statistics.paired(differences)", differences.tolist())
    expected = compare_paired(np.zeros(count), differences)
    assert found["difference"] == pytest.approx(expected.difference)
    if count <= 14:
        assert found["p"] == pytest.approx(expected.p_value, abs=1e-12)
    else:
        assert found["p"] == pytest.approx(expected.p_value, abs=0.015)
    if count < 6:
        assert found["low"] is None and found["p"] >= 0.05
    else:
        width = expected.ci95[1] - expected.ci95[0]
        near = 1e-6 if count <= 14 else 0.04
        assert [found["low"], found["high"]] == pytest.approx(expected.ci95, abs=near * width)


def test_two_videos_of_a_prompt_play_side_by_side_in_step(page, site):
    visit(page, site, "compare.html#model-01,model-03")
    page.wait_for_selector("#prompt")
    page.select_option("#prompt", label=prompt_of(2))
    page.click("#play")
    page.wait_for_function("() => [...document.querySelectorAll('video')].every((video) => video.currentTime > 0.2)")
    page.click("#play")
    times = page.evaluate("[...document.querySelectorAll('video')].map((video) => video.currentTime)")
    assert len(times) == 2 and abs(times[0] - times[1]) < 0.25
    sources = page.evaluate("[...document.querySelectorAll('video')].map((video) => video.getAttribute('src'))")
    assert sources == ["clips/model-01/2.mp4", "clips/model-03/2.mp4"]


def test_a_dot_of_the_scatter_shows_its_videos(page, site):
    visit(page, site, "compare.html#model-01,model-03")
    page.wait_for_selector("#prompt")
    page.locator(".plot").scroll_into_view_if_needed()
    page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
    wanted = page.locator("#prompt option").nth(3).inner_text()
    page.evaluate("""(wanted) => {
      const plot = document.querySelector('.js-plotly-plot'), dots = plot.data[1];
      plot.emit('plotly_click', {points: [{customdata: dots.customdata[dots.customdata.indexOf(wanted)]}]});
    }""", wanted)
    assert page.inner_text("p.prompt") == wanted


def test_front_and_hypervolume_are_those_of_evalkit(page, site, board):
    rows = [row for row in read_board_rows(board) if row.kind == "model" and not row.withdrawal]
    visit(page, site, "pareto.html")
    for names in (["farm", "artifacts"], ["farm", "clip_alignment", "dynamic_degree"]):
        for label, name in zip(("Across", "Up", "Colour"), [*names, ""], strict=False):
            page.get_by_label(label).select_option(label=name or "none")
        values = np.array([[row.scores[name].value for name in names] for row in rows])
        higher = [board.metrics[name].higher_is_better for name in names]
        front = {row.name for row, on in zip(rows, pareto_front(values, higher), strict=True) if on}
        shown = page.eval_on_selector_all("tbody th a", "links => links.map((link) => link.textContent)")
        assert set(shown) == front
        worst = np.where(higher, values.min(0), values.max(0))
        share = hypervolume(values, worst, higher) / np.prod(np.ptp(values, axis=0))
        assert float(page.inner_text("#volume b").removesuffix(" %")) == pytest.approx(100 * share, rel=1e-3)
        page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")


def test_a_metric_page_tells_direction_weakness_and_protocol(page, site, board):
    visit(page, site, "metric.html#artifacts")
    text = page.inner_text("main")
    assert "lower is better" in text and "sixth finger" in text and board.metrics["artifacts"].protocol in text
    page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
    page.get_by_label("Metric").select_option(label="fvd_mini")
    page.wait_for_selector("h1:has-text('fvd_mini')")
    assert "24 of 128 clips" in page.text_content("main")


def test_the_theme_is_switched_and_kept(page, site):
    visit(page, site, "metric.html#farm")
    page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
    colours = "[getComputedStyle(document.body).backgroundColor, document.querySelector('.xtick text').style.fill]"
    light = page.evaluate(colours)
    page.click("#theme")
    assert page.inner_text("#theme").endswith("light") and page.evaluate(colours) == light
    page.click("#theme")
    page.wait_for_function(f"(light) => {colours}.every((colour, i) => colour !== light[i])", arg=light)
    visit(page, site, "index.html")
    assert page.inner_text("#theme").endswith("dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light[0]


def test_text_of_a_submission_stays_text(page, site):
    for place in ("index.html", "model.html#evil", "compare.html#evil,model-01", "model.html#model-04"):
        visit(page, site, place)
        page.wait_for_selector("main table, main .tiles")
        assert page.locator("main script, main img, main b script").count() == 0
    assert "<script>alert(1)</script> trained on the prompts" in page.inner_text("main")
    visit(page, site, "compare.html#evil,model-01")
    page.wait_for_selector("h1 >> text=Head to head")
    assert EVIL in page.eval_on_selector_all("option", "options => options.map((one) => one.text)")
    visit(page, site, "model.html#evil")
    page.wait_for_selector("h1 >> text=alert")
    assert page.inner_text("h1").startswith(EVIL)
    assert page.evaluate("(p) => Site.load('evil').then((data) => data.prompts[0] === p)", EVIL_PROMPT)


def test_a_link_that_is_no_web_address_is_not_one(page, site):
    visit(page, site, "index.html")
    kinds = page.evaluate("""['https://a.example', 'javascript:alert(3)', ' data:text/html,x', 'file:///etc/passwd']
      .map((url) => typeof Site.webLink(url))""")
    assert kinds == ["object", "string", "string", "string"]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_a_phone(page, site, name):
    page.set_viewport_size(PHONE)
    visit(page, site, f"{name}.html")
    page.wait_for_selector("main table, main .js-plotly-plot")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("models", [0, 1, 2])
def test_a_board_of_few_rows_has_all_pages(page, site, models):
    board = make_board(site.parent / f"few-{models}", models=models, prompts=8, references=False)
    few = build_site(read_board(board.path), site.parent / f"few-{models}" / "site").parent
    for name in PAGES:
        visit(page, few, f"{name}.html")
        page.wait_for_selector("h1")
        if models == 0 and name in ("model", "compare"):
            assert "no rows" in page.inner_text("main") or "No such row" in page.inner_text("main")


def test_a_board_ranked_by_wins_shows_their_strength(page, site):
    board = make_board(site.parent / "wins", models=4, prompts=20)
    board.path.write_bytes(format_json(replace(board, rank_by=WINS).to_json()))
    wins = build_site(read_board(board.path), site.parent / "wins" / "site").parent
    visit(page, wins, "index.html")
    assert page.inner_text("thead th.score >> nth=0") == "wins ↑"
    cells = "tbody tr.model td.score:nth-of-type(3)"
    shown = page.eval_on_selector_all(cells, "cells => cells.map((one) => Number(one.innerText))")
    expected = [row.value for row in rank_board(read_board(board.path), read_board_rows(board)).rows if row.rank]
    assert len(shown) == 4 and shown == pytest.approx(expected, rel=1e-3, abs=1e-3)
    page.set_viewport_size(PHONE)
    page.wait_for_selector("thead tr:has(th:nth-child(4)):not(:has(th:nth-child(5)))")  # drawn anew after the resize


def test_an_unknown_row_is_said_to_be_one(page, site):
    visit(page, site, "model.html#constructor")
    assert "No such row" in page.inner_text("main")
