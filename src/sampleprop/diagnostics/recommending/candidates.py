"""The candidates of `recommend`: which estimators, with how many evaluations, and how each is written as code."""

from __future__ import annotations

import copy
import inspect
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from sampleprop.diagnostics.comparing.row import Skipped
from sampleprop.diagnostics.measuring.replicates import Measured
from sampleprop.diagnostics.measuring.tally import Tally, require_estimator, time_one
from sampleprop.diagnostics.recommending.further import FURTHER
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER

TIMINGS = 7


class Candidate(NamedTuple):
    """An estimator with the evaluations of f that it may spend on one estimate."""

    estimator: Estimator[Any, Any]
    budget: int

    def configured(self, dist: Distribution) -> Estimator[Any, Any] | None:
        """A new object that spends the evaluations; None where they are too few or the distribution is refused."""
        if self.estimator.refusal(dist) is not None:
            return None
        configured = self.estimator.for_budget(dist, self.budget)
        return None if configured is None else copy.deepcopy(configured)


def list_candidates(dist: Distribution, allow_biased: bool) -> list[Estimator[Any, Any]]:
    """The estimators of E[f] that take the distribution: all with their defaults, and some as `further` lists them."""
    return [
        estimator
        for kind in REGISTER
        for estimator in (kind(), *(make() for make in FURTHER.get(kind, ())))
        if estimator.objective == "mean" and (estimator.unbiased or allow_biased) and estimator.refusal(dist) is None
    ]


def label_candidates(given: Iterable[Estimator[Any, Any]], dist: Distribution, budget: int) -> dict[str, Candidate]:
    """Each configuration once, by its label; also those that cannot take part, for `compare` to say so."""
    found: dict[str, Candidate] = {}
    for estimator in given:
        candidate = Candidate(require_estimator("recommend", estimator), budget)
        label = (candidate.configured(dist) or estimator).label
        if label in found and any(callable(value) for value in _arguments(estimator).values()):
            raise ValueError(
                f"recommend needs candidates that can be told apart; got {label} twice, with networks or functions of "
                "your own. Give one of them at a time, or use compare."
            )
        found.setdefault(label, candidate)
    return found


def fit_to_time(
    expectation: Measured, given: Iterable[Estimator[Any, Any]], most: int, milliseconds: float, generator: Generator
) -> tuple[dict[str, Candidate], list[Skipped]]:
    """As `label_candidates`, each with the largest of `budgets` that fits the time; and those that are too slow."""
    found: dict[str, Candidate] = {}
    slow: list[Skipped] = []
    for estimator in given:
        fitting, label, least = None, "", math.nan
        for budget in budgets(most):
            candidate = Candidate(require_estimator("recommend", estimator), budget)
            configured = candidate.configured(expectation.dist)
            if configured is None or configured.label == label:
                continue
            label = configured.label
            try:
                took = _milliseconds(expectation, configured, generator)
            except Exception:
                fitting = candidate  # so that `compare` says why it fails
                break
            if took > milliseconds:
                least = took if fitting is None else least
                break
            fitting = candidate
        if label and fitting is None:
            slow.append(Skipped(label, f"one estimate takes {least:.2g} ms, of {milliseconds:g} ms allowed"))
        else:
            found |= label_candidates([estimator], expectation.dist, most if fitting is None else fitting.budget)
    return found, slow


def budgets(most: int) -> Sequence[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to the most: from 2 on each is at most 1.5 times the one before."""
    doubled = [2**i for i in range(most.bit_length())]
    return sorted({n for half in doubled for n in (half, 3 * half // 2) if n <= most} | {most})


def code(estimator: Estimator[Any, Any]) -> str:
    """The expression that makes it: `sp.REBAR(samples=2, coupled=True)`. The user's own objects appear by name."""
    arguments = ", ".join(f"{name}={_write(value)}" for name, value in _arguments(estimator).items())
    prefix = "sp." if type(estimator).__module__.startswith("sampleprop.") else ""
    return f"{prefix}{estimator.name}({arguments})"


def _milliseconds(expectation: Measured, estimator: Estimator[Any, Any], generator: Generator) -> float:
    """The median time of one estimate, warmed up."""
    tally = Tally(estimator, generator)
    for _ in range(1 + TIMINGS):
        time_one(expectation, tally)
    return 1000 * statistics.median(tally.seconds[1:])


def _arguments(estimator: Estimator[Any, Any]) -> dict[str, Any]:
    """The arguments that are not the defaults."""
    given = {}
    for name, parameter in inspect.signature(type(estimator)).parameters.items():
        value = getattr(estimator, name)
        if isinstance(value, Tensor):
            value = value.item()
        same = value is parameter.default if isinstance(value, nn.Module) else value == parameter.default
        if not (same or (isinstance(value, float) and math.isclose(value, parameter.default, rel_tol=1e-6))):
            given[name] = value
    return given


def _write(value: object) -> str:
    if isinstance(value, nn.Module):
        name = type(value).__name__
        return f"sp.{name}()" if type(value).__module__.startswith("sampleprop.baselines") else name
    return getattr(value, "__name__", type(value).__name__) if callable(value) else repr(value)
