"""What `recommend` chooses from: which estimators, with how many evaluations, and how each is written as code."""

from __future__ import annotations

import copy
import inspect
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from sampleprop.diagnostics.measure import Tally, instance, timed
from sampleprop.diagnostics.replicates import Problem
from sampleprop.diagnostics.row import Skipped
from sampleprop.estimator import Estimator
from sampleprop.estimators import REGISTER

TIMINGS = 7


class Candidate(NamedTuple):
    """An estimator with the evaluations of f that it may spend on one estimate."""

    estimator: Estimator[Any, Any]
    budget: int

    def configured(self, dist: Distribution) -> Estimator[Any, Any] | None:
        """The configuration that spends them, never the caller's object; None where they are too few, or it refuses."""
        if self.estimator.refusal(dist) is not None:
            return None
        configured = self.estimator.for_budget(dist, self.budget)
        return None if configured is None else copy.deepcopy(configured)


def candidates(dist: Distribution, allow_biased: bool) -> list[Estimator[Any, Any]]:
    """The estimators of E[f] in the register that take the distribution, and their variants that need no argument of the user's."""
    made = [_fresh(variant) for kind in REGISTER for variant in (kind(), *kind.variants())]
    return [
        estimator
        for estimator in made
        if estimator is not None
        and estimator.objective == "mean"
        and (estimator.unbiased or allow_biased)
        and estimator.refusal(dist) is None
    ]


def entered(given: Iterable[Estimator[Any, Any]], dist: Distribution, budget: int) -> dict[str, Candidate]:
    """Each configuration once, by its label; those that do not fit too, for `compare` to say so."""
    found: dict[str, Candidate] = {}
    for estimator in given:
        candidate = Candidate(instance("recommend", estimator), budget)
        label = (candidate.configured(dist) or estimator).label
        if label in found and any(callable(value) for value in _arguments(estimator).values()):
            raise ValueError(
                f"recommend needs candidates that can be told apart; got {label} twice, with networks or functions of your "
                "own. Ask for one at a time, or use compare."
            )
        found.setdefault(label, candidate)
    return found


def affordable(
    problem: Problem, given: Iterable[Estimator[Any, Any]], most: int, milliseconds: float, generator: Generator
) -> tuple[dict[str, Candidate], list[Skipped]]:
    """As `entered`, each with the largest of `budgets` that takes no more than the time; and those for which there is none."""
    found: dict[str, Candidate] = {}
    slow: list[Skipped] = []
    for estimator in given:
        fitting, label, least = None, "", math.nan
        for budget in budgets(most):
            candidate = Candidate(instance("recommend", estimator), budget)
            configured = candidate.configured(problem.dist)
            if configured is None or configured.label == label:
                continue
            label = configured.label
            try:
                took = _milliseconds(problem, configured, generator)
            except Exception:
                fitting = candidate  # for `compare` to say why it fails
                break
            if took > milliseconds:
                least = took if fitting is None else least
                break
            fitting = candidate
        if label and fitting is None:
            slow.append(Skipped(label, f"one estimate takes {least:.2g} ms, of {milliseconds:g} ms allowed"))
        else:
            found |= entered([estimator], problem.dist, most if fitting is None else fitting.budget)
    return found, slow


def budgets(most: int) -> Sequence[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to the most: from 2 on, each at most half as large again as the one before."""
    doubled = [2**i for i in range(most.bit_length())]
    return sorted({n for half in doubled for n in (half, 3 * half // 2) if n <= most} | {most})


def code(estimator: Estimator[Any, Any]) -> str:
    """What to paste: `sp.REBAR(samples=2, coupled=True)`. A network or a function of the user's is named only."""
    return f"sp.{estimator.name}({', '.join(f'{name}={_written(v)}' for name, v in _arguments(estimator).items())})"


def _milliseconds(problem: Problem, estimator: Estimator[Any, Any], generator: Generator) -> float:
    """The median time of one estimate, warmed up."""
    tally = Tally(estimator, generator)
    for _ in range(1 + TIMINGS):
        timed(problem, tally)
    return 1000 * statistics.median(tally.seconds[1:])


def _arguments(estimator: Estimator[Any, Any]) -> dict[str, Any]:
    """Those that are not the defaults."""
    given = {}
    for name, parameter in inspect.signature(type(estimator)).parameters.items():
        value = getattr(estimator, name)
        if isinstance(value, Tensor):
            value = value.item()
        same = value is parameter.default if isinstance(value, nn.Module) else value == parameter.default
        if not (same or (isinstance(value, float) and math.isclose(value, parameter.default, rel_tol=1e-6))):
            given[name] = value
    return given


def _fresh(estimator: Estimator[Any, Any]) -> Estimator[Any, Any] | None:
    """The same with new baselines; None where one of them cannot be made without arguments."""
    try:
        arguments = {name: type(v)() if isinstance(v, nn.Module) else v for name, v in _arguments(estimator).items()}
    except TypeError:
        return None
    return type(estimator)(**arguments)


def _written(value: object) -> str:
    if isinstance(value, nn.Module):
        named = type(value).__name__
        return f"sp.{named}()" if type(value).__module__.startswith("sampleprop.baselines") else named
    return getattr(value, "__name__", type(value).__name__) if callable(value) else repr(value)
