"""The page of a ladder: what each method gained and cost, every number with its interval, samples side by side."""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from baselines import ladder_plots as plots
from baselines.ladder_scores import GRIDS
from baselines.ladder_summary import KIND, RESULT
from evalkit.errors import UsageError
from evalkit.report import Page, lay_out
from evalkit.results import write_atomic
from evalkit.table import format_value
from evalkit.thumbnails import video_uri

PAGE = "report.html"
Ladder = dict[str, Any]
WON = {"truth.overall": "true quality", "truth.visual": "true visual quality", "truth.motion": "true motion",
       "truth.text": "true agreement with the prompt"}
STATISTICS = """Intervals hold 95 %. One training seed: over prompts, whose samples count together (bootstrap; of
differences, the sign-flip test and its interval, paired by prompt). Several: crossed random effects of training seeds
and prompts, so that they also hold what another training would change. A difference is called better or worse where
p &lt; 0.05 after Holm's correction over all scores of that comparison; fvd_mini where its own interval leaves 0
out."""
DISTANCE = """The distance of a model from the one that it started at, KL, is ½ E |v(x<sub>t</sub>) −
v<sub>ref</sub>(x<sub>t</sub>)|² on the model's own samples, a mean over numbers, times and noise as in training: the
units that DPO's β multiplies."""


def write_report(folder: Path) -> Path:
    """`folder`/report.html from its ladder.json and the samples kept beside it. UsageError where there is none."""
    path = Path(folder) / RESULT
    if not path.is_file():
        raise UsageError(f"expected a ladder's {RESULT} in {folder}, found none")
    found = json.loads(path.read_text())
    if found.get("kind") != KIND:
        raise UsageError(f"{path}: not what `evalkit baseline ladder` writes")
    return write_atomic(Path(folder) / PAGE, html(found, Path(folder)).encode())


def html(found: Ladder, folder: Path) -> str:
    """The page: self-contained, no request is made, all text escaped. folder: where the kept samples lie."""
    page, title = Page(), found.get("title") or f"Ladder of {found['config']['preset']}"
    header = (f'<header><div><h1>{escape(title)}</h1><p class="muted">{escape(" · ".join(found["facts"]))}</p>'
              "</div></header>")
    sections = {"Trade-off": _trade_offs(found), "Samples": _samples(found, folder), "Scores": _scores(found),
                "Training": _grid(page.figure(plots.course(one)) for one in found.get("training", [])),
                "Fronts": _fronts(found, page), "Over-optimization": _overoptimization(found, page),
                "Method": _method(found)}
    return page.html(title, header + lay_out({title: text for title, text in sections.items() if text}))


def _grid(figures: Iterable[str]) -> str:
    content = "".join(figures)
    return f'<div class="grid wide">{content}</div>' if content else ""


def _trade_offs(found: Ladder) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(one["above"])}<small>over {escape(one["below"])}; {one["prompts"]} prompts, '
        f'{one["pairs"]} pairs of samples</small></th><td>{_changed(one, "better")}</td>'
        f'<td>{_changed(one, "worse")}</td><td>{_wins(one)}</td></tr>' for one in found["comparisons"])
    return ('<p class="muted">What each method gained, and what it cost: differences that are clear after correction '
            'for how many were looked at.</p><div class="scroll"><table><thead><tr><th scope="col">method</th>'
            '<th scope="col">gained</th><th scope="col">cost</th><th scope="col">pairs won</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")


def _changed(one: dict[str, Any], verdict: str) -> str:
    said = [f"<li>{escape(name)} {change['value']:+.3g}{_interval(change['ci95'])}</li>"
            for name, change in one["changes"].items() if change["verdict"] == verdict]
    return _list(said) if said else '<span class="muted">nothing clear</span>'


def _wins(one: dict[str, Any]) -> str:
    said = [f"<li>{escape(WON.get(name, name))}: {win['value']:.0%}"
            + (f" [{win['ci95'][0]:.0%}, {win['ci95'][1]:.0%}]" if win["ci95"] else "") + "</li>"
            for name, win in one["wins"].items()]
    return _list(said)


def _list(items: Sequence[str]) -> str:
    return f'<ul style="margin:0;padding-left:1.1rem">{"".join(items)}</ul>'


def _interval(ci: Sequence[float] | None) -> str:
    return "" if ci is None else f" [{format_value(ci[0])}, {format_value(ci[1])}]"


def _samples(found: Ladder, folder: Path) -> str:
    """A strip of playing clips of every rung, made of the same prompts and seeds."""
    grids = (folder / found["folders"][0] / GRIDS).resolve()
    strips, told = [], []
    for name, rung in found["rungs"].items():
        path = grids / f"{name}.npz"
        if not path.is_file():
            continue
        with np.load(path, allow_pickle=False) as kept:
            frames, told, fps = kept["frames"], kept["prompts"].tolist(), float(kept["fps"])
        strips.append(f'<figure class="panel"><h3>{escape(name)}</h3><video src="{_strip(frames, fps)}" '
                      f'aria-label="{escape(name)}: {len(frames)} samples" loop muted playsinline preload="auto" '
                      f'style="width:min(100%, {8 * len(frames)}rem)"></video>'
                      f"<figcaption>{escape(rung.get('about', ''))}</figcaption></figure>")
    if not strips:
        return ""
    prompts = "".join(f"<li>{escape(prompt)}</li>" for prompt in told)
    return ('<p><button id="motion" type="button">Pause all videos</button></p><p class="muted">The same prompts and '
            f"seeds in every row, from left to right:</p><ol>{prompts}</ol>{''.join(strips)}")


def _strip(frames: np.ndarray, fps: float) -> str:
    """Clips uint8 (N, T, 3, H, W) side by side, twice their size: players blur small pictures."""
    import torch

    wide = torch.from_numpy(frames).permute(1, 2, 3, 0, 4).flatten(3)
    return video_uri(wide.repeat_interleave(2, 2).repeat_interleave(2, 3), fps)


def _scores(found: Ladder) -> str:
    """Every score of every rung; an arrow where it differs clearly from the rung below."""
    rungs, marks = found["rungs"], _marks(found)
    head = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in rungs)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}&nbsp;{"↑" if metric["higher_is_better"] else "↓"}'
        f"<small>{escape(metric['summary'])}</small></th>"
        + "".join(_cell(rung["scores"].get(name), marks.get((key, name), "")) for key, rung in rungs.items()) + "</tr>"
        for name, metric in found["metrics"].items())
    rows += _row_of(found, "kl", "KL", "distance from the model that it started at")
    if any(rung.get("lora_scale") not in (None, 1.0) for rung in rungs.values()):
        rows += _row_of(found, "lora_scale", "scale", "of the adapter, where it was matched to another's distance")
    return ('<p class="muted">↑ higher is better, ↓ lower is better. ▲ clearly better, ▼ clearly worse than the rung '
            f'it started at.</p><div class="scroll"><table><thead><tr><th scope="col">score</th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>{_without(found)}")


def _row_of(found: Ladder, key: str, title: str, told: str) -> str:
    values = [rung.get(key) for rung in found["rungs"].values()]
    cells = "".join(f'<td class="number">{"" if value is None else format_value(value)}</td>' for value in values)
    return "" if values.count(None) == len(values) else (
        f'<tr><th scope="row">{escape(title)}<small>{escape(told)}</small></th>{cells}</tr>')


def _marks(found: Ladder) -> dict[tuple[str, str], str]:
    mark = {"better": "▲", "worse": "▼"}
    return {(one["above"], name): mark.get(change["verdict"], "") for one in found["comparisons"]
            if one["below"] == found["rungs"][one["above"]]["parent"] for name, change in one["changes"].items()}


def _cell(score: dict[str, Any] | None, mark: str) -> str:
    if score is None:
        return '<td class="number muted">too few clips</td>'
    return (f'<td class="number"><span class="value">{format_value(score["value"])}</span> {mark}'
            f"<br><small>{_interval(score['ci95']).strip()}</small></td>")


def _without(found: Ladder) -> str:
    lacking = {name: why for rung in found["rungs"].values() for name, why in rung["without"].items()}
    items = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in lacking.items())
    return f"<details><summary>Left out here, and why</summary><ul>{items}</ul></details>" if items else ""


def _fronts(found: Ladder, page: Page) -> str:
    if not found.get("fronts"):
        return ""
    config = found["config"]
    own = {"lora_scale": 1.0, "guidance": config["guidance"], "sampling_steps": config["sample_steps"],
           "beta": config["beta"]}
    rows = "".join(
        f'<tr><th scope="row">{escape(one["title"])}</th><td>{escape(name)}</td><td class="number">'
        f"{format_value(volume['value'])}{_interval(volume['ci95'])}</td></tr>"
        for one in found["fronts"] for name, volume in one["hypervolume"].items())
    return ('<p class="muted">Over the first prompts, of which all these have samples: their number is beside '
            f"<code>swept</code> below.</p>{_grid(page.figure(plots.front(one, own)) for one in found['fronts'])}"
            "<h3>Hypervolume</h3><p class=\"muted\">What the rows of a family cover beyond the worst value of any row; "
            'intervals over prompts.</p><div class="scroll"><table><thead><tr><th scope="col">objectives</th>'
            '<th scope="col">family</th><th scope="col" class="number">volume</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")


def _overoptimization(found: Ladder, page: Page) -> str:
    fits: dict[str, list[dict[str, Any]]] = {}
    for one in found.get("overoptimization", []):
        fits.setdefault(one["rung"], []).append(one)
    rows = "".join(
        f'<tr><th scope="row">{escape(one["rung"])}</th><td>{escape(one["column"])}</td>'
        + "".join(f'<td class="number">{text}</td>' for text in (
            *(f"{format_value(one[key]['value'])}{_interval(one[key]['ci95'])}" for key in "ab"),
            "none" if one["peak"] is None else format_value(one["peak"]), f"{one['r2']:.2f}")) + "</tr>"
        for one in found.get("overoptimization", []) if "a" in one)
    if not fits:
        return ""
    return ("<p>R(d) = d (a − b d), d = √KL (Gao et al., 2023): the gain rises by a and is eaten by b; at d = a / 2b "
            f"it is largest.</p>{_grid(page.figure(plots.overoptimization(one)) for one in fits.values())}"
            '<div class="scroll"><table><thead><tr><th scope="col">rung</th><th scope="col">score</th>'
            + "".join(f'<th scope="col" class="number">{head}</th>' for head in ("a", "b", "largest at d", "R²"))
            + f"</tr></thead><tbody>{rows}</tbody></table></div>")


def _method(found: Ladder) -> str:
    facts = {f"seconds, {name}": value for one in found.get("seconds", []) for name, value in one.items()}
    facts |= found.get("config", {})
    checkpoints = "".join(f"<li>{escape(name)}: <code>{escape(', '.join(map(str, rung['checkpoints'])))}</code></li>"
                          for name, rung in found["rungs"].items() if rung["checkpoints"] != [None])
    rows = "".join(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>"
                   for key, value in facts.items())
    return (f"<p>{STATISTICS}</p><p>{DISTANCE}</p><details><summary>Checkpoints</summary><ul>{checkpoints}</ul>"
            f"</details>{f'<details><summary>Settings</summary><dl>{rows}</dl></details>' if rows else ''}")
