"""One comparison; or the same one for several seeds, with means and standard deviations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sampleprop.diagnostics.comparing.comparison import Comparison, plain
from sampleprop.diagnostics.comparing.row import COLUMNS, Row, ranked
from sampleprop.diagnostics.measuring.statistics import percent, plus_minus

RANKS = "ranks"  # an additional column for several seeds


@dataclass(frozen=True)
class Line:
    """One estimator.

    Attributes:
        mean: its numbers, averaged over the seeds. A bias that was seen for one seed counts as seen.
        rows: its numbers for each seed.
        scales: the squared length of each seed's gradient, the unit for variances; 1 where it is not known.
    """

    mean: Row
    rows: tuple[Row, ...]
    scales: tuple[float, ...]

    def spread(self, value: Callable[[Row], float]) -> float:
        """The standard deviation of a number over the seeds."""
        return _deviation([value(row) for row in self.rows])

    def relative(self, value: Callable[[Row], float]) -> list[float]:
        """A number over the squared length of the gradient, for each seed."""
        return [value(row) / scale for row, scale in zip(self.rows, self.scales, strict=True)]


class Summary:
    """The table of a problem with its notes, and the numbers for its plots.

    Args:
        comparisons: one for each seed, at one budget.
        jobs: how many pieces were measured at the same time.
    """

    def __init__(self, comparisons: Sequence[Comparison], jobs: int = 1) -> None:
        self.comparisons = tuple(comparisons)
        self.jobs = jobs
        self.first = self.comparisons[0]
        self.lines = _lines(self.comparisons)

    @property
    def several(self) -> bool:
        """Whether there are several runs."""
        return len(self.comparisons) > 1

    @property
    def title(self) -> str:
        """The title. With several seeds without the brackets, whose content belongs to one seed."""
        return self.first.problem.partition(" (")[0] if self.several else self.first.problem

    @property
    def relative(self) -> bool:
        """Whether variances can be shown in units of the squared gradient."""
        return all(comparison.gradient for comparison in self.comparisons)

    @property
    def columns(self) -> tuple[str, ...]:
        """The headings of the table."""
        return (*COLUMNS, RANKS) if self.several else COLUMNS

    def cells(self, line: Line) -> tuple[str, ...]:
        """The line as text, in the order of `columns`."""
        if not self.several:
            return line.mean.cells()
        cells = dict(zip(COLUMNS, line.mean.cells(), strict=True))
        biased = sum(row.biased for row in line.rows)
        if biased:
            cells["bias"] = f"{percent(line.mean.bias or 0.0)} ± {percent(line.spread(lambda row: row.bias or 0.0))}"
        for name, value in _SPREAD.items():
            cells[name] = plus_minus(_average(line.rows, value), line.spread(value))
        ranks = sorted(row.rank for row in line.rows if row.rank is not None)
        return (*(cells[name] for name in COLUMNS), _range(ranks) if ranks else "–")

    def notes(self) -> list[str]:
        """Sentences that explain the table."""
        notes = self.first.notes()
        if self.several:
            seeds = ", ".join(str(comparison.seed) for comparison in self.comparisons)
            notes[0] = notes[0].replace(f"seed {self.first.seed}.", f"seeds {seeds}.")
            notes.insert(
                1,
                "Means ± standard deviations over the seeds, where each seed makes the problem anew; “bias z” is the "
                "largest, “ranks” the range of the ranks. A bias that was seen for one seed counts as seen.",
            )
            notes[2] = f"Seed {self.first.seed}: {notes[2][0].lower()}{notes[2][1:]}"
            here = {skipped.label for skipped in self.first.skipped}
            notes += [
                f"Not compared for seed {comparison.seed}: {skipped.label}: {skipped.reason}"
                for comparison in self.comparisons[1:]
                for skipped in comparison.skipped
                if skipped.label not in here
            ]
        if self.jobs > 1:
            notes.append(
                f"Times were measured while {self.jobs} pieces ran at the same time: they are longer than alone, and "
                "ranks by time are less certain. Measure one piece at a time to compare times."
            )
        return notes

    def to_markdown(self) -> str:
        """The table, and its notes."""
        if not self.several and self.jobs == 1:
            return self.first.to_markdown()
        table = [self.columns, ("---:", ":---", *["---:"] * (len(self.columns) - 2))]
        table += [self.cells(line) for line in self.lines]
        lines = ["| " + " | ".join(plain(cell).replace("|", "\\|") for cell in row) + " |" for row in table]
        return "\n".join([*lines, "", *(f"- {plain(note)}" for note in self.notes())])


_SPREAD: dict[str, Callable[[Row], float]] = {
    "variance": lambda row: row.variance,
    "signal/noise": lambda row: row.signal_to_noise,
    "time (ms)": lambda row: row.milliseconds,
    "variance × time": lambda row: row.variance_time,
}


def _lines(comparisons: Sequence[Comparison]) -> tuple[Line, ...]:
    """The estimators, ranked by their means."""
    found: dict[str, list[tuple[Row, float]]] = {}
    for comparison in comparisons:
        scale = comparison.gradient**2 if comparison.gradient else 1.0
        for row in comparison.rows:
            found.setdefault(row.label, []).append((row, scale))
    means = ranked([_mean([row for row, _ in pairs]) for pairs in found.values()])
    return tuple(
        Line(mean, tuple(row for row, _ in found[mean.label]), tuple(scale for _, scale in found[mean.label]))
        for mean in means
    )


def _mean(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    z = [row.bias_z for row in rows if row.bias_z is not None]
    return replace(
        rows[0],
        bias=_known([row.bias for row in rows]),
        bias_z=max(z) if z else None,
        bias_visible=_known([row.bias_visible for row in rows]),
        variance=_average(rows, lambda row: row.variance),
        variance_error=_deviation([row.variance for row in rows]),
        signal_to_noise=_average(rows, lambda row: row.signal_to_noise),
        milliseconds=_average(rows, lambda row: row.milliseconds),
        error=_average(rows, lambda row: row.error),
        replicates=sum(row.replicates for row in rows),
        rank=None,
        rank_by_evaluations=None,
    )


def _average(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    return statistics.fmean(value(row) for row in rows)


def _known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _deviation(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.stdev(finite) if len(finite) > 1 else 0.0


def _range(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[-1] else f"{ranks[0]}–{ranks[-1]}"
