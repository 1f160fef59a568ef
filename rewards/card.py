"""A reward's card: everything in `credentials` and the hack suite as one JSON and one HTML page."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from evalkit.report import Page, lay_out
from evalkit.report_plots import BLUE, GREY, ORANGE, Plot
from evalkit.results import write_atomic
from evalkit.workers import map_in_processes
from rewards import credentials
from rewards.attack import attack
from rewards.base import Reward
from rewards.hack_clips import CleanClip
from rewards.hacks import pick_hacks

Card = dict[str, Any]
SEEN = 0.95  # AUC from which on a hack counts as seen
FEW = 6  # clips for gradients and the ascent, which cost hundreds of evaluations each
MOVED = 0.5  # standard deviations by which a change that should not matter may move a reward
DASHES = ("solid", "dash", "dot", "dashdot")


def measure(reward: Reward, clips: Sequence[CleanClip], twins: Mapping[str, Reward], workers: int = 1,
            progress: Callable[[str, int, int], None] = lambda *_: None) -> Card:
    """Everything but the hack suite and what people say; costly parts on the first clips alone, each with its n."""
    few, one = clips[:FEW], clips[0]
    climbs = {f"ascent from {name}": partial(credentials.ascent, reward, few, dict(twins), name)
              for name in credentials.ASCENTS}
    steps: dict[str, Callable[[], Any]] = climbs | {  # the longest first
        "responses": lambda: {"n": len(clips)} | {"of": credentials.responses(reward, clips)},
        "gradient": lambda: {"n": len(few)} | {"of": credentials.gradient_health(reward, few)},
        "invariances": lambda: {"n": len(clips)} | {"of": credentials.invariances(reward, clips)},
        "order": lambda: credentials.order_sensitivity(reward, clips)}
    found: Card = {"reward": reward.name, "version": reward.version, "summary": reward.summary,
                   "range": list(reward.range), "needs_prompts": reward.needs_prompts, "needs_fps": reward.needs_fps,
                   "min_frames": reward.min_frames, "protocol": reward.parameters_of_protocol()}
    measured = map_in_processes(lambda name: steps[name](), list(steps), workers, _crashed)
    for done, (name, result) in enumerate(zip(steps, measured, strict=True), 1):
        progress(name, done, len(steps) + 1)
        found[name] = result
    found["ascent"] = {name: found.pop(f"ascent from {name}") for name in credentials.ASCENTS}
    # alone: other processes would slow it
    timed = credentials.cost(reward, one.frames.float()[None] / 255, [one.prompt or ""], one.fps)
    progress("cost", len(steps) + 1, len(steps) + 1)
    return found | {"cost": timed | {"frames": list(one.frames.shape)}}


def _crashed(name: str) -> Any:
    raise RuntimeError(f"measuring {name} ended its process")


def hack_suite(reward: Reward, sets: Mapping[str, Sequence[CleanClip]], workers: int,
               progress: Callable[[str, int, int], None] = lambda *_: None) -> Card:
    """"hacks", a row for every hack and set, and "hackability" by set."""
    found = attack({reward.name: reward}, sets, pick_hacks(), workers=workers, progress=progress).as_json()
    return {"hacks": found["rows"], "hackability": found["hackability"][reward.name]}


def agreement(name: str, sign: int, ratings: Path) -> Card:
    """Spearman of a reward with every rating in a CSV, pooled and within each model.

    Columns: mp4 (beside the CSV), prompt, model where there are several, and ratings, whose names end in "_mean".
    `sign`: of the metric beside the reward. ValueError where a column is missing.
    """
    import pandas as pd

    from evalkit import evaluate
    from evalkit.data.datasets import VideoItem
    from evalkit.statistics import spearman_with_interval

    table = pd.read_csv(ratings)
    asked = [column for column in table.columns if column.endswith("_mean")]
    if not {"mp4", "prompt"} <= set(table.columns) or not asked:
        raise ValueError(f'{ratings}: expected columns mp4, prompt and ratings ending in "_mean", '
                         f"got {', '.join(table.columns)}")
    items = [VideoItem(ratings.parent / row.mp4, row.mp4, row.prompt) for row in table.itertuples()]
    scored = evaluate(items, metrics=[name]).videos[["video", name]]
    table = table.merge(scored, left_on="mp4", right_on="video")
    table["_reward"] = sign * table[name]
    groups = {"all": table} | (dict(list(table.groupby("model"))) if "model" in table else {})
    found: Card = {}
    for title, rows in groups.items():
        found[title] = {}
        for rating in asked:
            pair = rows[["_reward", rating, "prompt"]].dropna()
            if min(pair["_reward"].nunique(), pair[rating].nunique()) > 1:
                rho, interval = spearman_with_interval(pair["_reward"], pair[rating], pair["prompt"].tolist())
                found[title][rating.removesuffix("_mean")] = {"rho": rho, "ci": interval, "n": len(pair)}
    return found


def blind_spots(card: Card) -> list[str]:
    """What the card's own numbers say against the reward, in words."""
    said = [f"{row['hack']} on {row['clips']}: only {row['auc']:.0%} of clips score higher than their hacked twin "
            f"[{row['ci'][0]:.2f}, {row['ci'][1]:.2f}]" for row in card.get("hacks", []) if row["auc"] < SEEN]
    said += [f"{name}: moves the reward by {found['absolute']:.1f} standard deviations, and should not"
             for name, found in card["invariances"]["of"].items() if found["absolute"] > MOVED]
    if card["order"]["same"] > 0:
        said.append(f"shuffled frames score the same in {card['order']['same']:.0%} of clips")
    said += [f"gradient ascent from {name}: the reward rises from {found['reward'][0]:.2f} to {found['reward'][1]:.2f} "
             f"while PSNR to the clean clip falls from {found['psnr'][0]:.1f} to {found['psnr'][1]:.1f} dB"
             for name, found in card["ascent"].items() if found["psnr"][1] < found["psnr"][0]]
    return said


def write_card(card: Card, path: Path) -> Path:
    """Write `path` (HTML) and beside it the same as JSON, each in one step; returns `path`."""
    write_atomic(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    return write_atomic(path, html(card).encode())


def html(card: Card) -> str:
    """The page: self-contained, no request is made, all text escaped."""
    page = Page()
    facts = [f"version {card['version']}", f"range {card['range'][0]:g} to {card['range'][1]:g}",
             f"at least {card['min_frames']} frames", *(["needs prompts"] if card["needs_prompts"] else []),
             *(["needs fps"] if card["needs_fps"] else [])]
    header = (f"<header><div><h1>{escape(card['reward'])}</h1><p>{escape(card['summary'])}</p>"
              f'<p class="muted">{escape(" · ".join(facts))}</p></div></header>')
    spots = blind_spots(card)
    sections = {
        "Blind spots": "<ul>" + "".join(f"<li>{escape(spot)}</li>" for spot in spots) + "</ul>" if spots else
        "<p>None of these measurements speaks against it.</p>",
        "Hacks": _hacks(card, page), "Response": page.figure(_responses(card)) + _response_table(card),
        "Invariance": _invariances(card), "Ascent": _ascent(card), "Gradient": _gradient(card),
        "People": _people(card), "Cost": _cost(card), "Protocol": _table(
            ["constant", "value"], [[name, json.dumps(value)] for name, value in card["protocol"].items()])}
    return page.html(f"{card['reward']}: reward card", header + lay_out({k: v for k, v in sections.items() if v}))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col"{" class=number" if k else ""}>{escape(name)}</th>' for k, name in enumerate(heads))
    body = "".join("<tr>" + "".join(
        f'<th scope="row">{escape(str(cell))}</th>' if k == 0 else f'<td class="number">{escape(str(cell))}</td>'
        for k, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _hacks(card: Card, page: Page) -> str:
    rows = card.get("hacks", [])
    if not rows:
        return ""
    data = []
    sets = list(dict.fromkeys(row["clips"] for row in rows))
    for title, colour, symbol in zip(sets, (BLUE, ORANGE, GREY), ("circle", "diamond", "square"), strict=False):
        mine = [row for row in rows if row["clips"] == title][::-1]
        data.append({"type": "scatter", "mode": "markers", "name": title, "x": [row["auc"] for row in mine],
                     "y": [row["hack"] for row in mine], "marker": {"color": colour, "symbol": symbol, "size": 8},
                     "error_x": {"type": "data", "symmetric": False, "color": colour,
                                 "array": [row["ci"][1] - row["auc"] for row in mine],
                                 "arrayminus": [row["auc"] - row["ci"][0] for row in mine]}})
    count = len({row["hack"] for row in rows})
    layout = {"margin": {"l": 140, "r": 12, "t": 8, "b": 40},
              "xaxis": {"range": [-0.02, 1.02], "title": {"text": "AUC"}},
              "yaxis": {"automargin": True}, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
              "shapes": [{"type": "line", "x0": 0.5, "x1": 0.5, "yref": "paper", "y0": 0, "y1": 1,
                          "line": {"color": GREY, "dash": "dot"}}]}
    plot = Plot("", f"Area under the curve of every hack for {card['reward']}",
                "Share of clips that score higher than their hacked twin, ties half, with 95 % intervals. 1: never "
                "fooled; 0.5: blind to it; below: pays for it.", 24 * count + 120, data, layout)
    hackability = card.get("hackability", {})
    text = "".join(f"<p>Hackability on {escape(title)}: <b>{found['value']:.3f}</b>{_interval(found['ci'])}, "
                   f"n = {found['n']}: the mean over hacks of the share of twins that are paid at least as much.</p>"
                   for title, found in hackability.items())
    return text + page.figure(plot)


def _interval(ci: Sequence[float] | None) -> str:
    return "" if ci is None else f" [{ci[0]:.3f}, {ci[1]:.3f}]"


def _responses(card: Card) -> Plot:
    data = [{"type": "scatter", "mode": "lines+markers", "name": name, "x": list(range(6)), "y": found["means"],
             "line": {"dash": DASHES[k % 4], "color": (BLUE, ORANGE, GREY)[k % 3]}}
            for k, (name, found) in enumerate(card["responses"]["of"].items())]
    layout = {"margin": {"l": 52, "r": 12, "t": 8, "b": 40}, "xaxis": {"title": {"text": "severity"}},
              "yaxis": {"title": {"text": card["reward"]}}}
    return Plot("", "Mean reward at severities 0 to 5 of each corruption",
                f"Mean of {card['responses']['n']} clips of the made-up world at each severity.", 340, data, layout)


def _response_table(card: Card) -> str:
    return _table(["corruption", *map(str, range(6)), "median Spearman"],
                  [[name, *(f"{mean:.3f}" for mean in found["means"]), f"{found['spearman']:+.2f}"]
                   for name, found in card["responses"]["of"].items()])


def _invariances(card: Card) -> str:
    order = card["order"]
    rows = [[name, f"{found['shift']:+.2f}", f"{found['absolute']:.2f}"]
            for name, found in card["invariances"]["of"].items()]
    return (f"<p>In standard deviations of the reward over {card['invariances']['n']} clips. Shuffled frames score "
            f"lower in {order['auc']:.1%} of {order['n']} clips.</p>"
            + _table(["change", "mean shift", "mean |shift|"], rows))


def _ascent(card: Card) -> str:
    keys = [key for key in next(iter(card["ascent"].values())) if key not in ("n", "risen")]
    rows = [[name, *(f"{found[key][0]:.3f} → {found[key][1]:.3f}" for key in keys), f"{found['risen']:.0%}", found["n"]]
            for name, found in card["ascent"].items()]
    heads = [{"reward": card["reward"], "psnr": "PSNR to the clean clip, dB"}.get(key, f"twin: {key}") for key in keys]
    return (f"<p>{credentials.STEPS} steps of Adam on the pixels of damaged clips (severity 3). A reward that repairs "
            "raises the PSNR and its twins, which stand on other backbones; one that is hacked raises itself alone.</p>"
            + _table(["from", *heads, "clips that rose", "n"], rows))


def _gradient(card: Card) -> str:
    rows = [[name, f"{found['finite']:.0%}", f"{found['reached']:.0%}", f"{found['spread']:.3g}"]
            for name, found in card["gradient"]["of"].items()]
    return _table(["precision", "clips with a finite gradient", "frames reached", "largest over smallest frame"], rows)


def _people(card: Card) -> str:
    rows = []
    for title, ratings in card.get("people", {}).items():
        for rating, found in ratings.items():
            ci = f" [{found['ci'][0]:+.2f}, {found['ci'][1]:+.2f}]" if found["ci"] else ""
            rows.append([f"{title}, {rating}", f"{found['rho']:+.2f}{ci}", found["n"]])
    return _table(["clips and rating", "Spearman", "n"], rows)


def _cost(card: Card) -> str:
    length, _, height, width = card["cost"]["frames"]
    return (f"<p>One clip of {length} frames of {width} × {height}: {card['cost']['forward_ms']:.1f} ms forward, "
            f"{card['cost']['backward_ms']:.1f} ms with the gradient. "
            "<code>benchmarks/reward_cost.py</code> measures more sizes.</p>")
