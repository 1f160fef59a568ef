"""Scores as a table in the terminal."""
from __future__ import annotations

from evalkit.results import Report, Score


def format_value(value: float) -> str:
    """Four significant digits, without an exponent in the usual range."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def format_score(score: Score) -> tuple[str, str]:
    """("0.812", "[0.80, 0.83]"), or ("—", reason)."""
    if score.value is None:
        return "—", score.reason or ""
    interval = f"[{format_value(score.ci95[0])}, {format_value(score.ci95[1])}]" if score.ci95 else "too few for one"
    return format_value(score.value), interval


def print_scores(report: Report) -> None:
    """The table that `evalkit run` ends with: value, interval, n, direction; then what could not be scored."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(report.model), title_justify="left", header_style="bold")
    for column, justify in (("score", "left"), ("value", "right"), ("95 % interval", "left"), ("n", "right"),
                            ("better", "left"), ("floor", "right"), ("protocol", "left")):
        table.add_column(column, justify=justify, no_wrap=column in ("score", "value", "protocol"))
    for name, score in report.scores.items():
        value, interval = format_score(score)
        better = "higher ↑" if score.higher_is_better else "lower ↓"
        unit = f" {score.unit}" if score.unit and score.value is not None else ""
        floor = format_value(score.floor) if score.floor is not None else ""
        table.add_row(name, value + escape(unit), escape(interval), str(score.n), better, floor, score.protocol)
    console = Console()
    console.print(table)
    counts = report.counts
    console.print(f"videos: {counts['found']} found, {counts['scored']} scored, {counts['failed']} failed")
    for failure in report.failures[:10]:
        console.print(f"  {failure['path']}: {failure['error']}", style="red", markup=False)
    if len(report.failures) > 10:
        console.print(f"  … and {len(report.failures) - 10} more, all in results.json")
