"""A running training's checkpoints, each sampled and scored with a fixed suite: rows of a board, and a gate on them.

Torch-free: sampling and scoring are processes.
"""
from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.compare import Comparison, check_gate, compare_reports
from evalkit.errors import UsageError
from evalkit.results import Report
from leaderboards.checkpoints import FoundCheckpoint, find_checkpoints, is_whole, snapshot
from leaderboards.reading import read_board, read_board_rows
from leaderboards.schema import Checkpoint, Generation
from leaderboards.submissions import add_run

PYTHON = shlex.quote(sys.executable)
OURS = f"{PYTHON} -m evalkit baseline sample --from {{checkpoint}} --prompts {{prompts}} --out {{out}}"
DIFFUSERS = f"{PYTHON} -m baselines.pipeline_sampling {{checkpoint}} --prompts {{prompts}} --out {{out}}"
PLACES = ("checkpoint", "prompts", "out")
MOST_TRIES = 2  # of one checkpoint before it is left out
WORST_PROMPTS = 5


@dataclass(frozen=True)
class Gate:
    """When a checkpoint is a regression against `base`: margins, held at 5 % false alarms over `nights` checks."""

    base: Report
    rules: Mapping[str, Any]  # a gate file's content
    nights: int = 30


@dataclass
class Watcher:
    """What to do with each new checkpoint of `folder`; results lie in `out`, a folder per checkpoint."""

    folder: Path
    out: Path
    prompts: str
    sample: str = ""  # a command with {checkpoint}, {prompts} and {out}; default: for our baselines and for diffusers'
    scoring: Sequence[str] = ()  # further arguments of `evalkit run`: --suite, --reference, --device …
    board: Path | None = None
    run: str = ""  # the training run's name on the board; default: the folder's
    generation: Generation | None = None
    gate: Gate | None = None
    settle: float = 10.0  # seconds without a write before a checkpoint counts as whole
    say: Callable[[str], None] = print
    regressions: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)  # checkpoint -> times it could not be sampled or scored

    def __post_init__(self) -> None:
        if self.sample:
            split_command(self.sample)  # before anything is sampled
        self.run = self.run or self.folder.resolve().name

    def look(self) -> list[FoundCheckpoint]:
        """New checkpoints that are whole, by step."""
        return [one for one in find_checkpoints(self.folder)
                if not (self.out / one.name / "run" / "results.json").exists()
                and self.failures.get(one.name, 0) < MOST_TRIES and is_whole(one.path, self.settle)]

    def step(self) -> int:
        """Handle what is new; the number of checkpoints that were scored."""
        scored = 0
        for found in self.look():
            try:
                scored += self._handle(found)
            except (UsageError, OSError, subprocess.SubprocessError) as error:
                self.failures[found.name] = self.failures.get(found.name, 0) + 1
                self.say(f"{found.name}: {error}")
        return scored

    def _handle(self, found: FoundCheckpoint) -> bool:
        place, before = self.out / found.name, snapshot(found.path)
        samples, partial = place / "samples", place / "samples.partial"
        if not samples.exists():
            self.say(f"{found.name}: sampling")
            partial.mkdir(parents=True, exist_ok=True)
            diffusers = (found.path / "model_index.json").is_file()
            words = split_command(self.sample or (DIFFUSERS if diffusers else OURS))
            places = {"checkpoint": found.path.resolve(), "prompts": self.prompts, "out": partial.resolve()}
            _call([word.format_map(places) for word in words])
            if snapshot(found.path) != before:
                shutil.rmtree(partial)
                self.say(f"{found.name}: was written to while it was sampled: sampled again later")
                return False
            partial.rename(samples)
        self.say(f"{found.name}: scoring")
        run = place / "run.partial"
        shutil.rmtree(run, ignore_errors=True)
        written = [path for path in (samples / "prompts.jsonl", Path(self.prompts)) if path.is_file()]
        prompts = ["--prompts", str(written[0])] if written else []
        _call([sys.executable, "-m", "evalkit", "run", str(samples), "--out", str(run), "--no-report", "--model",
               f"{self.run} {found.step}", *prompts, *self.scoring])
        report = Report.load(run)
        self._add(found, run)
        self._judge(found, report)
        run.rename(place / "run")  # last: a checkpoint is done when its row is there and the gate has spoken
        return True

    def _add(self, found: FoundCheckpoint, run: Path) -> None:
        if self.board is None:
            return
        board, checkpoint = read_board(self.board), Checkpoint(self.run, found.step)
        twins = [one for one in find_checkpoints(self.folder) if one.step == found.step]
        name = f"{self.run} {found.step}" if len(twins) < 2 else f"{self.run} {found.step} {found.name}"
        if any(row.checkpoint == checkpoint and row.name == name for row in read_board_rows(board)):
            return  # added before a kill
        add_run(board, run, name, generation=self.generation, checkpoint=checkpoint)

    def _judge(self, found: FoundCheckpoint, report: Report) -> None:
        if self.gate is None:
            return
        for line in judge(self.gate, report):
            self.regressions.append(f"{found.name}: {line}")
            self.say(self.regressions[-1])


def split_command(sample: str) -> list[str]:
    """A command's words, which no shell reads. UsageError where {checkpoint} or {out} is missing, or another stands."""
    try:
        words = shlex.split(sample)
        for word in words:
            word.format_map(dict.fromkeys(PLACES, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise UsageError(f"--sample: expected a command with {{checkpoint}}, {{prompts}} and {{out}}, got {sample!r}: "
                         f"{error}") from error
    missing = [place for place in ("checkpoint", "out") if f"{{{place}}}" not in sample]
    if missing or not words:
        raise UsageError(f"--sample: expected {{checkpoint}} and {{out}} in the command, got {sample!r}")
    return words


def judge(gate: Gate, report: Report) -> list[str]:
    """One line per metric that lost more than its margin: by how much, and on which prompts most; [] where none."""
    names = [name for name in gate.rules.get("metrics", {}) if name in gate.base.scores and name in report.scores]
    found = compare_reports(gate.base, report, names) if names else []
    results = check_gate(found, gate.rules, looks=gate.nights * max(1, len(names)))
    comparisons = {one.name: one for one in found}
    return [f"{one.name}: {one.message}{_worst(gate.base, report, comparisons.get(one.name))}"
            for one in results if not one.passed]


def _worst(base: Report, new: Report, comparison: Comparison | None) -> str:
    """"; most on: …": the prompts (or videos) that lost most."""
    if comparison is None or comparison.difference is None or any(
            comparison.name not in (report.videos if report.videos is not None else ()) for report in (base, new)):
        return ""
    sign = 1 if comparison.higher_is_better else -1
    means = [report.videos.groupby(report.videos["prompt"].fillna(report.videos["video"]))[comparison.name].mean()
             for report in (base, new)]
    lost = (sign * (means[0] - means[1])).dropna().sort_values(ascending=False)
    shown = [f"{prompt!r} ({-sign * loss:+.3g})" for prompt, loss in lost.head(WORST_PROMPTS).items() if loss > 0]
    return f"; most on: {', '.join(shown)}" if shown else ""


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError(f"no command {command[0]!r}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise UsageError(f"{shlex.join(command)} ended with exit code {done.returncode}: {' / '.join(last)}")


def start_watch(folder: str | Path, *arguments: str, every: float = 30.0) -> subprocess.Popen:
    """One line in a training script: `evalkit watch folder …` beside it, until the script ends.

    arguments: those of `evalkit watch`. The training itself is neither slowed nor stopped by what the watch finds; the
    process that is returned has its exit code.
    """
    import atexit

    command = [sys.executable, "-m", "evalkit", "watch", str(folder), "--every", str(every), *arguments]
    process = subprocess.Popen(command)
    atexit.register(process.terminate)
    return process


def watch(watcher: Watcher, *, every: float, once: bool) -> int:
    """Look again every `every` seconds; returns 4 at the first regression, with `once` after the first look 0, 3 or 4.

    3 says that a checkpoint could not be sampled or scored.
    """
    from evalkit.cli import EXIT_FAILURES, EXIT_REGRESSION

    while True:
        watcher.step()
        if watcher.regressions:
            return EXIT_REGRESSION
        if once:
            return EXIT_FAILURES if watcher.failures else 0
        time.sleep(every)
