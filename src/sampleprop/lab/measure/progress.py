"""How far the measurement is: a live bar in the terminal, and a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sampleprop.diagnostics.comparing.compare import Progress as Reporter

SECONDS = 30.0  # between two lines


@contextmanager
def show_progress(console: Console) -> Iterator[Reporter]:
    """Show a live bar, or lines; yield the function that `compare` calls with its progress."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None)
        last = ""

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last
            if not stage.startswith("preparing") and last != stage:
                bar.reset(task)  # a new clock: the steps of one stage are equally long, those of two are not
            last = stage
            bar.update(task, description=stage, completed=done, total=total)

        yield report


class _Lines:
    """A line for each half minute, with the time left in this stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._started = self._said = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started = stage, now
        if now - self._said < SECONDS:
            return
        self._said = now
        left = f", about {duration((now - self._started) * (total - done) / done)} left" if done else ""
        self._console.print(f"{stage}: {done} of {total}{left}", highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def count_pieces(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Show how many pieces are finished; yield the function to call with the name of each finished one."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} of {task.total}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=total)

        def report(name: str) -> None:
            bar.advance(task)
            bar.console.print(f"Done: {name}", highlight=False)

        yield report
