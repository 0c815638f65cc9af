"""The comparison as a picture: one line for each estimator, one panel for each number."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from sampleprop.lab.show import panels
from sampleprop.lab.show.panels import BIASED, GENERAL, INK, MUTED, PALE, UNBIASED, Panel
from sampleprop.lab.show.summary import Line, Summary

INCHES_PER_LINE = 0.26
GAP = 0.9
TOP, BOTTOM = 1.05, 0.85  # inches for the titles and for the axes with the legend


def picture(summary: Summary) -> bytes:
    """Variance, bias and time as a picture, in the format PNG."""
    shape = figure(summary, (panels.variance, panels.bias, panels.time), (4, 4, 3))
    _titles(shape, summary)
    drawn = BytesIO()
    shape.savefig(drawn, format="png")
    return drawn.getvalue()


def figure(summary: Summary, shown: Sequence[Panel], widths: Sequence[float], top: float = TOP) -> Any:
    """The panels side by side, with `top` inches for titles above them."""
    from matplotlib.figure import Figure

    heights = _positions(summary.lines)
    span = heights[-1] + 1.2
    height = top + BOTTOM + INCHES_PER_LINE * span
    shape = Figure(figsize=(11, height), dpi=150, facecolor="white")
    left = min(0.4, 0.03 + 0.0075 * max(len(line.mean.label) for line in summary.lines))
    grid = {"left": left, "right": 0.985, "top": 1 - top / height, "bottom": BOTTOM / height, "wspace": 0.08}
    axes = shape.subplots(1, len(shown), sharey=True, width_ratios=widths, gridspec_kw=grid)
    for axis, panel in zip(axes, shown, strict=True):
        panel(axis, summary, heights)
        _dress(axis, heights, span)
    labels = [line.mean.label for line in summary.lines]
    axes[0].set_yticks(heights, labels, fontsize=8.5, color=INK, parse_math=False)
    _legend(shape, summary)
    return shape


def _positions(lines: Sequence[Line]) -> list[float]:
    """One unit for each line, and a gap between two groups."""
    groups = list(dict.fromkeys(line.mean.group for line in lines))
    return [i + GAP * groups.index(line.mean.group) for i, line in enumerate(lines)]


def _dress(panel: Any, heights: Sequence[float], span: float) -> None:
    panel.set_ylim(span - 0.6, -0.6)  # the best on top
    for y in heights:
        panel.axhline(y, color=PALE, lw=0.6, zorder=1)
    undress(panel, "x")


def undress(panel: Any, grid: str) -> None:
    """Thin lines along the axis, and nothing else: no box, no ticks."""
    panel.grid(axis=grid, color=PALE, lw=0.6, zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(axis="both", which="both", length=0, labelsize=8, labelcolor=MUTED)
    panel.set_facecolor("none")
    for spine in panel.spines.values():
        spine.set_visible(False)


def _titles(shape: Any, summary: Summary) -> None:
    height = shape.get_size_inches()[1]
    first = summary.first
    title, _, detail = summary.title.partition(" (")
    parts = [detail.removesuffix(")")] if detail else []
    parts += [
        f"at most {first.budget} evaluations of f",
        f"{first.rows[0].replicates} replicates",
        *([f"{len(summary.comparisons)} seeds"] if summary.several else []),
        f"bias against: {first.reference}",
    ]
    shared = {"va": "top", "parse_math": False}  # a dollar in a title is a dollar
    shape.text(0.012, 1 - 0.16 / height, title or "Comparison", fontsize=13, fontweight="bold", color=INK, **shared)
    shape.text(0.012, 1 - 0.46 / height, " · ".join(parts), fontsize=8.5, color=MUTED, **shared)


def _legend(shape: Any, summary: Summary) -> None:
    from matplotlib.lines import Line2D

    entries = [
        (UNBIASED, "o", "unbiased, by variance × time"),
        (UNBIASED, "|", "a bias of this size would have been seen"),
        (GENERAL, "D", "biased in general, none seen here"),
        (BIASED, "o", "biased here, by mean squared error"),
    ]
    handles = [Line2D([], [], color=c, marker=m, lw=0, ms=6, mew=1.6, label=text) for c, m, text in entries]
    if summary.several:
        handles.append(Line2D([], [], color=MUTED, marker="o", lw=0, ms=3.2, alpha=0.6, label="a seed"))
    shape.legend(handles=handles, loc="lower left", ncols=5, fontsize=8.5, frameon=False, labelcolor=INK)
