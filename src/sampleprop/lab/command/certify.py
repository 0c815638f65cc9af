"""The command `sampleprop certify`."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

from sampleprop.lab.command.arguments import complete, report_mistakes
from sampleprop.lab.measure import names


def certify(
    estimator: Annotated[
        str,
        typer.Argument(
            help="A name, with arguments or without, as 'REBAR(coupled=True)'; or FILE.py:NAME.",
            autocompletion=complete(names.estimators),
        ),
    ],
    problems: Annotated[
        list[str] | None, typer.Option("--problem", help="The name of a problem; may be given again. All that fit.")
    ] = None,
    detectable: Annotated[
        float, typer.Option(min=1e-4, max=0.99, help="The relative bias that is to be seen with 99 % probability.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="For all noise.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Compare an estimator with exact gradients; exit with 1 if it is not what it claims to be."""
    import torch
    from rich.console import Console

    from sampleprop.certificates import certify as certify_estimator
    from sampleprop.lab.measure import configurations, progress

    torch.set_num_threads(1)  # the problems are small
    messages = Console(stderr=True)
    with report_mistakes(), progress.show_progress(messages) as report:
        chosen = configurations.make_estimator(estimator)
        found = certify_estimator(chosen, problems or None, detectable=detectable, seed=seed, progress=report)
    typer.echo(json_text.dumps(found.as_dict(), indent=1, allow_nan=False) if json else repr(found))
    if found.ok is False:
        raise typer.Exit(1)
