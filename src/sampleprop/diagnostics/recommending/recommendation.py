"""The result of `recommend`: an estimator, the line of code that makes it, and the reasons in numbers."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sampleprop.diagnostics.comparing.comparison import Comparison, plain, versions
from sampleprop.diagnostics.comparing.row import Row
from sampleprop.diagnostics.measuring.statistics import counted, percent, plus_minus
from sampleprop.diagnostics.recommending.candidates import code
from sampleprop.diagnostics.recommending.race import TIE, Race
from sampleprop.estimator import Estimator

CLEARLY = 1.25  # a ratio of times above the noise of the clock
SHOWN = 2  # candidates of less variance that were not taken


@dataclass(frozen=True, repr=False)
class Recommendation:
    """The result of `recommend`.

    Attributes:
        estimator: the recommended estimator, ready to use. If it learns, it starts untrained.
        row: its numbers, from the last and longest round.
        ties: the labels of others that are as good within 5 %.
        clear: whether all others are significantly worse or ties; False if the longest round could not decide.
        left_out: candidates that are wrong here, with the reason: a bias was seen, or `check` failed.
        reasons: sentences with the numbers.
        comparison: all candidates, each with the numbers of its last round.
        budget: the evaluations of f that were allowed for one estimate.
        milliseconds: the time that was allowed for one estimate; None for any.
        averaged: the number of estimates that are averaged before their noise matters.
        allow_biased: whether biased estimators took part.
    """

    estimator: Estimator[Any, Any]
    row: Row
    ties: tuple[str, ...]
    clear: bool
    left_out: dict[str, str]
    reasons: tuple[str, ...]
    comparison: Comparison
    budget: int
    milliseconds: float | None
    averaged: int
    allow_biased: bool

    @property
    def code(self) -> str:
        """The line of code to paste."""
        return f"estimator = {code(self.estimator)}"

    def to_json(self) -> str:
        """One JSON object; its `measured` lists the lines of `Comparison.to_json`."""
        measured = [json.loads(line) for line in self.comparison.to_json().splitlines()]
        content = {
            "estimator": self.row.label,
            "code": self.code,
            "evaluations": self.row.evaluations,
            "ties": self.ties,
            "clear": self.clear,
            "left_out": self.left_out,
            "reasons": self.reasons,
            "budget": self.budget,
            "milliseconds": self.milliseconds,
            "averaged": self.averaged,
            "allow_biased": self.allow_biased,
            "seed": self.comparison.seed,
            "versions": versions(),
            "measured": measured,
        }
        return json.dumps(content, ensure_ascii=False)

    def to_markdown(self) -> str:
        """The line of code, the reasons and the table."""
        reasons = "\n".join(f"- {plain(reason)}" for reason in self.reasons)
        return f"```python\n{self.code}\n```\n\n{reasons}\n\n{self.comparison.to_markdown()}"

    def __repr__(self) -> str:
        return "\n".join([self.code, *(f"  - {reason}" for reason in self.reasons)])

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        table = f"<details><summary>All candidates</summary>{self.comparison._repr_html_()}</details>"
        return f"<pre>{html.escape(self.code)}</pre><ul>{reasons}</ul>{table}"


def reasons(
    race: Race,
    estimator: Estimator[Any, Any],
    row: Row,
    best: str,
    standing: Sequence[str],
    worse: Sequence[Row],
    budget: int,
    milliseconds: float | None,
    states: int | None,
) -> Iterator[str]:
    """The sentences, from the most to the least important."""
    ties = race.ties(standing)
    allowed = "" if milliseconds is None else f" ({milliseconds:g} ms allowed)"
    limit = f"of {budget} allowed" if row.evaluations <= budget else "once at each joint state"
    yield (
        f"One estimate evaluates f {counted(row.evaluations, 'time')}, {limit}, and takes {row.milliseconds:.2g} ms "
        f"here{allowed}."
    )
    yield from _standing(race, row, best, standing, ties)
    if states is not None and race.criterion.score(row).value > race.rounding:
        yield (
            f"The exact gradient takes {counted(states, 'evaluation')}, {states / row.evaluations:.3g} times as many, "
            "and has no noise: sp.Enumerate()."
        )
    if worse:
        fewer = "; ".join(f"{_number(race, other)} with {counted(other.evaluations, 'evaluation')}" for other in worse)
        yield f"With fewer samples the {race.criterion} is {fewer}."
    if math.isfinite(row.signal_to_noise) and row.signal_to_noise > 0:
        yield f"The noise of one estimate is {1 / row.signal_to_noise:.2g} times as long as the gradient."
    yield from _bias(race, row)
    if estimator.needs != "black box":
        between = " between the outcomes too" if estimator.needs == "relaxed" else ""
        yield f"It needs an f that is differentiable in x{between}, and uses its derivative."
    if row.trained and estimator.learns:
        yield (
            f"It learns: its numbers are those after {row.trained} steps of training. Give estimator.parameters() to "
            "your optimizer too."
        )
    elif row.trained:
        yield f"Its average moves by itself in training mode: its numbers are those after {row.trained} steps of it."
    if milliseconds is None:
        yield from _time(race, row)
    for reason in dict.fromkeys(race.left_out.values()):
        labels = [label for label, of_it in race.left_out.items() if of_it == reason]
        yield f"Left out: {', '.join(labels)}: {reason.rstrip('.')}."
    if race.interrupted:
        yield "Interrupted: `check` was not run, and fewer rounds than usual."


def _standing(race: Race, row: Row, best: str, standing: Sequence[str], ties: Sequence[str]) -> Iterator[str]:
    """How the recommended estimator compares with the others."""
    order = race.order(label for label in race.rows if label != row.label)
    own = race.criterion.score(row).value
    less = {label: race.criterion.score(race.rows[label]).value for label in order}
    less = {label: value for label, value in less.items() if value * (1 + TIE) < own - race.rounding}
    if less:
        least = f"number {len(less) + 1}"
    elif standing[0] in (best, row.label) or own <= race.rounding:
        least = "the least"
    else:
        least = f"within {percent(TIE)} of the least"
    text = f"Its {race.criterion} is {_number(race, row)}, {least} of {len(race.rows)} candidates"
    others = [label for label in order if label not in ties and label not in less]
    if others:
        other = race.rows[others[0]]
        text += f"; the next is {other.label} with {_number(race, other)}{_more(race, row, other)}"
    yield text + "."
    for label in sorted(less, key=lambda label: less[label])[:SHOWN]:
        yield f"Not taken: {label}, with {_number(race, race.rows[label])}: it {_price(race.rows[label], row)}."
    equal = [label for label in ties if label != best]
    if equal:
        yield (
            f"As good within {percent(TIE)}: {', '.join(equal)}. Among these the order is: nothing to train, fewest "
            "evaluations, weakest requirement on f, highest derivatives, least time."
        )
    open_ = [label for label in standing if label not in ties]
    if open_:
        yield f"Not significantly worse, after {race.rows[best].replicates} replicates: {', '.join(open_)}."


def _price(other: Row, row: Row) -> str:
    """What a candidate of less variance costs besides."""
    slower = other.milliseconds / row.milliseconds
    parts = [f"takes {slower:.2g} times as long"] if slower > CLEARLY else []
    parts += ["has to be trained"] if other.trained and not row.trained else []
    return " and ".join(parts) or "is not significantly better"


def _bias(race: Race, row: Row) -> Iterator[str]:
    if not row.biased:
        known = row.bias_visible is not None and math.isfinite(row.bias_visible)
        visible = f"one of {percent(row.bias_visible or 0.0)} of the gradient would have been"
        proven = "It is unbiased" if row.claims_unbiased else "It may be biased"
        checked = "" if race.interrupted else " `check` found nothing wrong."
        yield f"{proven}; no bias was seen ({visible if known else 'there is no reference'}).{checked}"
        return
    squared = row.error - row.variance
    yield f"It is biased, by {percent(row.bias or 0.0)} of the gradient, which does not average out."
    unbiased = [r for label in race.order(race.rows) if (r := race.rows[label]).claims_unbiased and not r.biased]
    if unbiased:
        other = min(unbiased, key=lambda r: r.variance)
        count = max(1.0, (other.variance - row.variance) / squared)
        yield (
            f"Where more than {count:.0f} estimates are averaged, {other.label} has the smaller error: variance "
            f"{other.variance:.3g}, no bias."
        )


def _time(race: Race, row: Row) -> Iterator[str]:
    """Which estimator is best at equal time, where it is clearly another one."""
    right = [r for label in race.order(race.rows) if not (r := race.rows[label]).biased]
    fastest = min(right, key=lambda r: r.variance_time, default=row)
    if not row.biased and fastest.label != row.label and fastest.variance_time < row.variance_time / CLEARLY:
        yield (
            f"If time matters and not evaluations, call recommend with milliseconds: {fastest.label} has variance × "
            f"time {fastest.variance_time:.3g}, this one {row.variance_time:.3g}."
        )


def _number(race: Race, row: Row) -> str:
    score = race.criterion.score(row)
    return plus_minus(score.value, score.error)


def _more(race: Race, row: Row, other: Row) -> str:
    """How much worse the other one is; nothing where this one is exact."""
    least = race.criterion.score(row).value
    if least <= race.rounding:
        return ""
    ratio = race.criterion.score(other).value / least
    return f", {percent(ratio - 1)} more" if ratio < 3 else f", {ratio:.3g} times as much"
