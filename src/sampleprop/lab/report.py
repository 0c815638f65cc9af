"""What the command shows in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sampleprop.diagnostics.compare import Progress as Told
from sampleprop.diagnostics.comparison import Comparison
from sampleprop.diagnostics.row import COLUMNS
from sampleprop.lab.table import HEADINGS, Method

# What a narrow terminal does without, first to go first; the files have every column.
DISPENSABLE = ("bias z", "rank by f", "evaluations", "signal/noise", "time (ms)")
NARROWEST = 160  # without a terminal nothing need be left out


@contextmanager
def progress(console: Console) -> Iterator[Told]:
    """A live bar; yields what `compare` calls with its progress."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None)
        last = ""

        def told(stage: str, done: int, total: int) -> None:
            nonlocal last
            if stage == "measuring" and last != stage:
                bar.reset(task)  # a new clock: the rounds are equally long, the preparations were not
            last = stage
            bar.update(task, description=stage, completed=done, total=total)

        yield told


def show(comparison: Comparison, console: Console) -> None:
    """Print the comparison as a table with its notes."""
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    unlimited = console.options.update(width=10 * NARROWEST)
    hidden: list[str] = []
    table = _table(comparison, hidden)
    for column in DISPENSABLE:
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
        hidden.append(column)
        table = _table(comparison, hidden)
    if comparison.rows:
        console.print(table)
    for note in comparison.notes():
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


def _table(comparison: Comparison, hidden: Sequence[str]) -> Table:
    table = Table(title=comparison.problem, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    shown = [i for i, name in enumerate(COLUMNS) if name not in hidden]
    for i in shown:
        name = COLUMNS[i] == "estimator"  # the only column that may be folded
        table.add_column(COLUMNS[i], justify="left" if name else "right", no_wrap=not name)
    for row in comparison.rows:
        cells = [Text(cell) for cell in row.cells()]
        cells[COLUMNS.index("bias")].stylize("yellow" if row.biased else "green")
        table.add_row(*(cells[i] for i in shown), style="bold" if row.rank == 1 else "")
    return table
