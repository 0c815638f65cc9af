"""Tables in the terminal, narrow enough to fit."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sampleprop.diagnostics.comparing.row import Group
from sampleprop.lab.show.summary import Summary
from sampleprop.lab.show.table import HEADINGS, Method

# Columns that a narrow terminal leaves out, in this order; the files have every column.
DISPENSABLE = ("bias z", "rank by f", "evaluations", "signal/noise", "time (ms)", "variance × time")
COLORS: dict[Group, str] = {"unbiased": "green", "biased in general": "magenta", "biased here": "yellow"}
NARROWEST = 160  # without a terminal no column has to be left out


def show(summary: Summary, console: Console) -> None:
    """Print the comparison as a table with its notes."""
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    unlimited = console.options.update(width=10 * NARROWEST)
    hidden: list[str] = []
    table = _table(summary, hidden)
    for column in DISPENSABLE:
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
        hidden.append(column)
        table = _table(summary, hidden)
    if summary.lines:
        console.print(table)
    for note in summary.notes():
        console.print(Text(f"· {note}", style="dim"))


def show_facts(methods: Sequence[Method], console: Console) -> None:
    """Print the table of methods."""
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        table.add_column(heading)
    for method in methods:
        table.add_row(*(cell.replace("**", "") for cell in method.cells()))
    console.print(table)


def _table(summary: Summary, hidden: Sequence[str]) -> Table:
    table = Table(title=summary.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    shown = [i for i, name in enumerate(summary.columns) if name not in hidden]
    for i in shown:
        name = summary.columns[i] == "estimator"  # the only column that may be folded
        table.add_column(summary.columns[i], justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for line in summary.lines:
        cells = [Text(cell) for cell in summary.cells(line)]
        cells[summary.columns.index("bias")].stylize(COLORS[line.mean.group])
        table.add_row(*(cells[i] for i in shown), style="bold" if line.mean.rank == 1 else "")
    return table
