"""One line of a comparison: the numbers of one estimator, or the reason why there are none."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sampleprop.diagnostics.measuring.statistics import THRESHOLD, Bias, percent, plus_minus, rounded
from sampleprop.diagnostics.measuring.tally import Moments

COLUMNS = (
    "rank",
    "estimator",
    "evaluations",
    "bias",
    "bias z",
    "variance",
    "signal/noise",
    "time (ms)",
    "variance × time",
    "rank by f",
)


Group = Literal["unbiased", "biased in general", "biased here"]


@dataclass(frozen=True)
class Row:
    """One estimator's numbers.

    Attributes:
        label: the configuration.
        name: the estimator.
        claims_unbiased: whether the estimator states that it is unbiased.
        evaluations: the number of points at which one estimate evaluated f, as counted.
        bias: the length of the bias relative to that of the gradient, after the noise was subtracted; None without a
            reference.
        bias_z: its test statistic, which is standard normal without a bias. Above 4 there is a bias.
        bias_visible: the relative bias that would have been seen with 99 % probability.
        variance: the trace of the covariance of one estimate.
        variance_error: its standard error.
        signal_to_noise: the length of the mean, divided by the square root of the variance.
        milliseconds: the median time of one estimate, forward and backward.
        error: the mean squared error of one estimate, bias² + variance.
        trained: the number of steps for which its own parameters were trained before; 0 for none.
        replicates: the number of independent estimates that were measured.
        rank: 1 for the lowest variance × time among the unbiased; None for the others, since no number of samples
            removes a bias.
        rank_by_evaluations: 1 for the lowest variance × evaluations among the unbiased; None for the others.
    """

    label: str
    name: str
    claims_unbiased: bool
    evaluations: int
    bias: float | None
    bias_z: float | None
    bias_visible: float | None
    variance: float
    variance_error: float
    signal_to_noise: float
    milliseconds: float
    error: float
    trained: int
    replicates: int
    rank: int | None = None
    rank_by_evaluations: int | None = None

    @property
    def biased(self) -> bool:
        """Whether a bias was seen."""
        return self.bias_z is not None and self.bias_z > THRESHOLD

    @property
    def group(self) -> Group:
        """One of "unbiased", "biased in general" (if no bias was seen here), and "biased here"."""
        if self.biased:
            return "biased here"
        return "unbiased" if self.claims_unbiased else "biased in general"

    @property
    def variance_time(self) -> float:
        """Variance × milliseconds: the time that a given precision takes."""
        return self.variance * self.milliseconds

    @property
    def variance_evaluations(self) -> float:
        """Variance × evaluations: the time that a given precision takes if f takes all the time."""
        return self.variance * self.evaluations

    def _repr_html_(self) -> str:
        return table([self])

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `COLUMNS`."""
        return (
            "–" if self.rank is None else str(self.rank),
            self.label,
            str(self.evaluations),
            _bias_text(self),
            "?" if self.bias_z is None else f"{self.bias_z:z.1f}",
            plus_minus(self.variance, self.variance_error),
            rounded(self.signal_to_noise),
            f"{self.milliseconds:.2f}",
            rounded(self.variance_time),
            "–" if self.rank_by_evaluations is None else str(self.rank_by_evaluations),
        )


@dataclass(frozen=True)
class Skipped:
    """An estimator that could not take part, and why.

    Attributes:
        label: the configuration.
        reason: in words.
        refused: whether the estimator does not take the distribution.
    """

    label: str
    reason: str
    refused: bool = False


def row(tally: Moments, name: str, claims_unbiased: bool, bias: Bias | None, gradient: float | None) -> Row:
    """The numbers of one estimator, where the gradient has this length."""
    variance, error = tally.variance()
    milliseconds = 1000 * statistics.median(tally.seconds)
    length = bias.relative * gradient if bias is not None and gradient else 0.0
    return Row(
        label=tally.label,
        name=name,
        claims_unbiased=claims_unbiased,
        evaluations=tally.evaluations,
        bias=None if bias is None else bias.relative,
        bias_z=None if bias is None else bias.z,
        bias_visible=None if bias is None else bias.visible,
        variance=variance,
        variance_error=error,
        signal_to_noise=tally.signal_to_noise(),
        milliseconds=milliseconds,
        error=length**2 + variance,
        trained=tally.trained,
        replicates=tally.replicates,
    )


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The unbiased by variance × time, numbered both ways; then the others by mean squared error, group by group."""
    right = sorted((row for row in rows if row.group == "unbiased"), key=lambda row: row.variance_evaluations)
    right = [replace(row, rank_by_evaluations=rank) for rank, row in enumerate(right, start=1)]
    right.sort(key=lambda row: row.variance_time)
    others = [row for row in rows if row.group != "unbiased"]
    others.sort(key=lambda row: (row.biased, row.error))
    return (*(replace(row, rank=rank) for rank, row in enumerate(right, start=1)), *others)


def table(rows: Sequence[Row], caption: str = "") -> str:
    """The rows in HTML."""
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bias_text(row: Row) -> str:
    if row.bias is None or row.bias_visible is None or not math.isfinite(row.bias_visible):
        return "?"
    if row.biased:
        return percent(row.bias)
    unseen = f"< {percent(row.bias_visible)}"
    return unseen if row.group == "unbiased" else f"({unseen})"
