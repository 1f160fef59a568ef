"""The figures of a report as plain plotly JSON: overview, distributions, courses over time, sub-scores."""
from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.results import Report, Score
from evalkit.table import format_value

if TYPE_CHECKING:
    import pandas as pd

# After Okabe & Ito (2008), each shifted until it stands out on white and on near-black.
BLUE, ORANGE, GREEN, PINK, GREY = "#2b83c6", "#d9620f", "#159a75", "#c46a9a", "#87909b"
BASELINES = {"frozen": ("square-open", GREEN), "shuffled": ("diamond-open", PINK), "noise": ("x-thin-open", GREY)}
EXTREMES = 3  # best and worst videos shown of each score
STRIP_POINTS = 400  # more dots say no more, and weigh
BINS = 30
DASHES = ("solid", "dash", "dot")


@dataclass(frozen=True)
class Plot:
    """One figure: `data` and `layout` as plotly.js takes them; the rest is for the page. height in pixels."""

    title: str
    label: str  # what a screen reader says
    caption: str
    height: int
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def per_video_scores(report: Report) -> dict[str, Score]:
    """The scores that every video has one of, in the report's order."""
    if report.videos is None:
        return {}
    return {name: score for name, score in report.scores.items()
            if score.value is not None and name in report.videos.columns and report.videos[name].notna().any()}


def best_and_worst(report: Report, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the best videos of a score, the best first, and of the worst, the worst first; none is in both."""
    rows = report.videos[report.videos[name].notna()]
    rows = rows.sort_values([name, "video"], ascending=[not report.scores[name].higher_is_better, True])
    count = min(EXTREMES, len(rows) // 2)
    return rows.head(max(count, 1)), rows.tail(count).iloc[::-1]


def overview(report: Report) -> Plot | None:
    """Every score with its interval, floor and trivial baselines, each on an axis of its own."""
    scores = {name: score for name, score in report.scores.items() if score.value is not None}
    if not scores:
        return None
    height = 68 * len(scores)
    layout: dict[str, Any] = {"margin": {"l": 12, "r": 12, "t": 44, "b": 24}, "annotations": [],
                              "legend": {"orientation": "h", "x": 0, "y": 1 + 14 / height, "yanchor": "bottom"}}
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    for row, (name, score) in enumerate(scores.items()):
        suffix = "" if row == 0 else str(row + 1)
        top = 1 - row / len(scores)
        layout[f"xaxis{suffix}"] = {"anchor": f"y{suffix}", "nticks": 6, "zeroline": False, "automargin": True}
        layout[f"yaxis{suffix}"] = {"anchor": f"x{suffix}", "range": [-1, 1], "visible": False, "fixedrange": True,
                                    "domain": [max(0.0, top - 40 / height), top - 20 / height]}
        layout["annotations"].append({
            "text": f"<b>{_text(name)}</b> {'↑' if score.higher_is_better else '↓'}", "showarrow": False,
            "xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left", "yanchor": "top"})
        for trace in _overview_marks(score):
            data.append(trace | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "legendgroup": trace["name"],
                                 "showlegend": trace["name"] not in named})
            named.add(trace["name"])
    caption = ("Dot and bar: the model and its 95 % interval. ↑ higher is better, ↓ lower is better; every row has its "
               "own axis." + (" Open marks: what trivial videos made from these reach." if len(named) > 1 else ""))
    said = "; ".join(f"{name} {format_value(score.value)}" for name, score in scores.items())
    return Plot("", f"Point-range plot of all scores: {said}", caption, height + 68, data, layout)


def _overview_marks(score: Score) -> list[dict[str, Any]]:
    """One trace per mark of a row: baselines, floor, then the model on top."""
    marks = [_mark(name, score.details["trivial"][name], symbol, colour)
             for name, (symbol, colour) in BASELINES.items() if name in score.details.get("trivial", {})]
    if score.floor is not None:
        marks.append(_mark("floor (real against real)", score.floor, "line-ns-open", ORANGE))
    model = _mark("model", score.value, "circle", BLUE)
    if score.ci95:
        low, high = score.ci95
        model["error_x"] = {"type": "data", "array": [_short(high - score.value)], "symmetric": False,
                            "arrayminus": [_short(score.value - low)], "thickness": 3, "width": 6, "color": BLUE}
        model["hovertemplate"] += f"<br>95 %: {format_value(low)} to {format_value(high)}"
    return [*marks, model]


def _mark(name: str, value: float, symbol: str, colour: str) -> dict[str, Any]:
    return {"type": "scatter", "mode": "markers", "name": name, "x": [_short(value)], "y": [0],
            "hovertemplate": f"{name}: {format_value(value)}<extra></extra>",
            "marker": {"symbol": symbol, "color": colour, "size": 11, "line": {"width": 2, "color": colour}}}


def distribution(report: Report, name: str) -> Plot:
    """Histogram of all videos over a strip of single ones, with the mean and its interval."""
    score = report.scores[name]
    rows = report.videos[report.videos[name].notna()]
    values = rows[name].to_numpy(float)
    counts, edges = np.histogram(values, bins=min(BINS, max(5, round(len(values) ** 0.5 * 2))))
    shown = rows[["video", "prompt"] if "prompt" in rows else ["video"]].assign(value=values)
    shown = shown.iloc[np.unique(np.linspace(0, len(rows) - 1, STRIP_POINTS).round().astype(int))]
    jitter = np.random.default_rng(0).random(len(shown))
    bars = {"type": "bar", "x": _numbers((edges[1:] + edges[:-1]) / 2), "y": counts.tolist(), "yaxis": "y2",
            "width": _numbers(np.diff(edges) * 0.94), "marker": {"color": BLUE, "opacity": 0.75},
            "hovertemplate": "%{y} videos near %{x}<extra></extra>"}
    strip = {"type": "scatter", "mode": "markers", "x": _numbers(shown["value"]), "y": _numbers(jitter),
             "text": [_hover(row) for row in shown.to_dict("records")],
             "hovertemplate": "%{text}<br>%{x}<extra></extra>", "marker": {"color": BLUE, "size": 5, "opacity": 0.55}}
    layout = {"margin": {"l": 36, "r": 10, "t": 8, "b": 34}, "showlegend": False, "bargap": 0,
              "xaxis": {"zeroline": False, "nticks": 6, "title": {"text": _text(score.unit)}},
              "yaxis": {"domain": [0, 0.2], "visible": False, "range": [-0.3, 1.3], "fixedrange": True},
              "yaxis2": {"domain": [0.24, 1], "nticks": 4, "rangemode": "tozero", "zeroline": False},
              "shapes": [_vertical(score.value, score.value, ORANGE)]}
    if score.ci95:
        layout["shapes"].insert(0, _vertical(*score.ci95, ORANGE))
    sampled = "" if len(shown) == len(rows) else f" {len(shown)} of {len(rows)} videos as dots, evenly picked."
    caption = (f"{len(rows)} videos, median {format_value(float(np.median(values)))}; orange: mean"
               f"{' and its 95 % interval' if score.ci95 else ''}.{sampled}")
    label = (f"Histogram of {name} over {len(rows)} videos from {format_value(values.min())} to "
             f"{format_value(values.max())}")
    return Plot(name, label, caption, 240, [bars, strip], layout)


def _vertical(low: float, high: float, colour: str) -> dict[str, Any]:
    """A line over the full height where low == high, else a band."""
    return {"type": "rect", "xref": "x", "yref": "paper", "x0": _short(low), "x1": _short(high), "y0": 0, "y1": 1,
            "fillcolor": colour, "opacity": 1 if low == high else 0.22, "layer": "above" if low == high else "below",
            "line": {"width": 2 if low == high else 0, "color": colour}}


def courses(report: Report, name: str) -> list[Plot]:
    """Each curve of a score over the frames of its best and worst videos; empty where the report carries no curves."""
    curves = report.curves.get(name, {})
    kinds = dict.fromkeys(kind for found in curves.values() for kind in found if kind != "cut")
    return [plot for kind in kinds if (plot := _course(report, name, kind)) is not None]


def _course(report: Report, name: str, kind: str) -> Plot | None:
    data = []
    for group, rows, colour in zip(("best", "worst"), best_and_worst(report, name), (BLUE, ORANGE), strict=True):
        for rank, row in enumerate(rows.to_dict("records")):
            found = report.curves[name].get(row["video"], {})
            if len(found.get(kind, [])) < 2:
                continue
            line = {"type": "scatter", "name": f"{group} {rank + 1}", "mode": "lines", "y": _numbers(found[kind]),
                    "line": {"color": colour, "dash": DASHES[rank], "width": 2},
                    "hovertemplate": f"{_hover(row)}<br>frame %{{x}}: %{{y:.4g}}<extra>{group} {rank + 1}</extra>"}
            data += [line, *_cuts(line, found.get("cut", []), colour)]
    if not data:
        return None
    layout = {"margin": {"l": 44, "r": 10, "t": 8, "b": 40}, "showlegend": False,
              "xaxis": {"title": {"text": "frame, of those read"}, "zeroline": False},
              "yaxis": {"nticks": 5, "zeroline": False}}
    caption = ("Blue: the best videos by this score, orange: the worst; first solid, second dashed, third dotted."
               + (" Crosses: hard cuts." if any(trace["name"] == "cut" for trace in data) else ""))
    return Plot(f"{name}: {kind}", f"{kind} of {name} over the frames of its best and worst videos", caption, 240,
                data, layout)


def _cuts(line: dict[str, Any], cut: Sequence[float | None], colour: str) -> list[dict[str, Any]]:
    frames = [i for i, value in enumerate(cut) if value and i < len(line["y"])]
    return [{"type": "scatter", "name": "cut", "mode": "markers", "x": frames, "y": [line["y"][i] for i in frames],
             "showlegend": False, "marker": {"symbol": "x", "size": 9, "color": colour},
             "hovertemplate": "hard cut at frame %{x}<extra></extra>"}] if frames else []


def sub_scores(report: Report, name: str) -> pd.DataFrame:
    """What a score is made of: index its parts; columns mean, low and high (10 and 90 %), best and worst third."""
    import pandas as pd

    columns = {column: column.removeprefix(f"{name}.") for column in report.videos.columns
               if column.startswith(f"{name}.") and report.videos[column].notna().any()}
    rows = report.videos[report.videos[name].notna()]
    rows = rows.sort_values([name, "video"], ascending=[not report.scores[name].higher_is_better, True])
    parts, third = rows[list(columns)].astype(float).rename(columns=columns), max(1, len(rows) // 3)
    return pd.DataFrame({"mean": parts.mean(), "low": parts.quantile(0.1), "high": parts.quantile(0.9),
                         "largest": parts.abs().max(), "smallest": parts.min(),
                         "best": parts.head(third).mean(), "worst": parts.tail(third).mean()})


def radar(report: Report, name: str) -> Plot | None:
    """The sub-scores of the best and the worst third of the videos; None for fewer than three that can be drawn."""
    parts = sub_scores(report, name)
    parts = parts[(parts["largest"] > 0) & (parts["smallest"] >= 0)]
    if len(parts) < 3 or report.scores[name].n < 3:
        return None
    native = bool(parts["largest"].max() <= 1)
    scale = 1.0 if native else parts["largest"]
    outer = _round_up(parts[["best", "worst"]].to_numpy().max()) if native else 1.0
    names = [_text(part).replace("_", "<br>", 1).replace("_", " ") for part in parts.index]
    data = [_outline(f"{group} third", names, parts[group], parts[group] / scale, colour, dash)
            for group, colour, dash in (("best", BLUE, "solid"), ("worst", ORANGE, "dash"))]
    radial = {"range": [0, outer], "nticks": 4, "angle": 90, "tickangle": 90, "showticklabels": native,
              "tickfont": {"size": 9}, "showline": False}
    layout = {"margin": {"l": 70, "r": 70, "t": 40, "b": 40}, "legend": {"orientation": "h", "x": 0, "y": -0.14},
              "polar": {"radialaxis": radial, "angularaxis": {"tickfont": {"size": 10}, "direction": "clockwise"}}}
    caption = ("Means over the best and the worst third of the videos by this score; "
               + (f"every spoke runs from 0 to {outer:g}." if native
                  else "every spoke is scaled to the largest value of any video."))
    return Plot(name, f"Radar of the sub-scores of {name}; the table below has the numbers", caption, 350, data, layout)


def _round_up(value: float) -> float:
    """The next number with one significant digit, 1 at most: 0.43 -> 0.5; 1 for 0."""
    if value <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(value))
    return min(1.0, math.ceil(value / step) * step)


def _outline(group: str, names: list[str], values: pd.Series, radii: pd.Series, colour: str,
             dash: str) -> dict[str, Any]:
    closed = [*range(len(names)), 0]
    red, green, blue = bytes.fromhex(colour[1:])
    return {"type": "scatterpolar", "name": group, "theta": [names[i] for i in closed], "fill": "toself",
            "fillcolor": f"rgba({red}, {green}, {blue}, 0.13)", "r": [_short(radii.iloc[i]) for i in closed],
            "text": [format_value(values.iloc[i]) for i in closed],
            "mode": "lines+markers", "line": {"color": colour, "dash": dash, "width": 2}, "marker": {"size": 5},
            "hovertemplate": f"%{{theta}}: %{{text}}<extra>{group}</extra>"}


def _hover(row: dict[str, Any]) -> str:
    """Name and prompt of a video, for a tooltip: no markup of theirs, no template of plotly's."""
    prompt = row.get("prompt")
    lines = [str(row["video"])[-60:], *([prompt[:90]] if isinstance(prompt, str) and prompt else [])]
    return "<br>".join(_text(line) for line in lines)


def _text(text: str) -> str:
    """Plain text where plotly reads markup and %{templates}."""
    return html.escape(text, quote=False).replace("%{", "%&#8203;{")


def _numbers(values: Any) -> list[float | None]:
    return [None if value is None else _short(value) for value in values]


def _short(value: float) -> float:
    """Five significant digits: more would only weigh."""
    return float(f"{float(value):.5g}")
