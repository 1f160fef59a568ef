"""A progress bar per stage: videos (or what `unit` names) per second, time left, failures so far."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shown_progress(unit: str = "videos") -> Iterator[Callable[[str, int, int, Any], None]]:
    """Yields a callback (stage, done, of, row) for `evaluate(progress=…)`; silent on all ranks but the first.

    A row with `errors` counts as failed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True), TextColumn("[red]{task.fields[failed]}"),
        console=Console(stderr=True), disable=int(os.environ.get("RANK", "0")) != 0,
    )
    tasks: dict[str, Any] = {}
    failures: dict[str, int] = {}

    def advance(stage: str, done: int, of: int, row: Any = None) -> None:
        if stage not in tasks:
            # Started at the first result: forked workers must not inherit a half-drawn bar's thread and lock.
            if not bars.live.is_started:
                bars.start()
            tasks[stage] = bars.add_task(stage, total=of, rate="", failed="")
        failures[stage] = failures.get(stage, 0) + bool(getattr(row, "errors", None))
        task = bars.tasks[[task.id for task in bars.tasks].index(tasks[stage])]
        rate = f"{task.finished_speed or task.speed or 0:.1f} {unit}/s" if done > 1 else ""
        failed = f"{failures[stage]} failed" if failures[stage] else ""
        bars.update(tasks[stage], completed=done, rate=rate, failed=failed)

    try:
        yield advance
    finally:
        if bars.live.is_started:
            bars.stop()
