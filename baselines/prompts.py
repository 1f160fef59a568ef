"""Which prompts are meant: of the made-up world, of a suite, or of a file."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import UsageError


@dataclass(frozen=True)
class Prompt:
    """A text and the file name that its sample `k` gets, without suffix; "/" between folders."""

    text: str
    names: str  # with {sample} in it

    def name(self, sample: int) -> str:
        return self.names.replace("{sample}", str(sample))


def read_prompts(where: str, level: str = "simple", register: str = "terse") -> list[Prompt]:
    """`world:N` or `world:N:SPLIT` (test by default), a .txt of one prompt a line, a table with a column prompt, or a
    suite that has prompts, whose naming is kept. UsageError where there are none."""
    from baselines.world import world_prompts

    kind, _, rest = where.partition(":")
    if kind == "world":
        count, _, split = rest.partition(":")
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(f"--prompts: expected world:N or world:N:SPLIT, got {where!r}")
        return numbered(world_prompts(int(count), split or "test", level, register))
    path = Path(where)
    if path.is_file() and path.suffix != ".toml":
        return numbered(_of_file(path))
    if path.suffix.lower() in (".txt", ".csv", ".jsonl", ".parquet"):
        raise UsageError(f"--prompts: no file {where}")
    return _of_suite(where)


def numbered(texts: list[str]) -> list[Prompt]:
    """`0007-1` is the second sample of the eighth prompt."""
    return [Prompt(text, f"{k:04d}-{{sample}}") for k, text in enumerate(texts)]


def _of_file(path: Path) -> list[str]:
    if path.suffix.lower() == ".txt":
        try:
            texts = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: expected UTF-8: {error}") from error
    else:
        from evalkit.data.manifests import PROMPT_COLUMNS, pick_column, read_rows

        try:
            rows = read_rows(path)
            column = pick_column(rows, PROMPT_COLUMNS, path)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if column is None:
            raise UsageError(f"{path}: expected a column prompt")
        texts = [str(row.values.get(column) or "") for row in rows]
    found = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not found:
        raise UsageError(f"{path}: expected at least one prompt, got none")
    return found


def _of_suite(name: str) -> list[Prompt]:
    from evalkit.suites.base import load_suite

    try:
        suite = load_suite(name)
    except ValueError as error:
        raise UsageError(f"--prompts: {error}; or world:N, or a file of prompts") from error
    if not suite.prompts:
        raise UsageError(f"--prompts {name}: this suite has no prompts of its own; try world:500, or a file")
    return [Prompt(prompt.text, suite.file_names(prompt, 0)[0].removesuffix("0") + "{sample}")
            if suite.file_names(prompt, 0)[0].endswith("0") else Prompt(prompt.text, f"{prompt.index:04d}-{{sample}}")
            for prompt in suite.prompts]
