"""The command `sampleprop audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sampleprop.lab.command import arguments


def audit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:FUNCTION",
            help="A function that returns advantages (from rewards, response_mask, index, ...) or a loss (from "
            "log_prob, ...).",
        ),
    ],
    groups: Annotated[str, typer.Option(help="Draws of one prompt, separated by commas.")] = "2,4",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts in one call; 2 shows what couples them.")] = 1,
    reduce: Annotated[
        str, typer.Option(help="How the advantages are averaged: draws, length or tokens. A loss does it itself.")
    ] = "draws",
    worlds: Annotated[
        str, typer.Option(help="plain, or tools: with observations that the policy did not draw.")
    ] = "plain",
    off_policy: Annotated[
        bool, typer.Option("--off-policy", help="Draw from another policy, with old_log_prob.")
    ] = False,
    fail_above: Annotated[
        float | None, typer.Option(min=0, help="Exit with 1 if an error is above this: 0.01 for 1 %.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.html, audit.png, audit.md and audit.json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Say what an advantage or a loss is the gradient of, by listing every group of draws of small policies."""
    arguments.require_one_form(json, markdown)
    from rich.console import Console

    from sampleprop import diagnostics
    from sampleprop.lab.measure import files, progress
    from sampleprop.lab.measure.mistakes import Mistake
    from sampleprop.lab.show import audited

    known = {"plain": diagnostics.WORLDS, "tools": diagnostics.TOOLS}
    if worlds not in known:
        raise typer.BadParameter(f"--worlds needs plain or tools; got {worlds!r}.")
    with arguments.report_mistakes(), progress.show_progress(Console(stderr=True)) as report:
        place = files.find_place(target, "audit")
        if place is None:
            raise Mistake(f"audit needs FILE.py:FUNCTION; got {target!r}.")
        function = place.load()
        if not callable(function):
            raise Mistake(f"audit needs a function {place.name} in {place.path.name}; there is none.")
        found = diagnostics.audit(
            function,
            group_sizes=arguments.whole("--groups", groups),
            prompts=prompts,
            worlds=known[worlds],
            reduce=reduce,  # type: ignore[arg-type]  # the audit says what there is
            off_policy=off_policy,
            progress=report,
        )
    if json:
        typer.echo(found.to_json())
    elif markdown:
        typer.echo(found.to_markdown())
    else:
        typer.echo(f"{found}\n{audited.verdict(found)}")
    if out is not None:
        settings = (
            f"sampleprop audit {target} --groups {groups} --prompts {prompts} --reduce {reduce} --worlds {worlds}"
        )
        written = audited.write(found, settings + (" --off-policy" if off_policy else ""), out)
        typer.echo(f"Written: {', '.join(map(str, written))}", err=True)
    if fail_above is not None and found.worst > fail_above:
        typer.echo(f"An error of {found.worst:.2%} is above {fail_above:.2%}.", err=True)
        raise typer.Exit(1)
