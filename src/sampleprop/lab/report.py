"""What the command shows in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sampleprop.diagnostics.compare import Progress as Told
from sampleprop.lab.summary import Summary
from sampleprop.lab.table import HEADINGS, Method

# What a narrow terminal does without, first to go first; the files have every column.
DISPENSABLE = ("bias z", "rank by f", "evaluations", "signal/noise", "time (ms)", "variance × time")
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
            if stage.startswith("measuring") and last != stage:
                bar.reset(task)  # a new clock: the rounds are equally long, the preparations were not
            last = stage
            bar.update(task, description=stage, completed=done, total=total)

        yield told


@contextmanager
def pieces(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """How many of several pieces are done; yields what is called with the name of each that is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} of {task.total}"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("measuring", total=total)

        def told(name: str) -> None:
            bar.advance(task)
            bar.console.print(f"Done: {name}", highlight=False)

        yield told


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
        cells[summary.columns.index("bias")].stylize("yellow" if line.mean.biased else "green")
        table.add_row(*(cells[i] for i in shown), style="bold" if line.mean.rank == 1 else "")
    return table
