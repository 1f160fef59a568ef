"""Where a run's numbers go: log.jsonl, a line for each time they are logged, beside the trackers of accelerate."""
from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError

LOG = "log.jsonl"


def open_trackers(folder: Path, names: Sequence[str]) -> list[Any]:
    """For `Accelerator(log_with=…)`. UsageError for a tracker that is not installed."""
    from accelerate.tracking import GeneralTracker, on_main_process

    class JsonLines(GeneralTracker):
        name, requires_logging_directory, main_process_only = "jsonl", False, True

        @property
        def tracker(self) -> Path:
            return folder / LOG

        @on_main_process
        def store_init_configuration(self, values: dict[str, Any]) -> None:
            """The run's configuration is in config.json."""

        @on_main_process
        def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
            with self.tracker.open("a") as file:
                file.write(json.dumps({"step": step} | values) + "\n")

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UsageError(f"--trackers: {missing[0]} is not installed; install it, or give --trackers none")
    folder.mkdir(parents=True, exist_ok=True)
    return [JsonLines(), *names]


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run; of a step that was logged twice, because the run was stopped after it, the last."""
    path = Path(folder) / LOG
    lines = path.read_text().splitlines() if path.is_file() else []
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in lines:
        row = json.loads(line)
        found[row["step"], "loss" in row] = row
    return sorted(found.values(), key=lambda row: row["step"])
