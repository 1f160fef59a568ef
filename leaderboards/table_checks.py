"""Holds the table of videos against its row and its board: names, contents, prompts, seeds, means and intervals."""
from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from evalkit.results import Score
from evalkit.statistics import cluster_bootstrap
from leaderboards.fields import BoardError
from leaderboards.schema import Board, PromptSet, Submission

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("video", "prompt", "seed", "content", "error")
_ROUNDING = 1e-9  # relative: the order of a sum
_RESAMPLING = 1e-3  # relative to the width of an interval: versions of numpy may draw otherwise


def open_table(row: Submission) -> pd.DataFrame:
    """The per-video table, read within limits. BoardError where it is no Parquet file of the contract."""
    table = row.read_videos()
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise BoardError(f"{row.videos.path}: expected the columns {', '.join(COLUMNS)}, missing {', '.join(missing)}")
    return table


def check_table(row: Submission, table: pd.DataFrame) -> None:
    where, counts = row.videos.path, row.counts
    if len(table) != counts["found"]:
        raise BoardError(f"{where}: expected {counts['found']} rows as counts.found says, got {len(table)}")
    failed = int(table["error"].notna().sum())
    if failed != counts["failed"]:
        raise BoardError(f"{where}: expected {counts['failed']} rows with an error as counts.failed says, got {failed}")
    for column in ("video", "prompt", "content", "error"):
        wrong = [value for value in table[column].dropna() if not isinstance(value, str)]
        if wrong:
            raise BoardError(f"{where}: expected text in column {column!r}, got {wrong[0]}")
    _check_names(where, table["video"])
    if table["video"].isna().any() or table["video"].duplicated().any():
        raise BoardError(f"{where}: expected each video once, got {_first_doubled(table['video'])!r} more than once")
    _check_contents(where, table)
    _check_seeds(row, table)
    private = [column for column in table if column == "path"]
    if private:
        raise BoardError(f"{where}: column 'path' tells where the files lay on the machine that scored them: drop it")


def _first_doubled(videos: pd.Series) -> Any:
    return next(iter(videos[videos.isna() | videos.duplicated()]))


def _check_names(where: str, videos: pd.Series) -> None:
    """Names lead to files below the samples' folder alone."""
    wrong = [name for name in videos.dropna() if not name or name.startswith("/") or "\\" in name or "\0" in name
             or ".." in name.split("/")]
    if wrong:
        raise BoardError(f"{where}: expected videos by their names below the samples' folder, got {wrong[0]!r}")


def _check_contents(where: str, table: pd.DataFrame) -> None:
    """A file under two names would count twice; what could not be read has no hash."""
    known = table[table["content"].notna() & (table["content"] != "")]
    again = known[known["content"].duplicated(keep=False)]
    if len(again):
        twins = again["video"][again["content"] == again["content"].iloc[0]]
        raise BoardError(f"{where}: expected videos that differ, got one content under {len(twins)} names: "
                         f"{', '.join(twins[:3])}")


def _check_seeds(row: Submission, table: pd.DataFrame) -> None:
    """Of models whose table tells the seeds of its samples."""
    import pandas as pd

    found = {str(seed) for seed in table["seed"] if not pd.isna(seed)}  # text where one is beyond 64 bits
    if row.generation and found and found != (claimed := set(map(str, row.generation.seeds))):
        raise BoardError(f"{row.path.name}: generation: seeds: expected those of {row.videos.path}, {_listed(found)}; "
                         f"got {_listed(claimed)}")


def _listed(numbers: Iterable[str]) -> str:
    shown = sorted(numbers, key=lambda text: (len(text), text))
    return ", ".join(shown[:8]) + ", …" * (len(shown) > 8)


def fingerprint_prompts(prompts: Iterable[str | None]) -> PromptSet:
    """The set of distinct prompts, and how many samples each has; no prompt is the empty prompt.

    BoardError where one prompt has more samples than another, or there is no video.
    """
    import pandas as pd

    counts = Counter("" if pd.isna(prompt) else str(prompt) for prompt in prompts)
    if not counts:
        raise BoardError("expected at least one video")
    (often, most), (seldom, least) = counts.most_common()[0], counts.most_common()[-1]
    if most != least:
        raise BoardError(f"expected as many samples of each prompt, got {most} of {often!r} and {least} of {seldom!r}")
    digest = hashlib.sha256("\n".join(sorted(counts)).encode()).hexdigest()
    return PromptSet(len(counts), digest, most)


def check_prompts(row: Submission, board: Board, table: pd.DataFrame) -> None:
    """Models answer all of the board's prompts, equally often; a reference row (real videos) may have others."""
    if board.prompts is None or row.kind == "reference":
        return
    try:
        found = fingerprint_prompts(table["prompt"])
    except BoardError as error:
        raise BoardError(f"{row.videos.path}: {error}") from error
    if found.sha256 != board.prompts.sha256:
        raise BoardError(f"{row.videos.path}: other prompts than the board's {board.prompts.count}: expected the hash "
                         f"{board.prompts.sha256[:12]}…, got {found.count} of hash {found.sha256[:12]}…")
    if found.samples != board.prompts.samples:
        raise BoardError(f"{row.videos.path}: expected {board.prompts.samples} samples of each prompt as the board's "
                         f"first row has, got {found.samples}")


def check_column(row: Submission, board: Board, name: str, score: Score, table: pd.DataFrame) -> None:
    import numpy as np
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    where = f"{row.videos.path}: {name}"
    if not is_numeric_dtype(table[name]) or is_bool_dtype(table[name]):
        raise BoardError(f"{where}: expected numbers, got {table[name].dtype}")
    values = table[name].dropna().to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise BoardError(f"{where}: expected finite numbers, got {int((~np.isfinite(values)).sum())} that are not")
    if table.loc[table[name].isna(), "error"].isna().any():
        raise BoardError(f"{where}: a video has neither a value nor an error")
    if len(values) != score.n and score.value is not None:
        raise BoardError(f"{where}: expected {score.n} values as the score's n says, got {len(values)}")
    if score.value is None:
        if len(values):
            raise BoardError(f"{where}: the score is null, yet {len(values)} videos have a value")
        return
    if not math.isclose(values.mean(), score.value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise BoardError(f"{where}: the table's mean is {values.mean():.9g}, the score says {score.value:.9g}")
    _check_interval(where, row, board.metrics[name].range, score, table.loc[table[name].notna()], values)


def _check_interval(where: str, row: Submission, bounds: tuple, score: Score, table: pd.DataFrame,
                    values: Any) -> None:
    """The interval is the one that a run computes from the table."""
    import pandas as pd

    clusters = [video if pd.isna(prompt) or not prompt else prompt
                for prompt, video in zip(table["prompt"], table["video"], strict=True)]
    found = cluster_bootstrap(values, clusters, seed=row.seed)
    if (found is None) != (score.ci95 is None):
        raise BoardError(f"{where}: the table gives {'no' if found is None else 'an'} interval, the score says "
                         f"{score.ci95 and list(score.ci95)}")
    if found is None:
        return
    low, high = ends_of(bounds)
    found = tuple(min(max(end, low), high) for end in found)
    allowed = _RESAMPLING * (found[1] - found[0]) + _ROUNDING
    if any(abs(one - other) > allowed for one, other in zip(found, score.ci95, strict=True)):
        raise BoardError(f"{where}: the table's interval is [{found[0]:.6g}, {found[1]:.6g}], the score says "
                         f"[{score.ci95[0]:.6g}, {score.ci95[1]:.6g}]")


def ends_of(bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    """A range with infinity where it has no end."""
    low, high = bounds
    return -math.inf if low is None else low, math.inf if high is None else high
