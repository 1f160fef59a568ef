"""A run as one self-contained HTML page: works offline, on a phone, in the dark; same run, same bytes."""
from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from evalkit import report_plots as plots
from evalkit.catalogue import read_catalogue
from evalkit.cite import bibtex, describe, methods_sentence
from evalkit.report_table import scores_table
from evalkit.results import Report, write_atomic
from evalkit.table import format_value
from evalkit.thumbnails import make_thumbnails

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL_BUDGET = 3 * 2**20  # bytes of data URIs; with plotly's 4.9 MB the page stays below 8 MB
MOST_FAILURES = 200  # rows of the table; the rest is counted
LONGEST_PROMPT = 300  # characters


def write_report(report: Report, path: str | Path) -> Path:
    """Write the page to `path`, atomically, and return it.

    Reads the videos of the gallery again from the paths in `report.videos`; one that has gone gets a tile of text.
    A report loaded from disk has no curves, and its page no figures of them.
    """
    page = Page()
    body = _header(report) + _sections(report, page)
    return write_atomic(path, page.html(report.model or "Unnamed model", body).encode())


@dataclass
class Page:
    """Collects the figures while the sections are written, then puts everything into one file."""

    figures: list[dict[str, Any]] = field(default_factory=list)

    def figure(self, plot: plots.Plot | None, kind: str = "panel") -> str:
        """The place where the plot will be drawn, with its caption."""
        if plot is None:
            return ""
        self.figures.append({"data": plot.data, "layout": plot.layout})
        title = f"<h3>{escape(plot.title)}</h3>" if plot.title else ""
        return (f'<figure class="{kind}">{title}<div class="plot" role="img" aria-label="{escape(plot.label)}" '
                f'data-figure="{len(self.figures) - 1}" style="height:{plot.height}px"></div>'
                f"<figcaption>{escape(plot.caption)}</figcaption></figure>")

    def html(self, title: str, body: str) -> str:
        """The whole page. Its policy lets nothing be fetched, and no script run but the two that are ours."""
        from plotly.offline import get_plotlyjs

        figures = json.dumps(self.figures, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), _ours("report.js"))]
        hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
                          for script in scripts)
        policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src data:"
        return Template(_ours("report.html.tmpl")).substitute(
            title=escape(title), policy=policy, body=body, figures=figures.replace("<", "\\u003c"),
            plotly=scripts[0], script=scripts[1])


def _ours(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _header(report: Report) -> str:
    counts, environment = report.counts, report.environment
    without = sum(score.value is None for score in report.scores.values())
    facts = [f"{counts['scored']} of {counts['found']} videos scored",
             f"{len(report.scores) - without} scores" + (f", {without} without a number" if without else ""),
             f"evalkit {environment.get('versions', {}).get('video-evalkit', '?')}",
             f"seed {environment.get('seed', '?')}"]
    failed = (f' · <a class="bad" href="#failures">{counts["failed"]} failed</a>' if counts["failed"] else "")
    return (f'<header><div><h1>{escape(report.model or "Unnamed model")}</h1>'
            f'<p class="muted">{escape(" · ".join(facts))}{failed}</p></div></header>')


def _sections(report: Report, page: Page) -> str:
    summaries = {metric["name"]: metric["summary"] for metric in read_catalogue()["metrics"]}
    names = list(plots.per_video_scores(report))
    found = {
        "Scores": scores_table(report, summaries),
        "Overview": page.figure(plots.overview(report)),
        "Distributions": _grid(page.figure(plots.distribution(report, name)) for name in names),
        "Videos": _gallery(report, names),
        "Over time": _grid(page.figure(plot) for name in names for plot in plots.courses(report, name)),
        "Sub-scores": _sub_scores(report, names, page),
        "Failures": _failures(report.failures),
        "Protocols": _protocols(report),
        "Reproduce": _reproduce(report.environment),
        "Cite": _cite(report),
    }
    found = {title: content for title, content in found.items() if content}
    return lay_out(found)


def lay_out(sections: Mapping[str, str]) -> str:
    """The body of a page: a bar of links, and every section, title -> HTML, under its title."""
    links = "".join(f'<li><a href="#{_anchor(title)}">{title}</a></li>' for title in sections)
    content = "".join(f'<section id="{_anchor(title)}" aria-labelledby="h-{_anchor(title)}">'
                      f'<h2 id="h-{_anchor(title)}">{title}</h2>{section}</section>'
                      for title, section in sections.items())
    return (f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>'
            f"<noscript><p>The figures are drawn by JavaScript; all numbers are in the tables.</p></noscript>"
            f"{content}</main><footer class=\"muted\">Written by evalkit; this page needs no network.</footer>")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _grid(figures: Iterable[str], kind: str = "grid") -> str:
    content = "".join(figures)
    return f'<div class="{kind}">{content}</div>' if content else ""


def _gallery(report: Report, names: list[str]) -> str:
    """Best and worst videos of each score, playing."""
    chosen = {name: plots.best_and_worst(report, name) for name in names}
    thumbnails = make_thumbnails(_uses(chosen.values()), THUMBNAIL_BUDGET)
    parts = []
    for name, groups in chosen.items():
        shown = "".join(
            f'<div><h4>{group}</h4><div class="tiles">'
            + "".join(_tile(row, name, f"{group} {rank}", thumbnails) for rank, row in enumerate(_records(rows), 1))
            + "</div></div>" for group, rows in zip(("best", "worst"), groups, strict=True) if len(rows))
        parts.append(f'<h3>{escape(name)}</h3><div class="pair">{shown}</div>')
    button = '<p><button id="motion" type="button">Pause all videos</button></p>' if thumbnails else ""
    return button + "".join(parts)


def _uses(chosen: Iterable[tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, int]:
    """Path -> how many tiles show it; first every score's best and worst, then the seconds: the budget may end."""
    ranked = [(rank, row["path"]) for groups in chosen for rows in groups for rank, row in enumerate(_records(rows))
              if isinstance(row.get("path"), str)]
    uses: dict[str, int] = {}
    for _, path in sorted(ranked, key=lambda pair: pair[0]):
        uses[path] = uses.get(path, 0) + 1
    return uses


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.to_dict("records")


def _tile(row: dict[str, Any], name: str, rank: str, thumbnails: dict[str, str]) -> str:
    video, prompt = str(row["video"]), row.get("prompt")
    prompt = prompt[:LONGEST_PROMPT] if isinstance(prompt, str) else ""
    uri = thumbnails.get(row["path"]) if isinstance(row.get("path"), str) else None
    label = escape(f"{rank} by {name}: {prompt or video}")
    picture = (f'<video src="{uri}" aria-label="{label}" loop muted playsinline preload="auto"></video>' if uri
               else '<div class="missing">no picture</div>')
    words = f'<span class="prompt">{escape(prompt)}</span>' if prompt else escape(video[-60:])
    return (f'<figure class="tile" title="{escape(video)}">{picture}'
            f"<figcaption><b>{format_value(row[name])}</b> {words}</figcaption></figure>")


def _sub_scores(report: Report, names: list[str], page: Page) -> str:
    """A radar where there is one, and the numbers."""
    parts = []
    for name in names:
        table = plots.sub_scores(report, name)
        if len(table):
            figure = page.figure(plots.radar(report, name), "") or f"<h3>{escape(name)}</h3>"
            parts.append(f'<div class="panel">{figure}{_sub_score_table(table)}</div>')
    return _grid(parts, "grid wide")


def _sub_score_table(table: pd.DataFrame) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(part.replace("_", " "))}</th>'
        + "".join(f'<td class="number">{format_value(row[column])}</td>' for column in ("mean", "low", "high"))
        + "</tr>" for part, row in table.iterrows())
    return ('<details><summary>Numbers</summary><table><thead><tr><th scope="col">part</th>'
            '<th scope="col" class="number">mean</th><th scope="col" class="number">10 %</th>'
            f'<th scope="col" class="number">90 %</th></tr></thead><tbody>{rows}</tbody></table></details>')


def _failures(failures: list[dict[str, str]]) -> str:
    if not failures:
        return ""
    rows = "".join(f'<tr><td class="wrap">{escape(one["path"])}</td><td class="wrap">{escape(one["error"])}</td></tr>'
                   for one in failures[:MOST_FAILURES])
    more = len(failures) - MOST_FAILURES
    rest = f'<p class="muted">… and {more} more, all in <code>results.json</code>.</p>' if more > 0 else ""
    return ('<table><thead><tr><th scope="col">video</th><th scope="col">why it has no score</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>{rest}")


def _protocols(report: Report) -> str:
    used: dict[str, list[str]] = {}
    for name, score in report.scores.items():
        used.setdefault(score.protocol, []).append(name)
    items = "".join(_protocol(identity, names, report.protocols[identity]) for identity, names in used.items())
    return ('<p class="muted">Everything that a score depends on; the id is a hash of it. Scores compare only under '
            f"equal ids.</p>{items}") if items else ""


def _protocol(identity: str, names: list[str], protocol: dict[str, Any]) -> str:
    return (f'<details id="protocol-{escape(identity)}"><summary><code>{escape(identity)}</code> '
            f'<b>{escape(", ".join(names))}</b> <span class="muted">{escape(describe(protocol))}</span></summary>'
            f'<pre tabindex="0">{escape(json.dumps(protocol, indent=2, ensure_ascii=False))}</pre></details>')


def _reproduce(environment: dict[str, Any]) -> str:
    command = environment.get("command")
    shown = f'<pre tabindex="0">{escape(shlex.join(map(str, command)))}</pre>' if command else ""
    facts = {key: value for key, value in environment.items() if key not in ("command", "versions") and value != ""}
    facts |= environment.get("versions", {})
    rows = "".join(f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
                   for key, value in facts.items())
    return f"{shown}<dl>{rows}</dl>"


def _cite(report: Report) -> str:
    return (f'<p>{escape(methods_sentence(report))}</p><pre tabindex="0">{escape(bibtex(report))}</pre>')
