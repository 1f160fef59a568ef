"""The table of scores as HTML: value, interval drawn in place, floor, trivial baselines, protocol."""
from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from evalkit.results import Report, Score
from evalkit.table import format_interval, format_value

TRIVIAL = ("frozen", "shuffled", "noise")
WIDTH, HEIGHT = 136, 16  # of the drawn interval, in CSS pixels
LONGEST_DETAIL = 120  # characters


def scores_table(report: Report, summaries: Mapping[str, str]) -> str:
    """The table; columns that no score fills are left out."""
    scores = report.scores
    floors = any(score.floor is not None for score in scores.values())
    trivial = [name for name in TRIVIAL if any(name in _trivial(score) for score in scores.values())]
    heads = ["score", "value", "95 % interval", "n", *(["floor"] if floors else []), *trivial, "protocol"]
    numeric = {"value", "n", "floor", *trivial}
    columns = "".join(f'<th role="columnheader" scope="col"{_number(head in numeric)}>{head}</th>' for head in heads)
    rows = "".join(_row(name, score, summaries.get(name, ""), floors, trivial, len(heads))
                   for name, score in scores.items())
    return (f'<div class="scores"><table role="table"><thead role="rowgroup"><tr role="row">{columns}</tr></thead>'
            f'<tbody role="rowgroup">{rows}</tbody></table></div>{_notes(scores, floors, trivial)}')


def _row(name: str, score: Score, summary: str, floors: bool, trivial: list[str], width: int) -> str:
    better, arrow = ("higher", "↑") if score.higher_is_better else ("lower", "↓")
    head = (f'<th role="rowheader" scope="row">{escape(name)}&nbsp;'
            f'<span role="img" aria-label="{better} is better">{arrow}</span>'
            f"<small>{escape(summary)}</small>{_details(score)}</th>")
    link = f'<a href="#protocol-{escape(score.protocol)}"><code>{escape(score.protocol)}</code></a>'
    protocol = _cell("protocol", link)
    if score.value is None:
        reason = f'<td role="cell" class="reason wrap" colspan="{width - 2}">no number: {escape(score.reason)}</td>'
        return f'<tr role="row" class="null">{head}{reason}{protocol}</tr>'
    unit = f" <small>{escape(score.unit)}</small>" if score.unit else ""
    cells = [_cell("value", format_value(score.value) + unit, "number value"),
             _cell("95 % interval", f"{format_interval(score)}{_drawn_interval(score)}", "interval"),
             _cell("n", str(score.n), "number")]
    if floors:
        cells.append(_cell("floor", "" if score.floor is None else format_value(score.floor), "number"))
    cells += [_cell(kind, _baseline(score, kind), "number") for kind in trivial]
    return f'<tr role="row">{head}{"".join(cells)}{protocol}</tr>'


def _cell(label: str, content: str, kind: str = "") -> str:
    return f'<td role="cell" data-label="{label}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{content}</td>'


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _trivial(score: Score) -> Mapping[str, float]:
    return score.details.get("trivial", {})


def _baseline(score: Score, kind: str) -> str:
    """The baseline's score, marked where it is as good as the model's."""
    value = _trivial(score).get(kind)
    if value is None:
        return ""
    return f'<span class="bad">{format_value(value)} !</span>' if _beats(score, value) else format_value(value)


def _beats(score: Score, baseline: float) -> bool:
    return baseline >= score.value if score.higher_is_better else baseline <= score.value


def _drawn_interval(score: Score) -> str:
    """A bar from end to end of the interval, on an axis that also holds floor and trivial baselines (ticks)."""
    others = [value for value in (score.floor, *_trivial(score).values()) if value is not None]
    ends = list(score.ci95 or (score.value, score.value))
    low, high = min([*ends, score.value, *others]), max([*ends, score.value, *others])
    span = (high - low) or 1.0

    def x(value: float) -> str:
        return f"{6 + (value - low) / span * (WIDTH - 12):.1f}"

    middle = HEIGHT / 2
    ticks = "".join(f'<line x1="{x(value)}" x2="{x(value)}" y1="3" y2="{HEIGHT - 3}" stroke="var(--muted)"/>'
                    for value in others)
    width = max(2.0, float(x(ends[1])) - float(x(ends[0])))
    axis = f'<line x1="0" x2="{WIDTH}" y1="{middle}" y2="{middle}" stroke="var(--line)"/>'
    bar = (f'<rect x="{x(ends[0])}" y="{middle - 3}" width="{width:.1f}" height="6" rx="3" fill="var(--model)" '
           'opacity=".45"/>')
    dot = f'<circle cx="{x(score.value)}" cy="{middle}" r="4" fill="var(--model)"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{axis}{ticks}{bar}{dot}</svg>'


def _details(score: Score) -> str:
    """What else a metric tells about its number, in one small line."""
    words = [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in score.details.items() if key != "trivial"]
    return f'<small class="wrap">{escape("; ".join(words))}</small>' if words else ""


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return format_value(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}…"


def _notes(scores: Mapping[str, Score], floors: bool, trivial: list[str]) -> str:
    notes = ["↑ higher is better, ↓ lower is better. The bar is the 95 % interval, ticks are floor and baselines."]
    if floors:
        notes.append("Floor: the same number for real videos against other real videos of the same count, "
                     "the best that a perfect model could expect.")
    if trivial:
        notes.append("Baselines are made from a few of the videos: their first frame frozen, their frames shuffled, "
                     "noise. Judge a score by its distance from them.")
    beaten = [name for name, score in scores.items()
              if score.value is not None and any(_beats(score, value) for value in _trivial(score).values())]
    if beaten:
        names = ", ".join(escape(name) for name in beaten)
        notes.append(f'<span class="bad">!</span> A trivial baseline does at least as well as the model in {names}: '
                     "never read that score alone.")
    return "".join(f'<p class="muted">{note}</p>' for note in notes)
