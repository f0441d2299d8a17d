import os
import platform

from tests.bench.meter import Row


def header() -> str:
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}, load {load}; medians of interleaved rounds"


def table(title: str, rows: list[Row], paths: list[str], beside: str = "") -> str:
    """Markdown: value and, in brackets, how many times as good as the first path, and as the one named `beside`."""
    lines = [f"### {title}", "", f"| | {' | '.join(paths)} |", "| --- |" + " ---: |" * len(paths)]
    for row in rows:
        lines.append(
            f"| {row.name} ({row.unit}) | {' | '.join(_cell(row, path, paths[0], beside) for path in paths)} |"
        )
        if row.cpu:
            cells = " | ".join("" if (c := row.cpu_mean(p)) is None else f"{c:.2f}" for p in paths)
            lines.append(f"| · CPU of the one in the middle ({row.cpu_unit}) | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, path: str, base: str, beside: str) -> str:
    value = row.median(path)
    if value is None:
        return row.notes.get(path, "")
    first = row.median(base)
    if path == base or not first or not value:
        return _number(value)
    others = [first] if path == beside else [other for other in (first, row.median(beside)) if other]
    times = ", ".join(f"{value / other if row.is_rate else other / value:.2f}x" for other in others)
    return f"{_number(value)} ({times})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
