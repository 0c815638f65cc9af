"""`recommend`: which estimator to take, and with how many samples, within a limit of evaluations or time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.diagnostics.checking.check import check
from sampleprop.diagnostics.checking.findings import Check
from sampleprop.diagnostics.comparing.compare import Progress, compare
from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.comparing.row import Row, ranked
from sampleprop.diagnostics.measuring.attached import measured
from sampleprop.diagnostics.measuring.enumeration import ENUMERABLE
from sampleprop.diagnostics.measuring.reference import Exact
from sampleprop.diagnostics.measuring.replicates import Measured
from sampleprop.diagnostics.measuring.tally import devices, require_estimator
from sampleprop.diagnostics.recommending.candidates import Candidate, fit_to_time, label_candidates, list_candidates
from sampleprop.diagnostics.recommending.race import FIRST, Criterion, Race
from sampleprop.diagnostics.recommending.recommendation import Recommendation, reasons
from sampleprop.estimator import Estimator, Needs
from sampleprop.estimators.exact.enumerate import Enumerate

USUAL = 16  # evaluations where no limit is given
EXACT = 64  # evaluations that an exact gradient may take where no limit is given
EVERY_STATE = Enumerate()
MOST = 1024  # evaluations where only the time is limited
ROUND = 1000  # between the seeds of two rounds, so that each has noise of its own
NEEDS = get_args(Needs)  # the weakest requirement first
SHOWN = 3  # reasons in a message
ABOUT_F = ("f mixes rows", "f ignores x")  # findings for which no estimator helps


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
    r"""Recommend an estimator for this problem, with its number of samples, within a limit of evaluations or time.

    The best estimator has the least variance within the budget: the trace of the covariance of the gradient. If biased
    estimators are allowed, it has the least bias² + variance / `averaged`. An estimator that must be trained is chosen
    only if its number is 1.6 times smaller. Without any limit, time counts too: if an estimator takes more than twice
    as long as the fastest, its number is multiplied by the excess. Exact enumeration then takes part for up to 64
    states, and is mentioned for up to 4096 states.

    The best is found by rounds of `compare`, each with four times as many replicates as the one before. A candidate
    drops out if it is worse than the best by four standard errors of the difference. Candidates within 5 % of the best
    are ties. Among ties the order is: nothing to train, fewer evaluations, a weaker requirement on f, higher
    derivatives, less time. At last, fewer samples are tried, and chosen if they tie too.

    At the end, `check` tests the winner. If it fails, for example because of a jump in f, it is left out, and the
    search runs again.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch], for any k.
        dist: p_φ at the parameters that matter. The best estimator at the start of a training need not be the best at
            its end.
        estimators: the candidates, of one objective; None for all estimators of E[f] in the library, some of them in
            several configurations.
        budget: evaluations of f allowed for one estimate and batch element. Use it if f takes most of the time. None
            for 16, or for up to 1024 with `milliseconds`.
        milliseconds: the time allowed for one estimate, forward and backward, on this machine; None for any.
        allow_biased: whether an estimator may be biased, if its bias can be measured.
        averaged: the number of independent estimates, over steps or batch elements, that are averaged before their
            noise matters. It matters only with `allow_biased`, because averaging does not remove a bias.
        exact: as in `compare`.
        context: as in `compare`.
        replicates: of the longest round, at least 128.
        seed: for all noise.
        train_steps: as in `compare`.
        progress: as in `compare`.

    Raises:
        ValueError: for a budget, time or number out of range, if no candidate is left, and for an f that mixes rows or
            ignores x.
        TypeError: as `compare`.

    Example:
        >>> import torch, sampleprop as sp
        >>> q = torch.distributions.Normal(torch.zeros(3, requires_grad=True), 1.0)
        >>> sp.recommend(torch.square, q, [sp.ScoreFunction(), sp.Pathwise()], budget=8, replicates=512).code
        'estimator = sp.Pathwise(samples=8)'
    """
    _check_numbers(budget, milliseconds, averaged)
    most = budget or (USUAL if milliseconds is None else MOST)
    expectation = measured(f, dist, context, apart=True)

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
    free = budget is None and milliseconds is None
    race = Race(measure, Criterion(averaged, allow_biased, timed=free), expectation.rounding)
    if milliseconds is None:
        field = label_candidates(given, dist, most)
    else:
        with torch.random.fork_rng(devices=devices(dist)):
            field, slow = fit_to_time(expectation, given, most, milliseconds, expectation.generator(seed))
        race.skipped |= {skipped.label: skipped for skipped in slow}
    states = _states(expectation)
    if free and states is not None and states <= EXACT and EVERY_STATE.label in field:
        field[EVERY_STATE.label] = Candidate(EVERY_STATE, states)
    for candidate in list(field.values())[:1]:
        # Before the race, because all numbers are meaningless for an f for which no estimator is right.
        _refuse_f(check(f, dist, candidate.estimator, context=context, replicates=FIRST, seed=seed))
    while True:
        standing = race.run({label: field[label] for label in field if label not in race.left_out}, replicates)
        if not standing and race.interrupted:
            raise KeyboardInterrupt
        if not standing:
            raise ValueError(_no_candidate(race, most, milliseconds))
        ties = race.ties(standing)
        best = min(ties, key=lambda label: _tie_key(field[label].estimator, race.rows[label], dist))
        if race.interrupted:
            break
        found = check(f, dist, field[best].configured(dist) or field[best].estimator, context=context, seed=seed)
        if found.ok is not False:  # where `check` could not compare the gradient, the rounds have measured it
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
        reasons=tuple(reasons(race, estimator, row, best, standing, worse, most, milliseconds, states)),
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


def _states(expectation: Measured) -> int | None:
    """The number of joint states, where they can be enumerated."""
    variables = expectation.variables
    if not isinstance(variables, families.Enumerable) or variables.support_size > ENUMERABLE:
        return None
    return variables.support_size


def _given(
    estimators: Iterable[Estimator[Any, Any]] | None, dist: Distribution, allow_biased: bool
) -> list[Estimator[Any, Any]]:
    if estimators is None:
        return list_candidates(dist, allow_biased)
    given = [
        require_estimator("recommend", e) for e in ((estimators,) if isinstance(estimators, Estimator) else estimators)
    ]
    biased = [estimator.label for estimator in given if not estimator.unbiased]
    if biased and not allow_biased:
        raise ValueError(
            f"recommend needs candidates without bias; got {', '.join(biased)}. Leave them out, or pass "
            "allow_biased=True."
        )
    return given


def _refuse_f(found: Check) -> None:
    """Refuse an f for which no estimator is right."""
    for finding in found.findings:
        if finding.name in ABOUT_F:
            raise ValueError(
                f"recommend needs an f that an estimator can be right for; got one that is not. {finding.message}"
            )


def _leave_out(race: Race, field: dict[str, Candidate], best: str, found: Check) -> None:
    """Leave out the candidate that failed; where f has a jump, also all that require as much of f."""
    _refuse_f(found)
    wrong = next(finding for finding in found.findings if finding.severity == "error")
    rank = NEEDS.index(field[best].estimator.needs)
    for label, candidate in field.items():
        if label == best or (wrong.name == "jump in f" and NEEDS.index(candidate.estimator.needs) >= rank):
            race.left_out[label] = wrong.message


def _tie_key(estimator: Estimator[Any, Any], row: Row, dist: Distribution) -> tuple[bool, int, int, float, float]:
    """Sort key for ties: nothing learned, then fewer evaluations, weaker requirements on f, higher order, less time."""
    return (
        bool(estimator.learns) or estimator.moves,
        row.evaluations,
        NEEDS.index(estimator.needs),
        -estimator.order(dist),
        row.milliseconds,
    )


def _no_candidate(race: Race, budget: int, milliseconds: float | None) -> str:
    """The message where no candidate is left, with the reasons."""
    why = [f"{label}: {reason.rstrip('.')}" for label, reason in race.left_out.items()]
    why += [f"{skipped.label}: {skipped.reason.rstrip('.')}" for skipped in race.skipped.values()]
    if len(why) > SHOWN:
        why[SHOWN:] = [f"and {len(why) - SHOWN} others"]
    allowed = f"{budget} evaluations" + ("" if milliseconds is None else f" and {milliseconds:g} ms")
    return (
        f"recommend needs a candidate that takes this distribution, fits {allowed}, and is right; got none. "
        f"{'; '.join(why) or 'No estimator was given'}. Allow more evaluations or time, or a bias."
    )
