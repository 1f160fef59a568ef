"""A board as what its pages read: one summary of all rows, and one file of per-video scores for each."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.catalogue import PATH as CATALOGUE
from leaderboards.fields import BoardError
from leaderboards.ranking import RankedRow, Ranking
from leaderboards.schema import COMPOSITE, Board, Generation, Submission
from leaderboards.tables import read_columns, read_numbers

ASSETS = Path(__file__).with_name("assets")
DIGITS = 7  # significant ones: more would only weigh
_NEEDS = {"prompts": "prompts", "reference": "a reference set", "paired": "a reference video each"}


def describe_board(board: Board, ranking: Ranking, per_video: Sequence[str], cards: Sequence[str]) -> dict[str, Any]:
    """All rows, best first, without their videos. per_video: metrics that have a score for each video."""
    rows = [describe_row(board, row) for row in ranking.rows]
    return {"title": board.title, "summary": board.summary, "rank_by": ranking.by,
            "rank_words": _rank_words(board, ranking), "protocols": dict(board.protocols), "rows": rows,
            "strength": None if ranking.by in board.metrics else ranking.by,
            "metrics": [_describe_metric(board, name, ranking, per_video, cards) for name in board.metrics]}


def describe_row(board: Board, row: RankedRow) -> dict[str, Any]:
    """A row of the overview: [value, low, high, n] by metric, or why there is no value."""
    it, scores = row.submission, []
    for name in board.metrics:
        score = it.scores[name]
        ends = score.ci95 or (None, None)
        scores.append(score.reason if score.value is None else [*map(_short, (score.value, *ends)), score.n])
    return {"slug": it.slug, "name": it.name, "kind": it.kind, "status": it.status, "submitted": it.submitted,
            "found": it.counts["found"], "failed": it.counts["failed"],
            "rank": row.rank_range, "unranked": row.reason, "pareto": row.pareto, "scores": scores,
            "strength": [_short(x) for x in (row.value, *(row.ci95 or (None, None)))],
            "run": it.checkpoint.run if it.checkpoint else None, "step": it.checkpoint.step if it.checkpoint else None}


def describe_submission(board: Board, it: Submission, videos: Any, clips: Mapping[str, str]) -> dict[str, Any]:
    """What the page of a model and a head-to-head need beyond the overview. videos: as `read_scores` gives them."""
    names = videos["video"]
    return {"links": sorted(it.links.items()), "commit": it.commit, "counts": dict(it.counts), "seed": it.seed,
            "versions": sorted(it.versions.items()), "generation": _generation(it.generation),
            "verification": asdict(it.badge) if it.badge else None,
            "withdrawal": asdict(it.withdrawal) if it.withdrawal else None, "sha256": it.videos.sha256,
            "videos": names, "prompts": videos["prompt"], "clips": [clips.get(name) for name in names],
            "values": [videos.get(name) for name in board.metrics]}


def read_scores(board: Board, row: Submission) -> dict[str, list]:
    """video, prompt and each per-video metric of a submission as lists; None where a video has no number.

    Raises BoardError where its table is none.
    """
    table = read_columns(row.locate(row.videos), ["video", "prompt", *board.metrics])
    there = table.column_names
    if not {"video", "prompt"} <= set(there):
        raise BoardError(f"{row.videos.path}: not a table of videos: it has {', '.join(there) or 'nothing'}")
    texts = {name: table[name].to_pylist() for name in ("video", "prompt")}
    found = {name: _numbers(read_numbers(table, name, row.videos.path)) for name in board.metrics if name in there}
    return texts | {name: values for name, values in found.items() if any(value is not None for value in values)}


def as_json(content: Any) -> str:
    """Compact ASCII, so that a script of it reads the same under any encoding."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def _describe_metric(board: Board, name: str, ranking: Ranking, per_video: Sequence[str],
                     cards: Sequence[str]) -> dict[str, Any]:
    metric, known = board.metrics[name], _known().get(name, {})
    rows = [row.submission for row in ranking.rows]
    values = [row.scores[name].value for row in rows if row.kind == "model" and not row.withdrawal]
    return {"name": name, "higher": metric.higher_is_better, "unit": metric.unit,
            "range": known.get("range", metric.range) if metric.range == (None, None) else metric.range,
            "summary": metric.summary or known.get("summary", ""), "protocol": metric.protocol,
            "weight": metric.weight, "anchored": metric.anchor is not None, "scale": _scale(metric.anchor, values),
            "per_video": name in per_video, "card": f"cards/{name}.html" if name in cards else None,
            "extractors": ", ".join(known.get("extractors", [])),
            "needs": ", ".join(_NEEDS[need] for need in known.get("needs", [])),
            "weakness": json.loads((ASSETS / "weaknesses.json").read_text()).get(name, "")}


def _known() -> dict[str, dict[str, Any]]:
    """evalkit's own metrics; another package's would need its code, and torch."""
    return {metric["name"]: metric for metric in json.loads(CATALOGUE.read_text())["metrics"]}


def _scale(anchor: Any, values: Sequence[float | None]) -> tuple[float, float]:
    """What 0 and one step outwards mean on a radar: the board's anchor, or median and deviation of its models."""
    if anchor is not None:
        return anchor.mean, anchor.std
    known = [value for value in values if value is not None]
    spread = float(np.std(known)) if known else 0.0
    return (_short(float(np.median(known))) if known else 0.0), _short(spread) or 1.0


def _rank_words(board: Board, ranking: Ranking) -> str:
    if ranking.by in board.metrics:
        return f"{ranking.by}, {'higher' if ranking.higher_is_better else 'lower'} is better"
    weighted = ", ".join(name for name, metric in board.metrics.items() if metric.weight)
    return (f"the composite of {weighted}, each in steps from a fixed anchor" if ranking.by == COMPOSITE
            else f"Bradley–Terry strength over wins, prompt by prompt, in {weighted}")


def _generation(made: Generation | None) -> list[tuple[str, str]]:
    if made is None:
        return []
    facts = {"sampler": made.sampler, "guidance": "none" if made.guidance is None else f"{made.guidance:g}",
             "steps": made.num_steps, "size": "×".join(map(str, made.size)), "fps": f"{made.fps:g}",
             "frames": made.num_frames, "seeds": ", ".join(map(str, made.seeds[:20])) + "…" * (len(made.seeds) > 20),
             "prompts rewritten": "yes" if made.prompts_rewritten else "no"}
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _numbers(values: np.ndarray) -> list[float | None]:
    whole = np.isfinite(values)
    size = np.floor(np.log10(np.abs(values, where=whole & (values != 0), out=np.ones(len(values)))))
    shift = 10.0 ** np.clip(DIGITS - 1 - size, -300, 300)
    rounded = np.round(np.where(whole, values, 0.0) * shift) / shift
    return rounded.tolist() if whole.all() else [x if ok else None for x, ok in zip(rounded.tolist(), whole.tolist(),
                                                                                    strict=True)]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
