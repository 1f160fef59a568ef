"""Scores as a table in the terminal."""
from __future__ import annotations

from evalkit.results import Report, Score


def format_value(value: float) -> str:
    """Four significant digits, without an exponent in the usual range."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def format_interval(score: Score) -> str:
    """"[0.80, 0.83]", or why there is none."""
    if score.ci95 is None:
        return "" if score.value is None else "too few for one"
    return f"[{format_value(score.ci95[0])}, {format_value(score.ci95[1])}]"


def print_columns(header: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """Columns as wide as their content, never cut: a narrow terminal wraps the line's end."""
    from rich.console import Console
    from rich.text import Text

    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
                 for name, cell, width in zip(header, row, widths, strict=True)]
        Console().print(Text("  ".join(cells).rstrip(), "bold" if row is header else ""), soft_wrap=True)


def print_scores(report: Report) -> None:
    """The table that `evalkit run` ends with: value, interval, n, direction; then what could not be scored and why."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text(report.model, "bold italic"))
    rows = [[name, format_value(score.value), score.unit, format_interval(score), str(score.n),
             "higher" if score.higher_is_better else "lower",
             format_value(score.floor) if score.floor is not None else "", score.protocol]
            for name, score in report.scores.items() if score.value is not None]
    if rows:
        header = ["score", "value", "unit", "95 % interval", "n", "better", "floor", "protocol"]
        used = [i for i, column in enumerate(header) if any(row[i] for row in rows)]
        columns = [[row[i] for i in used] for row in [header, *rows]]
        print_columns(columns[0], columns[1:], right=("value", "n", "floor"))
    for name, score in report.scores.items():
        if score.value is None:
            console.print(Text.assemble((f"{name}: ", "bold"), f"not scored: {score.reason}"), soft_wrap=True)
    counts = report.counts
    console.print(f"videos: {counts['found']} found, {counts['scored']} scored, {counts['failed']} failed")
    for failure in report.failures[:10]:
        console.print(Text(f"  {failure['path']}: {failure['error']}", style="red"), soft_wrap=True)
    if len(report.failures) > 10:
        console.print(f"  … and {len(report.failures) - 10} more, all in results.json")
