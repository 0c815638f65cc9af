"""`recommend`: which estimator, and how many samples, for what one estimate may cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import checks
from sampleprop.diagnostics.candidates import Candidate, affordable, candidates, entered
from sampleprop.diagnostics.check import check
from sampleprop.diagnostics.compare import Progress, compare
from sampleprop.diagnostics.comparison import Comparison
from sampleprop.diagnostics.findings import Check
from sampleprop.diagnostics.measure import devices, instance
from sampleprop.diagnostics.race import FIRST, Criterion, Race
from sampleprop.diagnostics.recommendation import Recommendation, reasons
from sampleprop.diagnostics.reference import Exact
from sampleprop.diagnostics.replicates import Problem
from sampleprop.diagnostics.row import Row, ranked
from sampleprop.estimator import Estimator, Needs

USUAL = 16  # evaluations where nothing is said
MOST = 1024  # where only the time is limited
ROUND = 1000  # between the seeds of two rounds: each has noise of its own
NEEDS = get_args(Needs)  # the least first
TOLD = 3  # reasons in a message
ABOUT_F = ("f mixes rows", "f ignores x")  # no estimator helps


def recommend(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimators: Iterable[Estimator[Any, Any]] | None = None,
    *,
    budget: int | None = None,
    milliseconds: float | None = None,
    allow_biased: bool = False,
    averaged: int = 1,
    exact: Exact | None = None,
    context: Tensor | None = None,
    replicates: int = 8192,
    seed: int = 0,
    train_steps: int = 200,
    progress: Progress | None = None,
) -> Recommendation:
    r"""Say which estimator to take on this problem, and with how many samples, for what one estimate may cost.

    The best is the one of least variance (the trace of the covariance of the gradient) within the budget; where biased ones are
    allowed, of least bias² + variance / `averaged`. It is found by rounds of `compare`, each with four times as many
    replicates as the one before: who is worse than the best by four standard errors of the difference drops out.
    Candidates within 5 % of the best are ties, of which the one is taken that has nothing to train, then fewer
    evaluations, then asks less of f, then has higher derivatives, then takes less time. Fewer samples are tried last, and
    taken if that is a tie too.

    `check` has the last word: who fails it (a jump in f under a pathwise gradient, say) is left out, and the race
    runs again.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch], for any k.
        dist: p_φ, at the parameters that matter: the best at the start of a training need not be the best at its end.
        estimators: what to choose from, of one objective; None for all estimators of E[f] in the register and their variants.
        budget: evaluations of f allowed for one estimate and batch element; None for 16, or for up to 1024 where the time
            is limited.
        milliseconds: the time allowed for one estimate, forward and backward, on this machine; None for any.
        allow_biased: whether an estimator may be biased, as far as its bias can be measured.
        averaged: the number of independent estimates that are averaged before their noise counts, over steps or batch
            elements. It matters where a bias is allowed, which is not averaged away.
        exact: as in `compare`, and so are context, seed, train_steps and progress.
        replicates: of the longest round, at least 128.

    Raises:
        ValueError: for numbers that make no sense, where no candidate is left, and for an f that mixes rows or ignores x.
        TypeError: for a distribution that does not keep its parameters under their names, and for what is no estimator.

    Example:
        >>> import torch, sampleprop as sp
        >>> q = torch.distributions.Normal(torch.zeros(3, requires_grad=True), 1.0)
        >>> sp.recommend(torch.square, q, [sp.ScoreFunction(), sp.Pathwise()], budget=8, replicates=512).code
        'estimator = sp.Pathwise(samples=8)'
    """
    _check_numbers(budget, milliseconds, averaged)
    most = budget or (USUAL if milliseconds is None else MOST)
    problem = Problem(f, dist, context)

    def measure(group: Sequence[Estimator[Any, Any]], budget: int, replicates: int, number: int) -> Comparison:
        return compare(
            f,
            dist,
            group,
            budget=budget,
            exact=exact,
            context=context,
            replicates=replicates,
            seed=seed + ROUND * number,
            train_steps=train_steps,
            progress=progress and (lambda stage, done, total: progress(f"{stage} (round {number})", done, total)),
        )

    given = _given(estimators, dist, allow_biased)
    race = Race(measure, Criterion(averaged, allow_biased), problem.rounding)
    if milliseconds is None:
        field = entered(given, dist, most)
    else:
        with torch.random.fork_rng(devices=devices(dist)):
            field, slow = affordable(problem, given, most, milliseconds, problem.generator(seed))
        race.skipped |= {skipped.label: skipped for skipped in slow}
    for candidate in list(field.values())[:1]:
        # At once, and not after the race: of an f for which none is right all numbers mean nothing.
        _about_f(check(f, dist, candidate.estimator, context=context, replicates=FIRST, seed=seed))
    while True:
        standing = race.run({label: field[label] for label in field if label not in race.left_out}, replicates)
        if not standing and race.interrupted:
            raise KeyboardInterrupt
        if not standing:
            raise ValueError(_nobody(race, most, milliseconds))
        ties = race.ties(standing)
        best = min(ties, key=lambda label: _of_its_own(field[label].estimator, race.rows[label], dist))
        if race.interrupted:
            break
        found = check(f, dist, field[best].configured(dist) or field[best].estimator, context=context, seed=seed)
        if found.ok:
            break
        _leave_out(race, field, best, found)
    chosen, worse = race.fewer(best, field[best], dist)
    row = race.rows[chosen]
    estimator = (field[best] if chosen == best else field[best]._replace(budget=row.evaluations)).configured(dist)
    assert estimator is not None
    assert race.last is not None
    comparison = replace(
        race.last,
        rows=ranked(list(race.rows.values())),
        skipped=tuple(race.skipped.values()),
        budget=most,
        seed=seed,
    )
    return Recommendation(
        estimator=estimator,
        row=row,
        ties=tuple(label for label in ties if label != best),
        clear=len(standing) == len(ties) and not race.interrupted,
        left_out=dict(race.left_out),
        reasons=tuple(reasons(race, estimator, row, best, standing, worse, most, milliseconds)),
        comparison=comparison,
        budget=most,
        milliseconds=milliseconds,
        averaged=averaged,
        allow_biased=allow_biased,
    )


def _check_numbers(budget: int | None, milliseconds: float | None, averaged: int) -> None:
    if budget is not None:
        checks.samples("recommend", budget, argument="evaluations")
    checks.samples("recommend", averaged, argument="averaged estimates")
    if milliseconds is not None and not 0 < milliseconds < math.inf:
        raise ValueError(f"recommend needs a positive number of milliseconds; got {milliseconds}. Use None for any.")


def _given(
    estimators: Iterable[Estimator[Any, Any]] | None, dist: Distribution, allow_biased: bool
) -> list[Estimator[Any, Any]]:
    if estimators is None:
        return candidates(dist, allow_biased)
    given = [instance("recommend", e) for e in ((estimators,) if isinstance(estimators, Estimator) else estimators)]
    biased = [estimator.label for estimator in given if not estimator.unbiased]
    if biased and not allow_biased:
        raise ValueError(
            f"recommend needs candidates without bias; got {', '.join(biased)}. Leave them out, or say allow_biased=True."
        )
    return given


def _about_f(found: Check) -> None:
    """Refuse an f for which no estimator is right."""
    for finding in found.findings:
        if finding.name in ABOUT_F:
            raise ValueError(
                f"recommend needs an f that an estimator can be right for; got one that is not. {finding.message}"
            )


def _leave_out(race: Race, field: dict[str, Candidate], best: str, found: Check) -> None:
    """Leave out who failed; and with a jump in f all that ask as much of f."""
    _about_f(found)
    wrong = next(finding for finding in found.findings if finding.severity == "error")
    rank = NEEDS.index(field[best].estimator.needs)
    for label, candidate in field.items():
        if label == best or (wrong.name == "jump in f" and NEEDS.index(candidate.estimator.needs) >= rank):
            race.left_out[label] = wrong.message


def _of_its_own(estimator: Estimator[Any, Any], row: Row, dist: Distribution) -> tuple[bool, int, int, float, float]:
    """What an estimator asks for and gives, in the order in which it matters between equals."""
    return (
        bool(estimator.learns),
        row.evaluations,
        NEEDS.index(estimator.needs),
        -estimator.order(dist),
        row.milliseconds,
    )


def _nobody(race: Race, budget: int, milliseconds: float | None) -> str:
    """Why there is nothing to recommend."""
    why = [f"{label}: {reason.rstrip('.')}" for label, reason in race.left_out.items()]
    why += [f"{skipped.label}: {skipped.reason.rstrip('.')}" for skipped in race.skipped.values()]
    if len(why) > TOLD:
        why[TOLD:] = [f"and {len(why) - TOLD} others"]
    allowed = f"{budget} evaluations" + ("" if milliseconds is None else f" and {milliseconds:g} ms")
    return (
        f"recommend needs a candidate that takes this distribution, fits {allowed}, and is right; got none. "
        f"{'; '.join(why) or 'No estimator was given'}. Allow more evaluations or time, or a bias."
    )
