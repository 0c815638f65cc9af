"""The report as one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from sampleprop.diagnostics.comparing.comparison import versions
from sampleprop.lab.show import curves, panels, plot
from sampleprop.lab.show.section import Section
from sampleprop.lab.show.style import STYLE
from sampleprop.lab.show.summary import Summary
from sampleprop.lab.show.svg import inline


def page(measured: Sequence[Section]) -> str:
    """The report of some problems."""
    names = [f"problem-{i}" for i in range(1, len(measured) + 1)]
    links = [
        f'<li><a href="#{name}">{html.escape(each.summary.title)}</a></li>'
        for name, each in zip(names, measured, strict=True)
    ]
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>sampleprop: {html.escape(', '.join(each.summary.title for each in measured))}</title>",
            f"<style>{STYLE}</style></head>",
            "<body><main>",
            "<h1>Gradient estimators compared</h1>",
            f'<p class="quiet">Measured by <code>sampleprop compare</code> with {html.escape(used)}.</p>',
            *([f'<nav aria-label="Problems"><ul>{"".join(links)}</ul></nav>'] if len(measured) > 1 else []),
            *(_section(each, name) for each, name in zip(measured, names, strict=True)),
            "</main></body></html>",
            "",
        ]
    )


def _section(measured: Section, name: str) -> str:
    summary = measured.summary
    parts = [f'<section aria-labelledby="{name}"><h2 id="{name}">{html.escape(summary.title or "Comparison")}</h2>']
    if summary.lines:
        parts += [_winner(summary), _table(summary), _rows(summary, name)]
    parts.append(_list(summary.notes()))
    if measured.over_evaluations:
        text = (
            "Each point is a budget. A variance that is proportional to one over the evaluations is a straight line "
            "of slope -1. Estimators that learn are trained anew for each budget; without --budgets they have one "
            "point only."
        )
        parts += ["<h3>Variance against evaluations</h3>", _lines(measured.over_evaluations, f"{name}-curve", text)]
    if measured.over_steps:
        start, end = (f"{value:.4g}" for value in measured.values)
        text = (
            "One path of φ, computed by Adam with the exact gradient or that of a long run, with f held fixed. Every "
            "estimator is measured at the same parameters, in units of the gradient there. The expectation goes from "
            f"{start} to {end}."
        )
        parts += ["<h3>Along a training path</h3>", _lines(measured.over_steps, f"{name}-path", text)]
    if measured.biases:
        parts.append(
            _lines(measured.biases, f"{name}-bias", "The bias along the same path, which no number of samples removes.")
        )
    return "\n".join([*parts, "</section>"])


def _winner(summary: Summary) -> str:
    best = summary.lines[0].mean
    if best.group != "unbiased":
        return "<p>No estimator is unbiased here.</p>"
    by_evaluations = next(line.mean.label for line in summary.lines if line.mean.rank_by_evaluations == 1)
    other = (
        "and at equal evaluations too"
        if by_evaluations == best.label
        else f"at equal evaluations of f <strong>{html.escape(by_evaluations)}</strong>"
    )
    return f"<p>Of the unbiased, <strong>{html.escape(best.label)}</strong> is best at equal time, {other}.</p>"


def _table(summary: Summary) -> str:
    head = "".join(_heading(column) for column in summary.columns)
    body = []
    for line in summary.lines:
        cells = [
            f'<th scope="row">{html.escape(cell)}</th>' if column == "estimator" else f"<td>{html.escape(cell)}</td>"
            for column, cell in zip(summary.columns, summary.cells(line), strict=True)
        ]
        body.append(f'<tr class="{line.mean.group.replace(" ", "-")}">{"".join(cells)}</tr>')
    caption = "By variance × time; those that are biased in general or here follow by mean squared error."
    return _scrolled(
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>", caption
    )


def _rows(summary: Summary, name: str) -> str:
    shown = (panels.variance, panels.product, panels.bias, panels.score)
    figure = plot.figure(summary, shown, (4, 4, 4, 3), top=0.35)
    best = summary.lines[0].mean.label
    count = len(summary.lines)
    text = f"Variance, variance × time, bias and its z of {count} estimators, {best} first; the table has the numbers."
    caption = (
        "Small points are single seeds; lines through the points of a bias are two standard errors of the seeds to "
        "either side."
        if summary.several
        else "Lines through points are two standard errors to either side; those of a bias are an upper bound, from "
        "the whole mean vector."
    )
    return _figure(figure, f"{name}-rows", text, caption)


def _lines(charts: Sequence[curves.Chart], name: str, caption: str) -> str:
    text = f"{' and '.join(chart.title for chart in charts)}, by {charts[0].below}; the table below has the numbers."
    tables = "".join(_numbers(chart) for chart in charts)
    details = f"<details><summary>The same in numbers</summary>{tables}</details>"
    return _figure(curves.figure(charts), name, text, caption) + details


def _numbers(chart: curves.Chart) -> str:
    xs = sorted({x for points in chart.lines.values() for x, _ in points})
    head = "".join(f'<th scope="col">{x:g}</th>' for x in xs)
    body = ""
    for name, points in sorted(chart.lines.items(), key=lambda item: item[1][-1][1]):
        at = dict(points)
        cells = "".join(f"<td>{at[x]:.3g}</td>" if x in at else "<td></td>" for x in xs)
        body += f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>'
    caption = f"{chart.title}, by {chart.below}"
    return _scrolled(
        f"<caption>{html.escape(caption)}</caption><thead><tr>{_heading('estimator')}{head}</tr></thead>"
        f"<tbody>{body}</tbody>",
        caption,
    )


def _heading(column: str) -> str:
    kind = ' class="name"' if column == "estimator" else ""
    return f'<th scope="col"{kind}>{html.escape(column)}</th>'


def _figure(figure: Any, name: str, text: str, caption: str) -> str:
    box = f'<div class="scrolled" tabindex="0" role="region" aria-label="{html.escape(name)}">'
    return f"<figure>{box}{inline(figure, name, text)}</div><figcaption>{html.escape(caption)}</figcaption></figure>"


def _scrolled(table: str, label: str) -> str:
    """A table in a box of its own that scrolls, also by the keyboard, where the screen is narrow."""
    name = html.escape(label, quote=True)
    return f'<div class="scrolled" tabindex="0" role="region" aria-label="{name}"><table>{table}</table></div>'


def _list(notes: Sequence[str]) -> str:
    return f"<ul class='notes'>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>"
