"""Rounds of `compare` with fewer and fewer candidates, until the best one is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.distributions import Distribution

from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.comparing.row import Row, Skipped
from sampleprop.diagnostics.measuring.statistics import percent
from sampleprop.diagnostics.measuring.tally import GROUPS
from sampleprop.diagnostics.recommending.candidates import Candidate
from sampleprop.estimator import Estimator

FIRST = 4 * GROUPS  # replicates of the first round; each further one has four times as many
FEWER = 1024  # replicates for a smaller number of samples
BEATEN = 4.0  # standard errors of the difference
TIE = 0.05  # of the smaller number
TRAINING = 1.6  # times the variance, for an estimator that has to be trained
SLOW = 2.0  # times the time of the fastest; below that the difference is small, or the clock's

Measure = Callable[[Sequence[Estimator[Any, Any]], int, int, int], Comparison]  # estimators, budget, replicates, round


class Score(NamedTuple):
    """The number that is to be small, and its standard error."""

    value: float
    error: float

    def beats(self, other: Score, rounding: float) -> bool:
        """Whether the other score is significantly larger."""
        return other.value - self.value > BEATEN * math.hypot(self.error, other.error) + rounding

    def ties(self, other: Score, rounding: float) -> bool:
        """Whether the other score is larger by at most 5 %, as measured."""
        return other.value <= (1 + TIE) * self.value + rounding


@dataclass(frozen=True)
class Criterion:
    """The best has the least variance; with biased candidates, the least bias² + variance / averaged.

    Attributes:
        averaged: estimates that are averaged.
        allow_biased: whether candidates may be biased.
        timed: whether time counts too: where neither the evaluations nor the time are limited.
    """

    averaged: int
    allow_biased: bool
    timed: bool = False

    def score(self, row: Row) -> Score:
        """The score of a row. The measured bias counts only where there can be one; otherwise it is noise."""
        noise = Score(row.variance / self.averaged, row.variance_error / self.averaged)
        if row.claims_unbiased and not row.biased:
            return noise
        squared, own = row.error - row.variance, row.variance / row.replicates  # bias², and the variance of the mean
        return Score(squared + noise.value, math.hypot(noise.error, 2 * math.sqrt(squared * own) + own))

    def weight(self, row: Row, fastest: float) -> float:
        """By how much the score of a row is multiplied, for its training and for its time."""
        slower = max(1.0, row.milliseconds / (SLOW * fastest)) if self.timed else 1.0
        return slower * (TRAINING if row.trained else 1.0)

    def refusal(self, row: Row) -> str | None:
        """Why this one may not be recommended."""
        if row.biased and not self.allow_biased:
            return f"a bias of {percent(row.bias or 0.0)} of the gradient was seen (z = {row.bias_z:.1f})"
        if row.bias is None and not row.claims_unbiased:
            return "it is biased, and there is nothing to measure its bias against"
        return None

    def __str__(self) -> str:
        if not self.allow_biased:
            return "variance"
        return "bias² + variance" if self.averaged == 1 else f"bias² + variance / {self.averaged}"


class Race:
    """The rounds, and what they measured.

    Attributes:
        rows: the last measurement of each candidate, by label.
        skipped: the candidates that could not be measured, by label.
        left_out: the reasons why candidates may not win, by label.
        last: the last comparison.
    """

    def __init__(self, measure: Measure, criterion: Criterion, rounding: float) -> None:
        self._measure = measure
        self.criterion = criterion
        self._rounding = rounding  # relative
        self.rows: dict[str, Row] = {}
        self.skipped: dict[str, Skipped] = {}
        self.left_out: dict[str, str] = {}
        self.last: Comparison | None = None
        self._rounds = 0

    @property
    def rounding(self) -> float:
        """The score that rounding errors alone may cause."""
        length = None if self.last is None else self.last.gradient
        return (self._rounding * (length or 0.0)) ** 2

    @property
    def interrupted(self) -> bool:
        """Whether the last round was interrupted."""
        return self.last is not None and self.last.interrupted

    def round(self, field: Mapping[str, Candidate], replicates: int) -> list[str]:
        """Measure the candidates, and return the labels of those that are not beaten, the best first."""
        self._rounds += 1
        measured: list[str] = []
        for budget in sorted({candidate.budget for candidate in field.values()}):
            if self.interrupted:
                break
            group = [candidate.estimator for candidate in field.values() if candidate.budget == budget]
            self.last = self._measure(group, budget, replicates, self._rounds)
            self.rows |= {row.label: row for row in self.last.rows}
            self.skipped |= {skipped.label: skipped for skipped in self.last.skipped}
            measured += [row.label for row in self.last.rows]
        for label in measured:
            reason = self.criterion.refusal(self.rows[label])
            if reason is not None:
                self.left_out[label] = reason
        right = self.order(label for label in measured if label in field)
        return [label for label in right if not self.score(right[0]).beats(self.score(label), self.rounding)]

    def run(self, field: Mapping[str, Candidate], replicates: int) -> list[str]:
        """Run rounds until one candidate is left, or the longest is over; return those not beaten, the best first."""
        left = dict(field)
        count = min(FIRST, replicates)
        standing: list[str] = []
        while True:
            last = standing
            standing = self.round(left, count)
            if self.interrupted:
                return standing or last
            left = {label: left[label] for label in standing}
            # A single candidate is measured once more, because the numbers of the first round are rough.
            if not left or count >= replicates or (len(left) == 1 and count > FIRST):
                return standing
            count = min(4 * count, replicates)

    def fewer(self, best: str, candidate: Candidate, dist: Distribution) -> tuple[str, list[Row]]:
        """Halve the evaluations as long as that ties with the best, and at most twice beyond.

        Returns:
            The label with the fewest evaluations that ties, and the rows that are worse.
        """
        worse: list[Row] = []
        chosen, budget = best, self.rows[best].evaluations // 2
        while budget >= 1 and len(worse) < 2 and not self.interrupted:
            if candidate._replace(budget=budget).configured(dist) is None:
                break
            self._rounds += 1
            measured = self._measure([candidate.estimator], budget, FEWER, self._rounds)
            if measured.interrupted or not measured.rows or self.criterion.refusal(measured.rows[0]) is not None:
                break
            row = measured.rows[0]
            if self.score(best).ties(self.weighted(row), self.rounding):
                self.rows[row.label] = row
                chosen = row.label
            else:
                worse.append(row)
            budget = row.evaluations // 2
        return chosen, worse

    def order(self, labels: Iterable[str]) -> list[str]:
        """The labels that may win, the best first."""
        return sorted(
            (label for label in labels if label in self.rows and label not in self.left_out),
            key=lambda label: self.score(label).value,
        )

    def ties(self, standing: Sequence[str]) -> list[str]:
        """The labels that tie with the first."""
        return [label for label in standing if self.score(standing[0]).ties(self.score(label), self.rounding)]

    def score(self, label: str) -> Score:
        """The score of a candidate, by the criterion of this race, weighted by training and time."""
        return self.weighted(self.rows[label])

    def weighted(self, row: Row) -> Score:
        """The score of a row, weighted by training and time."""
        value, error = self.criterion.score(row)
        weight = self.criterion.weight(row, self.fastest)
        return Score(weight * value, weight * error)

    @property
    def fastest(self) -> float:
        """The least time of a candidate that may win."""
        return min((row.milliseconds for label, row in self.rows.items() if label not in self.left_out), default=1.0)
