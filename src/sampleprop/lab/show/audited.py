"""The audit of an advantage or a loss: a picture, and one HTML file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampleprop.diagnostics.auditing.audit import NOTHING, Audit, Row, near, percent
from sampleprop.lab.show.panels import BIASED, INK, MUTED, PALE, UNBIASED
from sampleprop.lab.show.plot import undress
from sampleprop.lab.show.style import STYLE
from sampleprop.lab.show.svg import inline

INCHES_PER_ROW = 0.3
COLUMNS = ("policy", "draws of a prompt", "error", "factor", "variance", "MSE", "nearest objective")
EXPLAINED = (
    "Error: what is left of the mean update after the best constant factor, relative to the exact gradient; 0 is "
    "unbiased, 100 % no better than nothing. Factor: the mean update along the gradient, as a multiple of it. Variance "
    "and mean squared error: after the best factor, over those of leave-one-out on the same draws. Every group of "
    "draws was listed and none was sampled, so these numbers have no noise. The policies are tiny: they show what can "
    "happen."
)


def write(found: Audit, settings: str, out: Path) -> list[Path]:
    """Write audit.json, audit.md, audit.png and audit.html into a folder; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / name for name in ("audit.json", "audit.md", "audit.png", "audit.html")]
    written[0].write_text(found.to_json() + "\n", encoding="utf-8")
    written[1].write_text(f"# {found.name}\n\n{settings}\n\n{found.to_markdown()}\n", encoding="utf-8")
    figure(found).savefig(written[2])
    written[3].write_text(page(found, settings), encoding="utf-8")
    return written


def figure(found: Audit) -> Any:
    """The errors as bars, and h(p) where it is known."""
    from matplotlib.figure import Figure

    height = 1.3 + INCHES_PER_ROW * len(found.rows)
    shape = Figure(figsize=(11, max(height, 3.2)), dpi=150, facecolor="white", layout="constrained")
    shape.suptitle(_plain(found.name), x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    if found.weights:
        errors, rates = shape.subplots(1, 2, width_ratios=(3, 2))
        _rates(rates, found)
    else:
        errors = shape.subplots(1, 1)
    _errors(errors, found.rows)
    return shape


def page(found: Audit, settings: str) -> str:
    """The report as one HTML file that needs no network, no script and no other file."""
    name = html.escape(found.name)
    head = "".join(f'<th scope="col"{_left(column)}>{column}</th>' for column in COLUMNS)
    body = "".join(_row(row) for row in found.rows)
    picture = inline(figure(found), "audit", "The errors of the table as bars, and the weight of each success rate.")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes())
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>sampleprop audit: {name}</title><style>{STYLE}</style></head>",
            f"<body><main><h1>What <code>{name}</code> is the gradient of</h1>",
            f'<p class="quiet">{html.escape(settings)}</p>',
            f"<p>{html.escape(verdict(found))}</p>",
            f'<figure><div class="scrolled" tabindex="0" role="region" aria-label="errors">{picture}</div></figure>',
            f'<p class="quiet">{EXPLAINED}</p>',
            '<div class="scrolled" tabindex="0" role="region" aria-label="table"><table>',
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
            f"<ul class='notes'>{notes}</ul>",
            "</main></body></html>",
            "",
        ]
    )


def verdict(found: Audit) -> str:
    """The result in one sentence."""
    if found.worst < NOTHING:
        factors = {f"{row.factor:.3g}" for row in found.rows}
        by = "" if factors == {"1"} else f", but for a constant factor ({', '.join(sorted(factors))})"
        return f"Unbiased on all of these policies{by}."
    errors = [row.error for row in found.rows]
    uphill = " On some it points away from the gradient." if any(row.factor < 0 for row in found.rows) else ""
    return f"Biased: the mean update is {percent(min(errors))} to {percent(max(errors))} off.{uphill}"


def _errors(axis: Any, rows: Sequence[Row]) -> None:
    heights = range(len(rows))
    colors = [UNBIASED if row.error < NOTHING else BIASED for row in rows]
    axis.barh(heights, [100 * row.error for row in rows], color=colors, height=0.55, zorder=3)
    for y, row in zip(heights, rows, strict=True):
        text = "0" if row.error < NOTHING else f"{100 * row.error:.1f}"
        axis.text(100 * row.error + 0.8, y, text, va="center", fontsize=8, color=INK)
    labels = [_plain(f"{row.world}, {row.group} draws") for row in rows]
    axis.set_yticks(heights, labels, fontsize=8.5, color=INK)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, max(10.0, 112 * max(row.error for row in rows)))
    undress(axis, "x")
    _name(axis, "Error", "% of the gradient, after the best factor")


def _rates(axis: Any, found: Audit) -> None:
    biased = any(abs(h - 1) > NOTHING for _, h in found.weights)
    axis.axhline(1, color=PALE, lw=1, zorder=1)
    axis.plot(*zip(*found.weights, strict=True), "o-", color=BIASED if biased else UNBIASED, ms=4, lw=1.4, zorder=3)
    axis.set_ylim(0, max(1.2, 1.1 * max(h for _, h in found.weights)))
    undress(axis, "y")
    _name(axis, "Weight of a prompt, h(p) / h(½)", "its success rate p; 1 everywhere is the mean reward")


def _name(axis: Any, title: str, below: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xlabel(below, loc="left", fontsize=8.5, color=MUTED)


def _row(row: Row) -> str:
    cells = [str(row.group), percent(row.error), f"{row.factor:.3f}", f"{row.variance:.2f}", f"{row.mse:.2f}"]
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    kind = "unbiased" if row.error < NOTHING else "biased-here"
    nearest = f'<td class="name">{html.escape(near(row))}</td>'
    return f'<tr class="{kind}"><th scope="row">{html.escape(row.world)}</th>{shown}{nearest}</tr>'


def _left(column: str) -> str:
    return ' class="name"' if column in ("policy", "nearest objective") else ""


def _plain(text: str) -> str:
    """The text with no dollar sign that begins mathematics."""
    return text.replace("$", r"\$")
