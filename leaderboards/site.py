"""The static site of a board: works from a disk, without a server and without a network; same board, same bytes."""
from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from evalkit.errors import UsageError
from leaderboards.checks import check_files
from leaderboards.fields import BoardError
from leaderboards.ranking import rank_board
from leaderboards.reading import read_board_rows
from leaderboards.schema import Board, Submission
from leaderboards.site_data import ASSETS, as_json, describe_board, describe_submission, read_scores
from leaderboards.site_downloads import write_downloads

PAGES = {  # file -> its title in the bar, and the scripts that draw it
    "index": ("Overview", ("overview",)),
    "pareto": ("Trade-offs", ("plots", "statistics", "pareto")),
    "compare": ("Compare", ("plots", "statistics", "compare")),
    "model": ("Models", ("plots", "model")),
    "metric": ("Metrics", ("plots", "metric")),
}
MARK = "data/board.js"  # by which a folder is known as a site of ours, which a build may replace


def build_site(board: Board, out: str | Path, *, cards: str | Path | None = None,
               progress: Callable[[int, int], None] = lambda *_: None) -> Path:
    """Write the site of a board to the folder `out`, whole or not at all, and return its first page.

    cards: a folder of METRIC.html, as `evalkit rewards card` writes them, to be linked from the metrics' pages.
    Files are held against their hashes; intervals are not computed again. Raises BoardError for a bad submission,
    UsageError where `out` holds something that is no site.
    """
    out = Path(out)
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something that is no site of ours: give another folder")
    rows = read_board_rows(board)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:40]}.", suffix=".partial") as partial:
        fresh = Path(partial) / "site"
        _write(board, rows, fresh, _find_cards(board, cards), progress)
        if out.exists():
            out.rename(Path(partial) / "old")
        fresh.rename(out)
    return out / "index.html"


def _write(board: Board, rows: list[Submission], site: Path, cards: Mapping[str, Path],
           progress: Callable[[int, int], None]) -> None:
    for folder in ("assets", "data/models", *(["cards"] if cards else [])):
        (site / folder).mkdir(parents=True)
    for name, path in cards.items():
        shutil.copyfile(path, site / "cards" / f"{name}.html")
    per_video: set[str] = set()
    for done, row in enumerate(rows):
        progress(done, len(rows))
        check_files(row)
        per_video |= _write_submission(board, row, site)
    ranking = rank_board(board, rows)
    summary = describe_board(board, ranking, sorted(per_video), sorted(cards))
    _write_script(site / MARK, "const BOARD=JSON.parse({})", summary)
    write_downloads(board, ranking, site)
    _write_assets(board, site)
    progress(len(rows), len(rows))


def _write_submission(board: Board, row: Submission, site: Path) -> set[str]:
    """The row's data and clips; the metrics that it has a score of for each video."""
    scores = read_scores(board, row)
    clips = {}
    for place, video in enumerate(scores["video"]):
        if video in row.clips:
            source = row.locate(row.clips[video])
            clips[video] = f"clips/{row.slug}/{place}{source.suffix}"
            (site / clips[video]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, site / clips[video])
    _write_script(site / "data" / "models" / f"{row.slug}.js", f"Site.receive({as_json(row.slug)},{{}})",
                  describe_submission(board, row, scores, clips))
    return set(scores) & set(board.metrics)


def _write_script(path: Path, call: str, content: Any) -> None:
    """JSON inside a string: a script's object would take a key "__proto__" for more than a name."""
    path.write_text(call.replace("{}", json.dumps(as_json(content))), encoding="ascii")


def _write_assets(board: Board, site: Path) -> None:
    from plotly.offline import get_plotlyjs

    (site / "assets" / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8", newline="\n")
    for name in ("site.css", "theme.js", "site.js", *{f"{script}.js" for _, scripts in PAGES.values()
                                                       for script in scripts}):
        shutil.copyfile(ASSETS / name, site / "assets" / name)
    for name in PAGES:
        (site / f"{name}.html").write_text(_page(board, name), encoding="utf-8", newline="\n")


def _page(board: Board, name: str) -> str:
    title, scripts = PAGES[name]
    files = [MARK, "assets/site.js", *(f"assets/{script}.js" for script in scripts)]
    here = {name: ' aria-current="page"'}
    links = "\n".join(f'<li><a href="{page}.html"{here.get(page, "")}>{text}</a></li>'
                      for page, (text, _) in PAGES.items())
    return Template((ASSETS / "page.html.tmpl").read_text(encoding="utf-8")).substitute(
        page=title, name=name, title=escape(board.title), links=links,
        scripts="\n".join(f'<script defer src="{file}"></script>' for file in files))


def _find_cards(board: Board, folder: str | Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    found = {name: path for name in board.metrics if (path := Path(folder) / f"{name}.html").is_file()}
    if not found:
        raise BoardError(f"{folder}: expected reward cards as METRIC.html, for one of {', '.join(board.metrics)}")
    return found
