"""The page of a run: complete, escaped, self-contained, small enough, the same bytes twice, and drawn by a browser."""
from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from evalkit.data.synthetic import write_samples
from evalkit.report import write_report
from evalkit.report_plots import best_and_worst, courses, distribution, overview, per_video_scores, radar, sub_scores
from evalkit.results import Report, Score, protocol_id
from evalkit.runner import evaluate
from evalkit.thumbnails import make_thumbnail, make_thumbnails

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<script>alert(1)</script>"
HOSTILE = f'"\'><img src=x onerror=alert(2)></script><!--{EVIL}%{{x}} <a href="http://there">it</a>'


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    """A real run over six small videos and a broken one, with trivial baselines."""
    folder = tmp_path_factory.mktemp("samples")
    manifest = write_samples(folder, 3, seeds_per_prompt=2, quality="flickering", num_frames=16, size=64)
    (folder / "broken.mp4").write_bytes(b"not a video")
    with manifest.open("a") as file:
        file.write(json.dumps({"path": "broken.mp4", "prompt": "nothing"}) + "\n")
    return evaluate(str(manifest), metrics=["temporal_flicker", "artifacts"], trivial=True, workers=1, cache=None,
                    model="tiny")


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> str:
    return write_report(report, tmp_path_factory.mktemp("page") / "report.html").read_text()


class Tags(HTMLParser):
    """Every start tag with its attributes, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] for _, found in self.found if found.get(attribute)]


def made_up(n: int, model: str = "made up", prompt: str = "a prompt", path: str | None = None) -> Report:
    """A report of `n` videos that never existed."""
    import pandas as pd

    draw = np.random.default_rng(0)
    protocol = {"metric": "m", "source": prompt}
    identity = protocol_id(protocol)
    videos = pd.DataFrame({
        "video": [f"{model}/{i:05d}.mp4" for i in range(n)], "path": path, "prompt": prompt, "m": draw.random(n),
        **{f"m.part{i}": draw.random(n) for i in range(4)}, "down": draw.random(n)})
    scores = {"m": Score(0.5, (0.4, 0.6), n, "", True, identity, details={"trivial": {"frozen": 0.7, "noise": 0.1}}),
              "down": Score(0.5, (0.4, 0.6), n, "px", False, identity),
              "set": Score(12.5, (11.0, 14.0), n, "", False, identity, floor=3.25, details={"note": prompt}),
              "none": Score(None, None, 0, "", True, identity, reason=f"lacks weights {prompt}")}
    failures = [{"path": f"{model}.avi", "error": prompt}]
    return Report(model, scores, {identity: protocol}, {"found": n + 1, "scored": n, "failed": 1}, failures,
                  {"versions": {"python": "3"}, "seed": 0, "commit": "", "command": ["evalkit", "run", prompt]}, videos)


def test_every_score_stands_in_the_table_with_interval_baselines_and_a_link_to_its_protocol(report, page):
    targets = Tags(page).values("id")
    for name, score in report.scores.items():
        row = re.search(rf'<tr role="row"><th [^>]*>{name}.*?</tr>', page, re.DOTALL)[0]
        assert f"{score.value:.4g}" in row and f"[{score.ci95[0]:.4g}, {score.ci95[1]:.4g}]" in row
        assert all(f"{value:.4g}" in row for value in score.details["trivial"].values())
        assert f'href="#protocol-{score.protocol}"' in row and f"protocol-{score.protocol}" in targets


def test_a_baseline_as_good_as_the_model_is_marked_and_said(tmp_path):
    page = write_report(made_up(4), tmp_path / "r.html").read_text()
    assert '<span class="bad">0.7 !</span>' in page and "0.1 !" not in page
    assert "does at least as well as the model in m:" in page


def test_floor_and_reason_are_shown(tmp_path):
    page = write_report(made_up(4), tmp_path / "r.html").read_text()
    assert re.search(r'data-label="floor" class="number">3.25<', page)
    assert "no number: lacks weights a prompt" in page


def test_failures_command_methods_and_bibtex_are_on_the_page(report, page, tmp_path):
    assert report.counts["failed"] == 1 and "broken.mp4" in page and "1 failed" in page
    assert report.failures[0]["error"] in unescape(page)
    other = write_report(made_up(3, prompt="two words"), tmp_path / "r.html").read_text()
    assert "evalkit run 'two words'" in unescape(other)
    assert "@software{evalkit," in page and "We scored 6 of 7 videos" in page


def test_best_and_worst_follow_the_direction_and_share_no_video():
    shown = made_up(5)
    for name, higher in (("m", True), ("down", False)):
        best, worst = best_and_worst(shown, name)
        values = shown.videos[name].sort_values(ascending=not higher).tolist()
        assert best[name].tolist() == values[:2] and worst[name].tolist() == values[:-3:-1]
        assert not set(best["video"]) & set(worst["video"])


def test_one_video_is_best_alone():
    best, worst = best_and_worst(made_up(1), "m")
    assert len(best) == 1 and len(worst) == 0


def test_gallery_plays_tiny_copies_of_the_videos(report, page, tmp_path):
    from evalkit.data.video import probe

    uris = [uri for uri in Tags(page).values("src") if uri.startswith("data:video/mp4;base64,")]
    assert len(uris) == 2 * 6  # two scores, three best and three worst each
    (tmp_path / "t.mp4").write_bytes(base64.b64decode(uris[0].partition(",")[2]))
    info = probe(tmp_path / "t.mp4")
    assert 8 <= info.frames <= 24 and min(info.width, info.height) == 64 and info.pixel_format == "yuv420p"


def test_videos_that_cannot_be_read_any_more_get_a_tile_of_text(tmp_path):
    for path in (None, str(tmp_path / "gone.mp4")):
        page = write_report(made_up(6, path=path), tmp_path / "r.html").read_text()
        assert page.count('<div class="missing">no picture</div>') == 2 * 6 and "<video" not in page


def test_thumbnails_keep_their_budget_counting_each_use(report):
    path = report.videos["path"][0]
    size = len(make_thumbnail(path))
    assert set(make_thumbnails({path: 2}, 2 * size)) == {path}
    assert make_thumbnails({path: 2}, 2 * size - 1) == {}


def test_odd_sizes_and_still_pictures_have_thumbnails(tmp_path):
    np.save(tmp_path / "odd.npy", np.zeros((1, 33, 77, 3), np.uint8))
    assert make_thumbnail(str(tmp_path / "odd.npy")).startswith("data:video/mp4;base64,")


def test_names_prompts_errors_and_notes_are_text_never_markup(tmp_path):
    page = write_report(made_up(5, EVIL, HOSTILE), tmp_path / "r.html").read_text()
    tags = Tags(page).found
    assert [found.get("id") for tag, found in tags if tag == "script"] == ["figures", None, None]
    assert not [found for tag, found in tags if tag == "img" or "onerror" in found]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in figures and json.loads(figures)


def test_page_asks_for_nothing_outside_itself(page):
    tags = Tags(page)
    links = tags.values("src") + tags.values("href") + tags.values("poster") + tags.values("srcset")
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not [tag for tag, _ in tags.found if tag in ("link", "iframe", "object", "embed", "base", "form")]
    policy = next(found["content"] for _, found in tags.found if found.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "http" not in policy and "script-src 'sha256-" in policy
    styles = "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL))
    assert "url(" not in styles and "@import" not in styles


def test_same_run_gives_the_same_bytes(report, page, tmp_path):
    assert write_report(report, tmp_path / "again.html").read_text() == page


def test_report_from_disk_lacks_only_the_courses_over_time(report, page, tmp_path):
    report.save(tmp_path)
    loaded = Report.load(tmp_path)
    again = write_report(loaded, tmp_path / "r.html").read_text()
    assert 'id="over-time"' in page and 'id="over-time"' not in again
    for section in ("scores", "overview", "distributions", "videos", "sub-scores", "failures", "protocols", "cite"):
        assert f'<section id="{section}"' in page and f'<section id="{section}"' in again


def test_report_without_videos_or_scores_is_still_a_page(tmp_path):
    bare = made_up(3)
    bare.videos, bare.scores = None, {"none": bare.scores["none"]}
    page = write_report(bare, tmp_path / "r.html").read_text()
    assert "no number" in page and 'class="plot"' not in page


def test_ten_thousand_videos_stay_below_12_mb_and_the_caption_says_what_is_drawn(tmp_path):
    path = write_report(made_up(10_000, prompt="a long prompt " * 20), tmp_path / "r.html")
    assert path.stat().st_size < 12e6
    assert "400 of 10000 videos as dots, evenly picked" in path.read_text()


def test_every_figure_is_valid_plotly(report):
    import plotly.graph_objects as go

    names = list(per_video_scores(report))
    figures = [overview(report), *(distribution(report, name) for name in names),
               *(plot for name in names for plot in courses(report, name)), *(radar(report, name) for name in names)]
    assert len(figures) >= 1 + 2 + 3 + 2
    for plot in figures:
        go.Figure(data=plot.data, layout=plot.layout)  # raises on a property that plotly does not know


def test_histogram_counts_every_video_and_mean_line_is_the_score():
    shown = made_up(1000)
    plot = distribution(shown, "m")
    assert sum(plot.data[0]["y"]) == 1000 and len(plot.data[1]["x"]) == 400
    assert plot.layout["shapes"][-1]["x0"] == shown.scores["m"].value


def test_radar_compares_the_thirds_and_scales_only_what_leaves_the_unit_range():
    shown = made_up(9)
    rows = shown.videos.sort_values("m", ascending=False)
    assert sub_scores(shown, "m").loc["part0", "best"] == pytest.approx(rows["m.part0"].head(3).mean())
    native = radar(shown, "m").data[0]["r"]
    assert native[0] == pytest.approx(rows["m.part0"].head(3).mean(), rel=1e-4)
    shown.videos["m.part1"] *= 100
    scaled = radar(shown, "m").data[0]["r"]
    assert max(scaled) <= 1 and scaled[0] == pytest.approx(native[0] / shown.videos["m.part0"].max(), rel=1e-4)


def test_courses_mark_hard_cuts():
    shown = made_up(4)
    curves = {video: {"flicker": [0.0, 1.0, 2.0], "cut": [0.0, 0.0, 1.0]} for video in shown.videos["video"]}
    (plot,) = courses(replace(shown, curves={"m": curves}), "m")
    cuts = [trace for trace in plot.data if trace["name"] == "cut"]
    assert len(plot.data) == 2 * 4 and all(trace["x"] == [2] and trace["y"] == [2.0] for trace in cuts)


PHONE = """<!DOCTYPE html><iframe src="report.html" style="border:0;width:390px;height:3000px"></iframe><script>
setTimeout(() => {
  const page = document.querySelector("iframe").contentDocument, all = (what) => [...page.querySelectorAll(what)];
  const plays = document.createElement("video").canPlayType('video/mp4; codecs="avc1.64001E"') !== "";
  document.title = JSON.stringify({
    places: all(".plot").length, drawn: all(".plot.js-plotly-plot .main-svg").length,
    widest: Math.max(page.documentElement.scrollWidth, ...all(".plot .main-svg").map((x) => x.clientWidth)),
    silent: plays ? all("video").filter((x) => x.readyState < 2).length : 0,
  });
}, 6000);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on this machine")
@pytest.mark.parametrize("kind", ["real", "hostile"])
def test_chromium_draws_every_figure_on_a_phone_without_an_error(kind, report, tmp_path):
    write_report(report if kind == "real" else made_up(9, EVIL, HOSTILE), tmp_path / "report.html")
    (tmp_path / "phone.html").write_text(PHONE)
    run = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files", "--enable-logging=stderr",
         "--virtual-time-budget=10000", "--dump-dom", (tmp_path / "phone.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(unescape(re.search(r"<title>(.*?)</title>", run.stdout)[1]))
    assert found["places"] >= 4 and found["drawn"] >= found["places"] and found["silent"] == 0
    assert found["widest"] <= 390
    console = [line for line in run.stderr.splitlines() if ":CONSOLE" in line or "Uncaught" in line]
    assert not console  # neither script errors nor anything that the page's policy had to refuse
