"""The panels of the picture: each shows one number of every estimator, with one line for each estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sampleprop.diagnostics.comparing.row import Group, Row
from sampleprop.diagnostics.measuring.statistics import THRESHOLD
from sampleprop.lab.show.summary import Line, Summary

UNBIASED, GENERAL, BIASED, PALE, INK, MUTED = "#0f7b8a", "#8a4fb0", "#d9652b", "#d5d9dc", "#26323a", "#5b6a73"
MARKERS: dict[Group, tuple[str, str]] = {
    "unbiased": (UNBIASED, "o"),
    "biased in general": (GENERAL, "D"),
    "biased here": (BIASED, "o"),
}
NOTHING = 1e-10  # of the squared gradient; smaller variances are rounding errors
LEAST_PERCENT = 1e-2
ERRORS = 2  # standard errors to either side

Panel = Callable[[Any, Summary, Sequence[float]], None]


def variance(panel: Any, summary: Summary, heights: Sequence[float]) -> None:
    """The variance of one estimate, in units of the squared gradient where that is known."""
    _scaled(panel, summary, heights, lambda row: row.variance, lambda row: ERRORS * row.variance_error)
    what = "over the squared gradient" if summary.relative else "trace of the covariance"
    _name(panel, "Variance", what)


def product(panel: Any, summary: Summary, heights: Sequence[float]) -> None:
    """Variance × time: the time that a given precision takes."""
    error: Callable[[Row], float] = lambda row: ERRORS * row.variance_error * row.milliseconds  # noqa: E731
    _scaled(panel, summary, heights, lambda row: row.variance_time, error)
    _name(
        panel,
        "Variance × time",
        "ms, over the squared gradient" if summary.relative else "ms × trace of the covariance",
    )


def time(panel: Any, summary: Summary, heights: Sequence[float]) -> None:
    """The median time of one estimate."""
    logarithmic(panel, [row.milliseconds for line in summary.lines for row in line.rows])
    for y, line in zip(heights, summary.lines, strict=True):
        _seeds(panel, [row.milliseconds for row in line.rows], y, line)
        _dot(panel, line.mean.milliseconds, y, line)
    _name(panel, "Time", "ms, with the backward pass")


def bias(panel: Any, summary: Summary, heights: Sequence[float]) -> None:
    """The bias that was seen, or the one that would have been seen."""
    shown = [_percent(line.mean) for line in summary.lines]
    logarithmic(panel, [value for value in shown if value is not None and value > LEAST_PERCENT])
    start = panel.get_xlim()[0]
    for y, line, value in zip(heights, summary.lines, shown, strict=True):
        if value is None:
            _word(panel, "unknown", y, line)
        elif line.mean.biased:
            _seeds(panel, [100 * (row.bias or 0.0) for row in line.rows], y, line)
            low, high = _interval(line)
            panel.plot([max(low, start), high], [y, y], color=BIASED, lw=1.6, zorder=3)
            _dot(panel, value, y, line)
        elif value > LEAST_PERCENT:
            panel.plot([start, value], [y, y], color=color(line.mean), lw=1.4, alpha=0.4, zorder=3)
            panel.plot(value, y, "|", color=color(line.mean), ms=7, mew=1.6, zorder=4)
        else:
            _word(panel, "none", y, line)
    _name(panel, "Bias", "% of the gradient")


def score(panel: Any, summary: Summary, heights: Sequence[float]) -> None:
    """z, the evidence for a bias: standard normal where there is none."""
    panel.set_xscale("symlog", linthresh=THRESHOLD)
    found = [row.bias_z for line in summary.lines for row in line.rows if row.bias_z is not None]
    top = max([2 * THRESHOLD, *(z for z in found if math.isfinite(z))])
    panel.set_xlim(min(-THRESHOLD, min(found, default=0.0)) - 0.5, 1.5 * top)
    panel.set_xticks([tick for tick in (-THRESHOLD, 0, THRESHOLD, 10, 100, 1000) if tick < 1.5 * top])
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    panel.xaxis.set_minor_locator(_no_ticks())
    panel.axvline(THRESHOLD, color=MUTED, lw=1, ls="--", zorder=2)
    for y, line in zip(heights, summary.lines, strict=True):
        if line.mean.bias_z is None:
            _word(panel, "unknown", y, line)
            continue
        _seeds(panel, [row.bias_z for row in line.rows if row.bias_z is not None], y, line)
        _dot(panel, min(line.mean.bias_z, 1.4 * top), y, line)
    _name(panel, "z of the bias", f"above {THRESHOLD:g} there is a bias")


def logarithmic(panel: Any, values: Sequence[float], axis: str = "x") -> None:
    """A logarithmic axis around the values, with few labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values, default=1.0), max(values, default=1.0)
    getattr(panel, f"set_{axis}scale")("log")
    getattr(panel, f"set_{axis}lim")(low / 1.6, high * 1.6)
    subs = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    ticks = getattr(panel, f"{axis}axis")
    ticks.set_major_locator(LogLocator(10, subs=subs))
    ticks.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ticks.set_minor_formatter(NullFormatter())


def color(row: Row) -> str:
    """The color of an estimator."""
    return MARKERS[row.group][0]


def _scaled(
    panel: Any,
    summary: Summary,
    heights: Sequence[float],
    value: Callable[[Row], float],
    error: Callable[[Row], float],
) -> None:
    """A variance for each estimator, with its standard errors, or its values for each seed."""
    found = [line.relative(value) for line in summary.lines]
    logarithmic(panel, [v for values in found for v in values if v > NOTHING])
    for y, line, values in zip(heights, summary.lines, found, strict=True):
        mean = sum(values) / len(values)
        if mean <= NOTHING:
            _word(panel, "none", y, line)
            continue
        if not summary.several:
            e = line.relative(error)[0]
            panel.plot([max(mean - e, mean / 10), mean + e], [y, y], color=color(line.mean), lw=1.6, zorder=3)
        _seeds(panel, [v for v in values if v > NOTHING], y, line)
        _dot(panel, mean, y, line)


def _interval(line: Line) -> tuple[float, float]:
    """The bias in percent ± two standard errors: over the seeds, or of the whole mean vector as an upper bound."""
    row = line.mean
    value = row.bias or 0.0
    if len(line.rows) > 1:
        error = line.spread(lambda row: row.bias or 0.0) / math.sqrt(len(line.rows))
    else:
        error = math.sqrt(row.variance / row.replicates / line.scales[0])
    return 100 * (value - ERRORS * error), 100 * (value + ERRORS * error)


def _percent(row: Row) -> float | None:
    value = row.bias if row.biased else row.bias_visible
    return None if value is None or not math.isfinite(value) else 100 * value


def _dot(panel: Any, x: float, y: float, line: Line) -> None:
    panel.plot(x, y, MARKERS[line.mean.group][1], color=color(line.mean), ms=5.5, zorder=4)


def _seeds(panel: Any, values: Sequence[float], y: float, line: Line) -> None:
    """Each seed, where there are several."""
    if len(line.rows) > 1:
        panel.plot(values, [y] * len(values), "o", color=color(line.mean), ms=3.2, alpha=0.45, mew=0, zorder=3)


def _word(panel: Any, text: str, y: float, line: Line) -> None:
    """A word in place of a value that the logarithmic axis cannot show."""
    transform = panel.get_yaxis_transform()
    panel.text(0.02, y, text, transform=transform, color=color(line.mean), fontsize=8, va="center")


def _name(panel: Any, title: str, unit: str) -> None:
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    panel.set_xlabel(unit, loc="left", fontsize=8.5, color=MUTED)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
