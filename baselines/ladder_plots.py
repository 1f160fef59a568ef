"""The figures of a ladder's page as plain plotly JSON: courses of training, trade-offs, over-optimization."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from evalkit.report_plots import BLUE, GREEN, GREY, ORANGE, PINK, Plot

VIOLET = "#8b6fd1"
AXES = {"lora_scale": ("scale of the adapter", ORANGE, "diamond"), "guidance": ("guidance", GREEN, "square"),
        "sampling_steps": ("sampling steps", PINK, "triangle-up"), "beta": ("beta of DPO", VIOLET, "star"),
        "training": ("training steps", GREY, "cross")}
KINDS = {"proxy": ORANGE, "held out": GREEN, "truth": BLUE}
PLACES = ("top center", "bottom center", "middle right", "middle left")


def course(found: dict[str, Any]) -> Plot:
    """What was optimized, what never was, and the truth over one rung's training: three rows, each with its axis."""
    same = found["shown"]["proxy"] == found["shown"]["truth"]
    kinds = [kind for kind in KINDS if kind in found["changes"] and not (same and kind == "proxy")]
    layout: dict[str, Any] = {"margin": {"l": 56, "r": 10, "t": 24, "b": 40}, "showlegend": False, "annotations": [],
                              "xaxis": {"title": {"text": "step"}, "zeroline": False,
                                        "anchor": f"y{len(kinds) if len(kinds) > 1 else ''}"}}
    data = []
    for row, kind in enumerate(kinds):
        suffix, top = "" if row == 0 else str(row + 1), 1 - row / len(kinds)
        layout[f"yaxis{suffix}"] = {"domain": [top - 0.76 / len(kinds), top - 0.1 / len(kinds)], "nticks": 4,
                                    "exponentformat": "e", "automargin": True, "anchor": "x"}
        layout["annotations"].append({"text": f"<b>{kind}</b>: {escape(found['shown'][kind])}", "showarrow": False,
                                      "xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left",
                                      "yanchor": "middle"})
        data.append(_line(found["steps"], found["changes"][kind], KINDS[kind]) | {"yaxis": f"y{suffix}"})
    return Plot(found["rung"], f"Scores of {found['rung']} over its training",
                f"Change since step 0, of the same prompts, to step {found['steps'][-1]:g}, with 95 % intervals. "
                "A reward that rises while the truth falls is being gamed.", 110 * len(kinds) + 60, data, layout)


def _line(x: Sequence[float], rows: Sequence[dict[str, Any]], colour: str) -> dict[str, Any]:
    values = [row["value"] for row in rows]
    ends = [row["ci95"] or (row["value"], row["value"]) for row in rows]
    return {"type": "scatter", "mode": "lines+markers", "x": list(x), "y": values, "line": {"color": colour},
            "error_y": {"type": "data", "symmetric": False, "color": colour, "thickness": 1,
                        "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
                        "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)]},
            "hovertemplate": "step %{x}: %{y:+.4g}<extra></extra>"}


def front(found: dict[str, Any], own: dict[str, float]) -> Plot:
    """Rungs and what is swept beside them in two objectives; a third is the colour. own: axis -> where rungs stand."""
    rungs = [row for row in found["rows"] if not row["axis"]]
    data = [*_swept(found, rungs, own), _rungs(found, rungs)]
    if found["real"]:
        data.append(_marks([row | {"kl": None} for row in found["real"]], "real clips", GREY, "hexagon-open", found))
    on = sorted((row for row in found["rows"] if row["front"]), key=lambda row: row["values"][0])
    data.append({"type": "scatter", "name": "on the front", "mode": "markers" if len(found["columns"]) > 2 else
                 "lines+markers", "x": [row["values"][0] for row in on], "y": [row["values"][1] for row in on],
                 "hoverinfo": "skip", "line": {"color": GREY, "dash": "dot", "width": 1},
                 "marker": {"symbol": "circle-open", "size": 17, "color": GREY}})
    arrows = [f"{escape(name)} {'↑' if high else '↓'}"
              for name, high in zip(found["columns"], found["higher_is_better"], strict=True)]
    layout = {"margin": {"l": 60, "r": 12, "t": 12, "b": 44}, "legend": {"orientation": "h", "y": -0.2},
              "xaxis": {"title": {"text": arrows[0]}, "zeroline": False},
              "yaxis": {"title": {"text": arrows[1]}, "zeroline": False}}
    third = f" Colour of the rungs: {found['columns'][2]}, which is the third objective." if len(arrows) > 2 else ""
    return Plot(found["title"], f"Trade-off of {' and '.join(found['columns'])}",
                "Ringed: no other row is at least as good in all objectives and better in one. Lines join what differs "
                f"in one setting alone.{third} Point at a mark to see its setting and its distance (KL) from the model "
                "that it started at.", 460, data, layout)


def _swept(found: dict[str, Any], rungs: Sequence[dict[str, Any]], own: dict[str, float]) -> Iterable[dict[str, Any]]:
    by_name, shown = {row["name"]: row for row in rungs}, set()
    for parent in by_name:
        for axis, (title, colour, symbol) in AXES.items():
            mine = [row for row in found["rows"] if (row["parent"], row["axis"]) == (parent, axis)]
            if not mine:
                continue
            at = own.get(axis, max(row["at"] for row in mine) + 1)  # training ends at the rung
            line = sorted([*mine, by_name[parent] | {"at": at}], key=lambda row: row["at"])
            yield _marks(line, title, colour, symbol, found) | {
                "mode": "lines+markers", "line": {"color": colour, "width": 1}, "opacity": 0.75,
                "legendgroup": axis, "showlegend": axis not in shown}
            shown.add(axis)


def _rungs(found: dict[str, Any], rungs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    trace = _marks(rungs, "rungs", BLUE, "circle", found) | {
        "mode": "markers+text", "text": [escape(row["name"]) for row in rungs],
        "textposition": [PLACES[k % 4] for k in range(len(rungs))], "textfont": {"size": 10}}
    if len(found["columns"]) > 2:
        trace["marker"] |= {"color": [row["values"][2] for row in rungs], "colorscale": "Viridis",
                            "colorbar": {"thickness": 10, "len": 0.7}}
    return trace


def _marks(rows: Sequence[dict[str, Any]], title: str, colour: str, symbol: str,
           found: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scatter", "name": title, "mode": "markers", "x": [row["values"][0] for row in rows],
            "y": [row["values"][1] for row in rows], "marker": {"color": colour, "symbol": symbol, "size": 9},
            "hovertext": [_told(row, found) for row in rows], "hoverinfo": "text"}


def _told(row: dict[str, Any], found: dict[str, Any]) -> str:
    values = [f"{escape(name)} {value:.4g}" for name, value in zip(found["columns"], row["values"], strict=True)]
    return "<br>".join([escape(row["name"]), *values, *([] if row["kl"] is None else [f"KL {row['kl']:.3g}"])])


def overoptimization(fits: Sequence[dict[str, Any]]) -> Plot:
    """Gains over d = sqrt(KL) of one rung and its points, with R(d) = d (a - b d) where it could be fitted."""
    data = []
    for k, fit in enumerate(fits):
        colour = (ORANGE, GREEN, BLUE)[k % 3] if len(fits) > 2 else (BLUE, GREEN)[k % 2]
        data.append({"type": "scatter", "mode": "markers", "name": escape(fit["column"]), "x": fit["d"],
                     "y": fit["gains"], "marker": {"color": colour},
                     "hovertemplate": "d %{x:.3g}: %{y:+.4g}<extra></extra>"})
        if "a" in fit:
            d = np.linspace(0, max(fit["d"]), 40)
            data.append({"type": "scatter", "mode": "lines", "showlegend": False, "x": d.tolist(),
                         "y": (d * (fit["a"]["value"] - fit["b"]["value"] * d)).tolist(), "line": {"color": colour},
                         "hoverinfo": "skip"})
    layout = {"margin": {"l": 56, "r": 10, "t": 8, "b": 44}, "legend": {"orientation": "h", "y": -0.24},
              "xaxis": {"title": {"text": "d = √KL"}, "zeroline": False, "rangemode": "tozero", "exponentformat": "e"},
              "yaxis": {"title": {"text": "gain over its start"}, "exponentformat": "e", "automargin": True}}
    return Plot(fits[0]["rung"], f"Gain of {fits[0]['rung']} over its distance from its start",
                "Along training and the scale of the adapter; each score in its own unit.", 300, data, layout)
