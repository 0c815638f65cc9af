"""All that is shown of one problem, from its results for one or several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sampleprop.diagnostics.comparing.trajectory import Checkpoint
from sampleprop.lab.measure.runs import Result
from sampleprop.lab.show import curves
from sampleprop.lab.show.curves import Chart
from sampleprop.lab.show.summary import Summary


@dataclass(frozen=True)
class Section:
    """The table and the charts of one problem.

    Attributes:
        summary: the table.
        over_evaluations: variance at several budgets; empty where only one was measured.
        over_steps: variance along a path of φ; empty where there was no path.
        biases: the bias along this path.
        values: the expectation at its start and at its end.
    """

    summary: Summary
    over_evaluations: Sequence[Chart]
    over_steps: Sequence[Chart]
    biases: Sequence[Chart]
    values: tuple[float, float]


def make_sections(results: Sequence[Result]) -> dict[str, Section]:
    """One section for each problem, by its name, from the results for all seeds."""
    names = dict.fromkeys(result.piece.problem for result in results)
    return {name: _make_section([result for result in results if result.piece.problem == name]) for name in names}


def _make_section(results: Sequence[Result]) -> Section:
    summary = Summary([result.comparison for result in results], max(result.jobs for result in results))
    biased = {curves.name(line.mean) for line in summary.lines if line.mean.group != "unbiased"}
    budgets = [[result.comparison for result in results]]
    # A seed that was interrupted has fewer budgets and stops; those that all seeds have are shown.
    budgets += [list(group) for group in zip(*(result.curve for result in results), strict=False)]
    stops = [list(group) for group in zip(*(result.checkpoints for result in results), strict=False)]
    stopped = [checkpoint.comparison for group in stops for checkpoint in group]
    biased_there = biased | {
        curves.name(row) for comparison in stopped for row in comparison.rows if row.group != "unbiased"
    }
    return Section(
        summary,
        curves.over_evaluations(budgets, biased) if len(budgets) > 1 else (),
        curves.over_steps(stops, biased_there) if len(stops) > 1 else (),
        curves.biases_over_steps(stops, biased_there) if len(stops) > 1 else (),
        (_value(stops[0]), _value(stops[-1])) if stops else (0.0, 0.0),
    )


def _value(checkpoints: Sequence[Checkpoint]) -> float:
    return statistics.fmean(checkpoint.value for checkpoint in checkpoints)
