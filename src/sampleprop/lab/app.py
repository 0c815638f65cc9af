"""The commands: compare, table, cite, list."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

import sampleprop
from sampleprop import diagnostics
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER
from sampleprop.lab import plot, problems, report, table

INTERRUPTED = 130

app = typer.Typer(
    help="Gradients through samples: which estimator is best on your problem?",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(sampleprop.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    problem: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(problems.BUILT_IN)}; or FILE.py:FUNCTION returning f, dist[, exact]."),
    ] = "digits",
    estimators: Annotated[
        str,
        typer.Option(
            help="Names, separated by commas; 'default' for every one that takes the distribution; 'all' to list the "
            "others with their reason too."
        ),
    ] = "default",
    budget: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of f for one estimate. The problem has a default.")
    ] = None,
    replicates: Annotated[int, typer.Option(min=128, help="Independent estimates for each estimator.")] = 1024,
    train_steps: Annotated[int, typer.Option(min=0, help="Training steps for estimators that learn.")] = 200,
    seed: Annotated[int, typer.Option(help="Of all noise.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl, comparison.md and comparison.png.")] = Path(
        "sampleprop-out"
    ),
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines, and nothing else, on standard output.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; 1 for our small problems, torch's choice for yours.")
    ] = None,
    t: Annotated[float | None, typer.Option(help="The target of the problem 'toy', E[(b - t)^2].")] = None,
    dim: Annotated[int | None, typer.Option(min=1, help="The number of bits of the problem 'toy'.")] = None,
) -> None:
    """Measure bias, variance and time of the estimators on one problem, at equal evaluations of f.

    Ctrl-C keeps what is done.
    """
    messages = Console(stderr=True)
    try:
        make = problems.find(problem, seed=seed, t=t, dim=dim)
        kinds = _kinds(estimators)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if threads is not None or problem in problems.BUILT_IN:
        torch.set_num_threads(threads or 1)
    with messages.status(f"preparing {problem}"):
        chosen = make()
    # `default` leaves out what refuses the distribution and what is not for E[f]; what is named is listed with the reason.
    candidates = [kind() for kind in kinds]
    if estimators == "default":
        candidates = [e for e in candidates if e.objective == "mean" and e.refusal(chosen.dist) is None]
    elif estimators == "all":
        candidates.sort(key=lambda e: e.objective != "mean")  # the first one says what is compared
    with report.progress(messages) as told:
        comparison = diagnostics.compare(
            chosen.f,
            chosen.dist,
            candidates,
            budget=chosen.budget if budget is None else budget,
            exact=chosen.exact,
            context=chosen.context,
            replicates=replicates,
            seed=seed,
            train_steps=train_steps,
            progress=told,
        )
    comparison = dataclasses.replace(comparison, problem=chosen.title)
    written = _write(comparison, out)
    if json:
        typer.echo(comparison.to_json())
    else:
        report.show(comparison, Console())
    messages.print(f"Written: {', '.join(str(path) for path in written)}", highlight=False, soft_wrap=True)
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command("table")
def table_command(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    write: Annotated[Path | None, typer.Option(help="Put the table between the markers of this file.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Exit with 1 if the table in this file is not what it should be.")
    ] = None,
) -> None:
    """The methods and what each needs and gives, from the facts that the tests verify."""
    try:
        if write is not None:
            table.write(write)
        if check is not None and not table.current(check):
            typer.echo(f"The table in {check} is out of date. Run: sampleprop table --write {check}", err=True)
            raise typer.Exit(1)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    if markdown:
        typer.echo(table.markdown())
    elif write is None and check is None:
        report.show_facts(table.methods(), Console())


@app.command()
def cite(names: Annotated[list[str], typer.Argument(help="Estimators, as `sampleprop list` names them.")]) -> None:
    """Print BibTeX for what you used."""
    try:
        sources = {found.source.key: found.source for found in _named(names)}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo("\n\n".join(source.bibtex() for source in sources.values()))


@app.command("list")
def list_command() -> None:
    """Print the estimators, one a line."""
    width = max(len(kind.__name__) for kind in REGISTER)
    for kind in REGISTER:
        first = (kind.__doc__ or "").strip().splitlines()[0]
        typer.echo(f"{kind.__name__:<{width}}  {first}")


def _kinds(names: str) -> Sequence[type[Estimator[Any]]]:
    if names in ("all", "default"):
        return REGISTER
    return _named([name.strip() for name in names.split(",") if name.strip()])


def _named(names: Sequence[str]) -> list[type[Estimator[Any]]]:
    known = {kind.__name__.lower(): kind for kind in REGISTER}
    for name in names:
        if name.lower() not in known:
            close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
            suggestion = f" Perhaps {', '.join(known[c].__name__ for c in close)}." if close else ""
            raise ValueError(f"There is no estimator {name!r}.{suggestion} `sampleprop list` prints all.")
    return [known[name.lower()] for name in names]


def _write(comparison: diagnostics.Comparison, out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    results, page = out / "results.jsonl", out / "comparison.md"
    results.write_text(comparison.to_json() + "\n", encoding="utf-8")
    page.write_text(f"# {comparison.problem}\n\n{comparison.to_markdown()}\n", encoding="utf-8")
    written = [results, page]
    if comparison.rows:
        written.append(out / "comparison.png")
        plot.draw(comparison, written[-1])
    return written
