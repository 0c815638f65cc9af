"""The command `sampleprop compare`."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sampleprop.lab.command import arguments
from sampleprop.lab.measure import names as known
from sampleprop.lab.measure.names import PROBLEMS

FULL = (errno.ENOSPC, errno.EDQUOT)


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROBLEM...",
            help=f"Some of {', '.join(PROBLEMS)}; or FILE.py:FUNCTION returning f, dist[, exact].",
            show_default="digits",
            autocompletion=arguments.complete(lambda: PROBLEMS),
        ),
    ] = None,
    estimators: Annotated[
        str,
        typer.Option(
            help="Names with or without arguments, separated by commas, 'ScoreFunction, REBAR(coupled=True)'; also "
            "FILE.py:NAME for an estimator of yours, a class or an instance. 'default' for every one that takes the "
            "distribution; 'all' to list the others too.",
            autocompletion=arguments.complete(lambda: ["default", "all", *known.estimators()], ","),
        ),
    ] = "default",
    budget: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of f for one estimate. The problem has a default.")
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Further budgets, separated by commas, for variance against evaluations; 'none' for no such plot. "
            "By default a quarter and a half of the budget, without estimators that learn."
        ),
    ] = None,
    replicates: Annotated[
        int, typer.Option(min=128, help="Independent estimates for each estimator; an eighth at the further budgets.")
    ] = 1024,
    train_steps: Annotated[int, typer.Option(min=0, help="Training steps for estimators that learn.")] = 200,
    trajectory: Annotated[
        int,
        typer.Option(
            min=0, max=101, help="Measure at this number of points of one path of φ too, 2 or more; 0 for none."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="For all noise.")] = 0,
    seeds: Annotated[
        str | None,
        typer.Option(help="The number of seeds, from --seed on; or a list, as 0,3,7. Shows means and spreads."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Problems and seeds measured at a time. Times get less certain.")
    ] = 1,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Measure on the workers of this Dask scheduler.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, results.jsonl, comparison.md and comparison.png.")
    ] = Path("sampleprop-out"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the results in the folder first.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines, and nothing else, on standard output.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; 1 for our small problems, torch's choice for yours.")
    ] = None,
    t: Annotated[float | None, typer.Option(help="The target of the problem 'toy', E[(b - t)^2].")] = None,
    dim: Annotated[int | None, typer.Option(min=1, help="The number of bits of the problem 'toy'.")] = None,
) -> None:
    """Measure bias, variance and time of the estimators on some problems, at equal evaluations of f.

    Finished results are kept in the folder: the same command again measures only what is missing. Ctrl-C keeps what is
    finished. The exit status is 0 if all was measured, 1 if something failed, 2 for a mistake in the command or in a
    file, and 130 after Ctrl-C.
    """
    from rich.console import Console

    from sampleprop.lab.measure import configurations, folder, results, workers
    from sampleprop.lab.measure.mistakes import FAILED, INTERRUPTED
    from sampleprop.lab.measure.runs import Settings
    from sampleprop.lab.measure.store import Store
    from sampleprop.lab.show import output, terminal
    from sampleprop.lab.show.section import make_sections

    messages = Console(stderr=True)

    def wait() -> None:
        messages.print(f"Waiting: another run is writing to {out}.", highlight=False, soft_wrap=True)

    with arguments.report_mistakes():
        settings = Settings(
            estimators=configurations.split(estimators),
            selection=estimators if estimators in ("default", "all") else "named",
            budget=budget,
            budgets=arguments.budgets(budgets),
            replicates=replicates,
            train_steps=train_steps,
            trajectory=trajectory,
            threads=threads,
            t=t,
            dim=dim,
        )
        pieces = arguments.pieces(names or ["digits"], arguments.seeds(seed, seeds), t, dim)
        if trajectory == 1:
            raise ValueError("--trajectory needs at least 2 points, the start and the end of the path; got 1.")
        if dask is not None and jobs > 1:
            raise ValueError("--dask takes as many jobs as there are workers; got --jobs too. Leave one of them out.")
    with arguments.report_mistakes(), _explained(out), folder.locked(out, wait):
        store = Store(out, settings, fresh)
        missing = store.missing(pieces)
        if len(missing) < len(pieces):
            kept = "; ".join(str(piece) for piece in pieces if piece not in missing)
            messages.print(f"Kept from {out}: {kept}. --fresh measures again.", highlight=False, soft_wrap=True)
        broken: list[str] = []
        measured = workers.results(missing, settings, jobs=jobs, dask=dask, console=messages, broken=broken)
        with contextlib.suppress(KeyboardInterrupt), contextlib.closing(measured):
            for result in measured:
                store.add(result)
        shown = store.chosen(pieces)
        found = make_sections(shown)
        written = output.write(found, out) if found else []
    if json:
        typer.echo(results.to_text(line for result in shown for line in results.to_lines(result)), nl=False)
    else:
        for each in found.values():
            terminal.show(each.summary, Console())
    if written:
        messages.print(f"Written: {', '.join(str(path) for path in written)}", highlight=False, soft_wrap=True)
    for text in broken:
        messages.print(text, highlight=False, soft_wrap=True)
    left = store.missing(pieces)
    if left and not broken:
        messages.print(f"Interrupted: {len(left)} of {len(pieces)} left. The same command again measures the rest.")
        raise typer.Exit(INTERRUPTED)
    empty = [str(result.piece) for result in shown if not result.comparison.rows]
    if empty:
        messages.print(f"No estimator could be measured: {'; '.join(empty)}.", highlight=False, soft_wrap=True)
    if empty or broken:
        raise typer.Exit(FAILED)


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Say in a line why the folder cannot be written."""
    from sampleprop.lab.measure.mistakes import FailedError, Mistake

    try:
        yield
    except OSError as error:
        text = f"--out needs a folder that can be written; got {out}: {error.strerror or error}."
        if error.errno in FULL:
            raise FailedError(f"{text} What was finished before is kept; make room and run the same again.") from error
        raise Mistake(text) from error
