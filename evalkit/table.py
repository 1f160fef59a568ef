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


def print_scores(report: Report) -> None:
    """The table that `evalkit run` ends with: value, interval, n, direction; then what could not be scored and why."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(title=Text(report.model), title_justify="left", header_style="bold", box=None, pad_edge=False)
    scored = {name: score for name, score in report.scores.items() if score.value is not None}
    with_floor = any(score.floor is not None for score in scored.values())
    columns = ["score", "value", "95 % interval", "n", "better", *(["floor"] if with_floor else []), "protocol"]
    for column in columns:
        table.add_column(column, justify="right" if column in ("value", "n", "floor") else "left", no_wrap=True)
    for name, score in scored.items():
        unit = f" {score.unit}" if score.unit else ""
        floor = [format_value(score.floor) if score.floor is not None else ""] if with_floor else []
        cells = [name, format_value(score.value) + unit, format_interval(score), str(score.n),
                 "higher" if score.higher_is_better else "lower", *floor, score.protocol]
        table.add_row(*map(Text, cells))
    console.print(table)
    for name, score in report.scores.items():
        if score.value is None:
            console.print(Text.assemble((f"{name}: ", "bold"), f"not scored: {score.reason}"), soft_wrap=True)
    counts = report.counts
    console.print(f"videos: {counts['found']} found, {counts['scored']} scored, {counts['failed']} failed")
    for failure in report.failures[:10]:
        console.print(Text(f"  {failure['path']}: {failure['error']}", style="red"), soft_wrap=True)
    if len(report.failures) > 10:
        console.print(f"  … and {len(report.failures) - 10} more, all in results.json")
