"""Line charts: variance against evaluations of f, and along a path of φ, one line for each estimator."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.comparing.row import Row
from sampleprop.diagnostics.comparing.trajectory import Checkpoint
from sampleprop.lab.show.panels import INK, MUTED, NOTHING, logarithmic
from sampleprop.lab.show.plot import undress

# Of middle lightness, for a light and a dark page. Further lines repeat them, dashed.
COLORS = ("#0f8a99", "#d8703a", "#5a7fc4", "#7a9a2e", "#c05090", "#b58a1f", "#8867b8", "#3d9970", "#a8684f", "#7d8a91")
WIDTH, HEIGHT, TOP, BOTTOM = 11.0, 4.6, 0.4, 0.55  # inches
LABEL = 0.145  # inches for the name of a line

Points = list[tuple[float, float]]


class Chart(NamedTuple):
    """One panel: the lines by name."""

    title: str
    lines: Mapping[str, Points]
    below: str
    logarithmic: bool  # the horizontal axis


def over_evaluations(groups: Sequence[Sequence[Comparison]], biased: set[str]) -> list[Chart]:
    """Variance against evaluations: `groups` are budgets, with a comparison for each seed."""
    found: dict[str, Points] = {}
    for comparisons in groups:
        for name, evaluations, value in _means(comparisons, _relative):
            found.setdefault(name, []).append((evaluations, value))
    lines = {name: sorted(set(points)) for name, points in found.items()}
    return _apart(lines, biased, _variance(groups[0]), "evaluations of f", True)


def over_steps(groups: Sequence[Sequence[Checkpoint]], biased: set[str]) -> list[Chart]:
    """Variance along the path: `groups` are steps, with a checkpoint for each seed."""
    found = _along(groups, _relative)
    return _apart(found, biased, _variance([point.comparison for point in groups[0]]), "steps along the path", False)


def biases_over_steps(groups: Sequence[Sequence[Checkpoint]], biased: set[str]) -> list[Chart]:
    """The bias of the biased estimators along the path, in percent of the gradient."""
    value: Callable[[Row, float], float] = lambda row, _: 100 * (row.bias or 0.0)  # noqa: E731
    lines = {name: points for name, points in _along(groups, value).items() if name in biased}
    return [Chart("Bias of the biased, % of the gradient", lines, "steps along the path", False)] if lines else []


def name(row: Row) -> str:
    """The label without the number of samples, which changes along the line; other arguments stay."""
    kind, _, rest = row.label.partition("(")
    arguments, _, number = rest.rpartition(")")
    kept = [part for part in arguments.split(", ") if part and not part.startswith("samples=")]
    return f"{kind}({', '.join(kept)}){number}" if kept else f"{kind}{number}"


def figure(charts: Sequence[Chart]) -> Any:
    """The charts side by side, each with the names of its lines at their ends."""
    from matplotlib.figure import Figure

    most = max(len(chart.lines) for chart in charts)
    height = max(HEIGHT, TOP + BOTTOM + LABEL * most)
    shape = Figure(figsize=(WIDTH, height), dpi=150, facecolor="white")
    for i, chart in enumerate(charts):
        panel = shape.add_axes((0.05 + i * 0.5, BOTTOM / height, 0.27, 1 - (TOP + BOTTOM) / height))
        _draw(panel, chart, height - TOP - BOTTOM, [y for c in charts for p in c.lines.values() for _, y in p])
    return shape


def _apart(found: dict[str, Points], biased: set[str], what: str, below: str, logarithmic: bool) -> list[Chart]:
    """One panel for the unbiased and one for the biased, since one panel cannot hold thirty lines."""
    charts = [
        Chart(f"{what}, unbiased", {n: p for n, p in found.items() if n not in biased}, below, logarithmic),
        Chart(
            f"{what}, biased in general or here", {n: p for n, p in found.items() if n in biased}, below, logarithmic
        ),
    ]
    return [chart for chart in charts if chart.lines]


def _along(groups: Sequence[Sequence[Checkpoint]], value: Callable[[Row, float], float]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for checkpoints in groups:
        for name, _, mean in _means([checkpoint.comparison for checkpoint in checkpoints], value):
            found.setdefault(name, []).append((checkpoints[0].step, mean))
    return found


def _means(comparisons: Sequence[Comparison], value: Callable[[Row, float], float]) -> list[tuple[str, float, float]]:
    """(estimator, evaluations, mean over the seeds), where the mean is above rounding errors."""
    found: dict[str, list[tuple[float, float]]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            pair = (float(row.evaluations), value(row, comparison.gradient or 1.0))
            found.setdefault(name(row), []).append(pair)
    means = [(name, pairs[0][0], statistics.fmean(v for _, v in pairs)) for name, pairs in found.items()]
    return [mean for mean in means if mean[2] > NOTHING and math.isfinite(mean[2])]


def _variance(comparisons: Sequence[Comparison]) -> str:
    """The title, with the unit."""
    return "Variance / gradient²" if all(comparison.gradient for comparison in comparisons) else "Variance"


def _relative(row: Row, gradient: float) -> float:
    return row.variance / gradient**2


def _draw(panel: Any, chart: Chart, inches: float, values: Sequence[float]) -> None:
    panel.set_title(chart.title, loc="left", fontsize=10, fontweight="bold", color=INK)
    panel.set_xlabel(chart.below, loc="left", fontsize=8.5, color=MUTED)
    logarithmic(panel, values, "y")
    xs = sorted({x for points in chart.lines.values() for x, _ in points})
    if chart.logarithmic:
        logarithmic(panel, xs)
    else:
        panel.set_xticks(_few(xs), [f"{x:g}" for x in _few(xs)])
        margin = 0.04 * (xs[-1] - xs[0])
        panel.set_xlim(xs[0] - margin, xs[-1] + margin)
    panel.minorticks_off()
    undress(panel, "both")
    ordered = sorted(chart.lines.items(), key=lambda item: item[1][-1][1])
    ends = [_fraction(panel, points[-1][1]) for _, points in ordered]
    heights = _spread(ends, LABEL / inches)
    for i, ((name, points), end, height) in enumerate(zip(ordered, ends, heights, strict=True)):
        tint, style = COLORS[i % len(COLORS)], "-" if i // len(COLORS) % 2 == 0 else "--"
        panel.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=1.3, ls=style, color=tint)
        start = panel.transAxes.inverted().transform(panel.transData.transform(points[-1]))[0]
        panel.plot(
            [start, 1.02, 1.06], [end, end, height], transform=panel.transAxes, color=tint, lw=0.5, clip_on=False
        )
        panel.text(
            1.07, height, name, transform=panel.transAxes, color=tint, fontsize=8.5, va="center", parse_math=False
        )


def _fraction(panel: Any, y: float) -> float:
    """The height of y in the panel, as a fraction of the panel's height."""
    return float(panel.transAxes.inverted().transform(panel.transData.transform((panel.get_xlim()[0], y)))[1])


def _few(xs: Sequence[float], most: int = 8) -> list[float]:
    """Some of the positions, the last among them."""
    every = -(-len(xs) // most)
    return list(reversed(list(reversed(xs))[::every]))


def _spread(ends: Sequence[float], gap: float) -> list[float]:
    """Heights for the names, in order and at least `gap` apart, as near to the ends of the lines as that allows.

    This is the isotonic regression of end - i × gap: values out of order are pooled with their neighbours.
    """
    pools: list[list[float]] = []
    for i, end in enumerate(ends):
        pools.append([end - i * gap])
        while len(pools) > 1 and statistics.fmean(pools[-2]) > statistics.fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    free = [statistics.fmean(pool) for pool in pools for _ in pool]
    room = max(0.0, 1 - (len(ends) - 1) * gap)
    return [min(max(start, 0.0), room) + i * gap for i, start in enumerate(free)]
