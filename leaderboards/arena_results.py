"""What the votes say: strengths, agreement, fatigue; pairs.jsonl for training, arena scores for runs and boards."""
from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from evalkit.data.items import natural_key
from evalkit.errors import UsageError
from evalkit.results import Report, Score, protocol_id, write_atomic
from evalkit.statistics import cluster_bootstrap, wilson_interval
from leaderboards.agreement import cohen_kappa, krippendorff_alpha
from leaderboards.arena_pairing import Chooser
from leaderboards.arena_store import ArenaStore, Video, Vote

BLOCK = 20  # votes of one point of the fatigue curves
FEWEST_SHARED = 5  # questions that two raters must share for a kappa
DRAWS = 1000
NO_VOTE = "arena: no vote"


def make_chooser(store: ArenaStore, gold_every: int, seed: int | None = None) -> Chooser:
    """Of the store's pairs, for `ArenaStore.next_task`."""
    return Chooser([(pair.id, pair.a.model, pair.b.model) for pair in store.pairs.values() if pair.gold is None],
                   [pair.id for pair in store.pairs.values() if pair.gold is not None], gold_every, seed)


def summarise(store: ArenaStore, chooser: Chooser) -> dict[str, Any]:
    """Everything that the results page shows; JSON-ready."""
    votes = store.votes()
    real = [vote for vote in votes if vote.answers and store.pairs[vote.pair].gold is None]
    return {"dimensions": all_dimensions(store), "pairs": len(chooser.ids), "gold": len(chooser.gold),
            "votes": len(real), "skipped": sum(not vote.answers for vote in votes),
            "asked": len({vote.pair for vote in real}), "models": _models(store, chooser, real),
            "agreement": {name: _agreement(real, name) for name in all_dimensions(store)},
            "kappa": list(_kappas(real)), "raters": [_rater(store, name, of) for name, of in _by_rater(votes).items()]}


def all_dimensions(store: ArenaStore) -> list[str]:
    """Those that raters are asked, and overall, which is always known."""
    return list(dict.fromkeys([*store.dimensions, "overall"]))


def _by_rater(votes: Sequence[Vote]) -> dict[str, list[Vote]]:
    found: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        found[vote.rater].append(vote)
    return dict(sorted(found.items()))


def _credits(store: ArenaStore, votes: Sequence[Vote], dimension: str) -> dict[str, list[tuple[Video, float]]]:
    """Model -> of each vote on it the video and its credit: 1 preferred, 0 not, 0.5 for a tie."""
    found: dict[str, list[tuple[Video, float]]] = defaultdict(list)
    for vote in votes:
        pair, side = store.pairs[vote.pair], vote.side(dimension)
        found[pair.a.model].append((pair.a, (1 + side) / 2))
        found[pair.b.model].append((pair.b, (1 - side) / 2))
    return found


def _models(store: ArenaStore, chooser: Chooser, votes: Sequence[Vote]) -> list[dict[str, Any]]:
    with store.reading() as connection:
        fitted = chooser.strengths(store.standing(connection))
    per_dimension = {name: _credits(store, votes, name) for name in all_dimensions(store)}
    rows = []
    for k, model in enumerate(chooser.models):
        shares = {name: _share(found[model]) for name, found in per_dimension.items() if found[model]}
        rows.append({"model": model, "votes": len(per_dimension["overall"][model]), "shares": shares,
                     "strength": float(fitted.theta[k]), "deviation": float(fitted.covariance[k, k]) ** 0.5})
    return sorted(rows, key=lambda row: -row["strength"])


def _share(credits: Sequence[tuple[Video, float]]) -> dict[str, Any]:
    values = [value for _, value in credits]
    interval = cluster_bootstrap(values, [video.prompt for video, _ in credits], draws=DRAWS)
    return {"value": sum(values) / len(values), "ci95": interval, "wins": values.count(1.0), "ties": values.count(0.5),
            "losses": values.count(0.0)}


def _agreement(votes: Sequence[Vote], dimension: str) -> dict[str, Any]:
    """Alpha of -1, 0, 1: a tie is half-way between the sides; mirrored, or a much better model would hide agreement."""
    answers: dict[int, list[float]] = defaultdict(list)
    for vote in votes:
        answers[vote.pair].append(vote.side(dimension))
    return vars(krippendorff_alpha(list(answers.values()), "interval", mirrored=True, draws=DRAWS))


def _kappas(votes: Sequence[Vote]) -> Iterator[dict[str, Any]]:
    """Of every two raters that share enough questions, over all; each question counts from both sides, as for alpha."""
    answers = {name: {vote.pair: vote.side("overall") for vote in of} for name, of in _by_rater(votes).items()}
    for one, other in combinations(answers, 2):
        shared = sorted(answers[one].keys() & answers[other].keys())
        if len(shared) >= FEWEST_SHARED:
            kappa = cohen_kappa(*([sign * answers[name][pair] for pair in shared for sign in (1, -1)]
                                  for name in (one, other)))
            yield {"raters": [one, other], "kappa": kappa, "n": len(shared)}


def gold_right(store: ArenaStore, vote: Vote) -> bool | None:
    """Whether a vote on a gold question is right in each dimension that is known; None of any other vote."""
    gold = store.pairs[vote.pair].gold
    if gold is None or not vote.answers:
        return None
    return all(vote.side(name) == side for name, side in gold.items())


def _rater(store: ArenaStore, name: str, votes: Sequence[Vote]) -> dict[str, Any]:
    """Care and fatigue of one rater: answer times, gold and side bias, in all and block by block."""
    given = [vote for vote in votes if vote.answers]
    blocks = [given[start:start + BLOCK] for start in range(0, len(given), BLOCK)]
    return {"rater": name, "votes": len(given), "skipped": len(votes) - len(given), **_care(store, given),
            "blocks": [_care(store, block) for block in blocks]}


def _care(store: ArenaStore, votes: Sequence[Vote]) -> dict[str, Any]:
    gold = [right for vote in votes if (right := gold_right(store, vote)) is not None]
    sides = [answer == "left" for vote in votes for answer in vote.answers.values() if answer in ("left", "right")]
    return {"seconds": median(vote.seconds for vote in votes) if votes else None, "gold": _part(gold),
            "left": _part(sides), "undecided": _part([vote.preference == 0 for vote in votes])}


def _part(flags: Sequence[bool]) -> dict[str, Any]:
    share = sum(flags) / len(flags) if flags else None
    return {"value": share, "n": len(flags), "ci95": wilson_interval(share, len(flags)) if flags else None}


def counted_votes(store: ArenaStore, min_gold: float = 0.0) -> list[Vote]:
    """Votes on real pairs, skipped ones left out, of raters whose share of right gold answers is at least `min_gold`.

    UsageError where there are none.
    """
    kept = []
    for votes in _by_rater(store.votes()).values():
        care = _care(store, [vote for vote in votes if vote.answers])["gold"]
        if not min_gold or (care["value"] or 0.0) >= min_gold:
            kept += [vote for vote in votes if vote.answers and store.pairs[vote.pair].gold is None]
    if not kept:
        of = f" of raters with a gold accuracy of at least {min_gold:g}" if min_gold else ""
        raise UsageError(f"expected at least one vote{of}, found none")
    return sorted(kept, key=lambda vote: (vote.answered, vote.token))


def export_pairs(store: ArenaStore, path: Path, min_gold: float = 0.0) -> int:
    """Write pairs.jsonl as `evalkit rewards train` and `evalkit baseline dpo` read it; how many rows it has.

    A row per vote and dimension, and one for "overall" (see `arena_store.overall`). "Both are bad" is a tie.
    """
    folder, rows = path.resolve().parent, []
    for vote in counted_votes(store, min_gold):
        pair = store.pairs[vote.pair]
        for dimension in all_dimensions(store):
            side = vote.side(dimension)
            two = (pair.b, pair.a) if side < 0 else (pair.a, pair.b)
            chosen, rejected = (Path(os.path.relpath(video.path, folder)).as_posix() for video in two)
            rows.append({"chosen": chosen, "rejected": rejected, "prompt": pair.a.prompt, "tie": side == 0,
                         "dimension": dimension, "rater": vote.rater})
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return len(rows)


def export_runs(store: ArenaStore, folder: Path, min_gold: float = 0.0) -> list[Path]:
    """Into `folder`/MODEL of each model the scores arena_visual, …, arena_overall, as `evalkit run` would leave them.

    A score is the mean over videos of the share of votes for it, ties half; a video without a vote has an error. Other
    scores of the same videos that a run left there stay, so that one row of a board has both. UsageError where that
    run is of other videos.
    """
    votes = counted_votes(store, min_gold)
    models = sorted({video.model for pair in store.pairs.values() if pair.gold is None for video in (pair.a, pair.b)})
    credits = {name: _credits(store, votes, name) for name in all_dimensions(store)}
    return [_save_run(store, folder / model, models, {name: of[model] for name, of in credits.items()})
            for model in models]


def _save_run(store: ArenaStore, folder: Path, models: Sequence[str],
              credits: Mapping[str, Sequence[tuple[Video, float]]]) -> Path:
    previous = Report.load(folder) if (folder / "results.json").is_file() else None
    made = previous.environment if previous else {"versions": {"video-evalkit": version("video-evalkit")}, "seed": 0}
    videos = sorted((video for video in store.videos.values() if video.model == folder.name),
                    key=lambda video: natural_key(video.name))
    voted = {video.id for video, _ in credits["overall"]}
    failures = [{"path": video.name, "error": f"arena_{name}: no vote"} for video in videos if video.id not in voted
                for name in credits]
    report = Report(folder.name, {}, {}, {"found": len(videos)}, failures, made,
                    _table(videos, [None if video.id in voted else NO_VOTE for video in videos]))
    for dimension, given in credits.items():
        protocol = {"metric": f"arena_{dimension}", "version": 1, "models": list(models),
                    "asked": list(store.dimensions)}
        _score(report, protocol, videos, given)
    if previous:
        _keep(report, previous, folder)
    failed = int(report.videos["error"].notna().sum())
    report.counts = {"found": len(videos), "scored": len(videos) - failed, "failed": failed}
    return report.save(folder)


def _keep(report: Report, previous: Report, folder: Path) -> None:
    """The other scores of a run of the same videos, and why some of these have none."""
    if left := report.keep_scores_of(previous):
        raise UsageError(f"{folder} holds {', '.join(left)} of other videos than the arena's: give another folder")
    known = previous.videos["error"]
    report.videos["error"] = known.where(known != NO_VOTE).fillna(report.videos["error"]).astype("string")


def _table(videos: Sequence[Video], errors: Sequence[str | None]) -> Any:
    """The columns that every run has."""
    import pandas as pd

    fits = all(video.seed is None or -2**63 <= video.seed < 2**63 for video in videos)  # torch's own reach 2**64
    seeds = [video.seed if fits or video.seed is None else str(video.seed) for video in videos]
    table = pd.DataFrame({
        "video": [video.name for video in videos], "path": [video.path for video in videos],
        "prompt": [video.prompt for video in videos], "seed": pd.array(seeds, dtype="Int64" if fits else "string"),
        "content": [video.digest for video in videos], "error": errors})
    return table.astype({"prompt": "string", "path": "string", "error": "string"})


def _score(report: Report, protocol: dict[str, Any], videos: Sequence[Video],
           given: Sequence[tuple[Video, float]]) -> None:
    """Add the column and the score of one dimension."""
    found: dict[str, list[float]] = defaultdict(list)
    for video, credit in given:
        found[video.id].append(credit)
    means = [sum(found[video.id]) / len(found[video.id]) if video.id in found else math.nan for video in videos]
    judged = [(mean, video.prompt) for mean, video in zip(means, videos, strict=True) if video.id in found]
    name, key = protocol["metric"], protocol_id(protocol)
    report.protocols[key], report.videos[name] = protocol, means
    if not judged:
        report.scores[name] = Score(None, None, 0, "", True, key, "no vote")
        return
    values = [mean for mean, _ in judged]
    interval = cluster_bootstrap(values, [prompt for _, prompt in judged], seed=report.environment.get("seed") or 0)
    interval = interval and (max(0.0, interval[0]), min(1.0, interval[1]))
    report.scores[name] = Score(sum(values) / len(values), interval, len(values), "", True, key,
                                details={"votes": len(given)})
