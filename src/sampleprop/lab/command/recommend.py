"""The command `sampleprop recommend`."""

from __future__ import annotations

from typing import Annotated

import typer

from sampleprop.lab.command import arguments
from sampleprop.lab.measure.names import PROBLEMS


def recommend(
    problem: Annotated[
        str,
        typer.Argument(
            help=f"One of {', '.join(PROBLEMS)}; or FILE.py:FUNCTION returning f, dist[, exact].",
            autocompletion=arguments.complete(lambda: PROBLEMS),
        ),
    ],
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluations of f allowed for one estimate. Some problems have a default."),
    ] = None,
    milliseconds: Annotated[
        float | None, typer.Option(help="Time allowed for one estimate, forward and backward, on this machine.")
    ] = None,
    allow_biased: Annotated[
        bool, typer.Option("--allow-biased", help="Least bias² + variance, instead of least variance without bias.")
    ] = False,
    averaged: Annotated[
        int, typer.Option(min=1, help="Estimates that are averaged before their noise matters; counts for biased ones.")
    ] = 1,
    replicates: Annotated[int, typer.Option(min=128, help="Independent estimates in the longest round.")] = 8192,
    train_steps: Annotated[int, typer.Option(min=0, help="Training steps for estimators that learn.")] = 200,
    seed: Annotated[int, typer.Option(help="For all noise.")] = 0,
    table: Annotated[bool, typer.Option("--table", help="Print the table of all candidates too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, with the table.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; 1 for our small problems, torch's choice for yours.")
    ] = None,
) -> None:
    """Say which estimator to take on a problem, and with how many samples, for what one estimate may cost."""
    import torch
    from rich.console import Console

    from sampleprop import diagnostics
    from sampleprop.lab.measure import problems, progress
    from sampleprop.lab.measure.mistakes import INTERRUPTED

    messages = Console(stderr=True)
    arguments.require_one_form(json, markdown)
    if threads is not None or problem in problems.BUILT_IN:
        torch.set_num_threads(threads or 1)
    try:
        with arguments.report_mistakes(), progress.show_progress(messages) as report:
            chosen = problems.find(problem, seed=seed)()
            # A time alone is a limit of its own: the problem's default budget would be a second one, not asked for.
            allowed = chosen.budget if budget is None and milliseconds is None else budget
            found = diagnostics.recommend(
                chosen.f,
                chosen.dist,
                budget=allowed,
                milliseconds=milliseconds,
                allow_biased=allow_biased,
                averaged=averaged,
                exact=chosen.exact,
                context=chosen.context,
                replicates=replicates,
                seed=seed,
                train_steps=train_steps,
                progress=report,
            )
    except KeyboardInterrupt:
        messages.print("Interrupted in the first round: there is nothing to recommend yet.")
        raise typer.Exit(INTERRUPTED) from None
    if json:
        typer.echo(found.to_json())
    elif markdown:
        typer.echo(found.to_markdown())
    else:
        typer.echo(repr(found))
        if table:
            typer.echo(f"\n{found.comparison!r}")
    if found.comparison.interrupted:
        raise typer.Exit(INTERRUPTED)
