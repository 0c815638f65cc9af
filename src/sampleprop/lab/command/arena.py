"""The command `sampleprop arena`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from sampleprop.lab.command import arguments
from sampleprop.lab.measure import names


def arena(
    estimators: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ESTIMATOR...",
            help="Names, with arguments or without, as the suite writes them; all of the suite by default.",
            show_default="all",
            autocompletion=arguments.complete(names.estimators),
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Measure this estimator of yours, which is certified first, beside the files that come with the "
            "library; may be given again.",
        ),
    ] = None,
    problems: Annotated[
        str | None, typer.Option(help="Some problems of the suite, separated by commas; all by default.")
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="The number of seeds, from 0 on; or a list, as 0,3,7. --quick has the first alone.")
    ] = "5",
    quick: Annotated[
        bool, typer.Option("--quick", help="Small problems, one seed, few replicates, nothing trained: a minute.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Problems and seeds measured at a time.")] = 1,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Measure on the workers of this Dask scheduler.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for a JSON file of each estimator, arena.html and arena.md.")
    ] = Path("sampleprop-arena"),
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing: show the files in --out, or those of the library.")
    ] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Print a file with an estimator to begin with, and nothing else.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="Put the tables of the library's files between the markers of this page.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Exit with 1 if the tables in this page are not those of the library's files.")
    ] = None,
) -> None:
    """Measure every estimator on the standard suite, and show the order by the stated rule.

    Finished rows are kept in the files: the same command again measures only what is missing. Ctrl-C keeps what is
    finished.
    """
    from rich.console import Console

    from sampleprop.lab.arena import pages, running, tables
    from sampleprop.lab.measure import folder
    from sampleprop.lab.measure.mistakes import FAILED, INTERRUPTED

    messages = Console(stderr=True)
    if template:
        typer.echo(running.TEMPLATE.read_text(encoding="utf-8"), nl=False)
        return
    if write is not None or check is not None:
        _pages(write, check)
        return

    def wait() -> None:
        messages.print(f"Waiting: another run is writing to {out}.", highlight=False, soft_wrap=True)

    left = 0
    broken: list[str] = []
    with arguments.report_mistakes():
        if show:
            found = running.shown(out)
        else:
            if dask is not None and jobs > 1:
                raise ValueError(
                    "--dask takes as many jobs as there are workers; got --jobs too. Leave one of them out."
                )
            order = running.Order(
                running.chosen_estimators(estimators or [], add or []),
                running.chosen_problems(problems, quick),
                (0,) if quick else tuple(arguments.seeds(0, seeds)),
                quick,
            )
            with folder.locked(out, wait):
                run = running.start(order, out, tuple(add or ()), messages, jobs)
                measured = run.results(jobs, dask, messages, broken)
                with contextlib.suppress(KeyboardInterrupt), contextlib.closing(measured):
                    for result in measured:
                        run.keep(result)
            left = run.left()
            found = run.shown()
        written = pages.write(found, out)
    tables.show(found, Console())
    messages.print(f"Written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    for text in broken:
        messages.print(text, highlight=False, soft_wrap=True)
    if left and not broken:
        messages.print(f"Interrupted: {left} rows left. The same command again measures the rest.")
        raise typer.Exit(INTERRUPTED)
    if broken:
        raise typer.Exit(FAILED)


def _pages(write: Path | None, check: Path | None) -> None:
    from sampleprop.lab.arena import pages

    with arguments.report_mistakes():
        if write is not None:
            pages.fill(write)
        outdated = check is not None and not pages.filled(check)
    if outdated:
        arguments.end(f"The tables in {check} are out of date. Run: sampleprop arena --write {check}", 1)
