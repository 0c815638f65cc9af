"""All commands: arena, audit, certify, compare and recommend from their own files, and table, cite and list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import sampleprop
from sampleprop.lab.command.arena import arena
from sampleprop.lab.command.arguments import complete, report_mistakes
from sampleprop.lab.command.audit import audit
from sampleprop.lab.command.certify import certify
from sampleprop.lab.command.compare import compare
from sampleprop.lab.command.recommend import recommend
from sampleprop.lab.measure import names as known

app = typer.Typer(
    help="Gradients through samples: which estimator is best on your problem?",
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


app.command()(arena)
app.command()(audit)
app.command()(compare)
app.command()(recommend)
app.command()(certify)


@app.command("table")
def table_command(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    write: Annotated[Path | None, typer.Option(help="Put the table between the markers of this file.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Exit with 1 if the table in this file is not what it should be.")
    ] = None,
) -> None:
    """The table of methods: what each needs and gives, from facts that the tests verify."""
    from rich.console import Console

    from sampleprop.lab.show import table, terminal

    try:
        if write is not None:
            table.write(write)
        outdated = check is not None and not table.current(check)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    if outdated:
        typer.echo(f"The table in {check} is out of date. Run: sampleprop table --write {check}", err=True)
        raise typer.Exit(1)
    if markdown:
        typer.echo(table.markdown())
    elif write is None and check is None:
        terminal.show_facts(table.methods(), Console())


@app.command()
def cite(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Estimators, by a name that `sampleprop list` prints, or FILE.py:NAME; keys of papers, as the "
            "documentation has them in brackets; or nothing, for sampleprop itself.",
            autocompletion=complete(known.estimators),
        ),
    ] = None,
) -> None:
    """Print BibTeX for what you used: sampleprop, or the papers of estimators."""
    from sampleprop.bibliography import entries, own_entry
    from sampleprop.lab.measure import configurations

    if not names:
        typer.echo(own_entry())
        return

    def entry(name: str) -> str:
        if name in entries():
            return entries()[name]
        kind = configurations.find_class(name)
        source = getattr(kind, "source", None)  # only estimators of the library need one
        # BibTeX ignores text outside of entries.
        return f"% {kind.__name__} states no source." if source is None else source.bibtex()

    with report_mistakes():
        found = [entry(name) for name in names]
    typer.echo("\n\n".join(dict.fromkeys(found)))


@app.command("list")
def list_command() -> None:
    """Print the estimators, one a line."""
    from sampleprop.estimators import REGISTER

    width = max(len(kind.__name__) for kind in REGISTER)
    for kind in REGISTER:
        first = (kind.__doc__ or "").strip().splitlines()[0]
        others = f" Also known as {', '.join(kind.aliases)}." if kind.aliases else ""
        typer.echo(f"{kind.__name__:<{width}}  {first}{others}")
