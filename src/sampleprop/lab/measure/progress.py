"""How far the measurement is, as a live bar in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sampleprop.diagnostics.comparing.compare import Progress as Reporter


@contextmanager
def show_progress(console: Console) -> Iterator[Reporter]:
    """Show a live bar; yield the function that `compare` calls with its progress."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None)
        last = ""

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last
            if stage.startswith("measuring") and last != stage:
                bar.reset(task)  # a new clock: the rounds are equally long, the preparations were not
            last = stage
            bar.update(task, description=stage, completed=done, total=total)

        yield report


@contextmanager
def count_pieces(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Show how many pieces are finished; yield the function to call with the name of each finished one."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} of {task.total}"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("measuring", total=total)

        def report(name: str) -> None:
            bar.advance(task)
            bar.console.print(f"Done: {name}", highlight=False)

        yield report
