"""`compare`: bias, variance and time of several estimators on one problem, at equal evaluations of f."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import checks
from sampleprop.diagnostics.comparison import Comparison
from sampleprop.diagnostics.measure import GROUPS, Tally, devices, instance, timed
from sampleprop.diagnostics.reference import MEAN, Exact, Reference, Target, judge, target
from sampleprop.diagnostics.replicates import Problem
from sampleprop.diagnostics.row import Skipped, ranked, row
from sampleprop.estimator import Estimator

Progress = Callable[[str, int, int], None]


def compare(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimators: Iterable[Estimator[Any, Any]],
    *,
    budget: int = 16,
    exact: Exact | None = None,
    context: Tensor | None = None,
    replicates: int = 1024,
    seed: int = 0,
    train_steps: int = 200,
    progress: Progress | None = None,
) -> Comparison:
    r"""Measure bias, variance and time of several estimators on one problem, at equal evaluations of f.

    Each estimator gets the configuration that spends the budget (`for_budget`). The parameters of the distribution are
    copied `replicates` times, so that many independent estimates come from one call of f, whose contract is the usual
    one. The gradient is the one by the parameters of `dist` (the logits of a discrete family; of another, those of its
    parameters that require a gradient), with f held fixed: what φ does inside f is not measured, nor is θ's gradient.

    Rows are ranked twice where no bias was seen: at equal time, by variance × time, and at equal evaluations, by
    variance × evaluations, which counts where f is all that takes time. The others follow by mean squared error, without a rank.

    All have to estimate the same: E[f], or the ELBO, or the bound log-mean-exp of as many samples. The first estimator says
    which; those of another are listed with that reason.

    An estimator with parameters of its own is trained first, with Adam, on this problem, and the table says so. The
    given objects are not changed, nor is any `.grad` nor the global random state. Ctrl-C keeps what is done.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch], for any k.
        dist: p_φ, a distribution that keeps its parameters under their names.
        estimators: what to compare, each configuration once; one that does not fit is listed with the reason.
        budget: evaluations of f for one estimate and batch element, at least 1.
        exact: the exact gradient of the expectation, summed over the batch: a tensor for each measured parameter, in
            their order or by name. None enumerates up to 4096 joint states, and otherwise takes a long run of an unbiased
            estimator, 16 times as many evaluations as each of the others gets; its own standard error counts in every z.
        context: [\*batch, ...], for learned baselines and critics.
        replicates: independent estimates for each estimator, at least 128; rounded up to a multiple of 32.
        seed: of all noise.
        train_steps: steps of training for estimators that learn; 0 for none.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        ValueError: for a budget, number of replicates, exact gradient or empty batch that makes no sense.
        TypeError: for a distribution that does not keep its parameters under their names, and for what is no estimator.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> f = lambda x: (x - 0.4).square().sum(-1)
        >>> table = sp.compare(f, q, [sp.ScoreFunction(), sp.Enumerate()], budget=8, replicates=128)
        >>> [row.label for row in table.rows]
        ['Enumerate()', 'ScoreFunction(samples=8)']
    """
    _check_numbers(budget, replicates, train_steps)
    waiting = _given(estimators)
    total = len(waiting)
    problem = Problem(f, dist, context)
    size = -(-replicates // GROUPS)
    tallies: list[Tally] = []
    skipped: list[Skipped] = []
    interrupted = False
    with torch.random.fork_rng(devices=devices(dist)):
        torch.manual_seed(seed)
        wanted = next((target(estimator) for estimator in _configured(waiting, dist, budget)), MEAN)
        reference = Reference(problem, exact, problem.generator(seed), wanted)
        try:
            while waiting:
                _tell(progress, f"preparing {waiting[0].name}", total - len(waiting), total)
                number = seed + 1 + total - len(waiting)
                prepared = _prepare(problem, waiting[0], wanted, budget, train_steps, number)
                if isinstance(prepared, Skipped):
                    skipped.append(prepared)
                else:
                    _add(tallies, prepared)
                del waiting[0]
            for done in range(GROUPS):
                _tell(progress, "measuring", done, GROUPS)
                _round(problem, reference, tallies, skipped, budget * size, size)
            _tell(progress, "measuring", GROUPS, GROUPS)
        except KeyboardInterrupt:
            interrupted = True
            skipped += [Skipped(estimator.label, "not reached before the interruption") for estimator in waiting]
    gradient = reference.length()
    rows = [row(tally, judge(tally, reference, problem.rounding), gradient) for tally in tallies if tally.means]
    return Comparison(
        rows=ranked(rows),
        skipped=tuple(skipped),
        budget=budget,
        seed=seed,
        reference=reference.describe(),
        parameters=tuple(problem.measured),
        gradient=gradient,
        interrupted=interrupted,
    )


def _check_numbers(budget: int, replicates: int, train_steps: int) -> None:
    checks.samples("compare", budget)
    if replicates < 4 * GROUPS:
        raise ValueError(f"compare needs at least {4 * GROUPS} replicates to judge a bias; got {replicates}.")
    if train_steps < 0:
        raise ValueError(f"compare needs train_steps of 0 or more; got {train_steps}.")


def _given(estimators: Iterable[Estimator[Any, Any]]) -> list[Estimator[Any, Any]]:
    if isinstance(estimators, Estimator):
        estimators = (estimators,)
    return [instance("compare", estimator) for estimator in estimators]


def _configured(given: Iterable[Estimator[Any, Any]], dist: Distribution, budget: int) -> Iterator[Estimator[Any, Any]]:
    """Those that take the distribution and fit the budget, as they will be measured."""
    for estimator in given:
        configured = None if estimator.refusal(dist) else estimator.for_budget(dist, budget)
        if configured is not None:
            yield configured


def _prepare(
    problem: Problem, given: Estimator[Any, Any], wanted: Target, budget: int, train_steps: int, seed: int
) -> Tally | Skipped:
    """Configure, try and train an estimator; or say why it cannot take part."""
    refusal = given.refusal(problem.dist)
    if refusal is not None:
        return Skipped(given.label, refusal, refused=True)
    estimator = given.for_budget(problem.dist, budget)
    if estimator is None:
        needed = given.evaluations(problem.dist)[0]
        return Skipped(given.label, f"does not fit the budget of {budget} evaluations; {given.label} takes {needed}")
    if target(estimator) != wanted:
        return Skipped(
            estimator.label,
            f"estimates another objective, {target(estimator)}; this comparison is of {wanted}, as the first estimator's. "
            "Compare those of one objective.",
        )
    estimator = copy.deepcopy(estimator)
    tally = Tally(estimator, problem.generator(seed))
    try:
        problem.step(estimator.train(), tally.generator)
        if estimator.learns and train_steps:
            problem.train(estimator, train_steps, tally.generator)
            tally.trained = train_steps
    except Exception as error:
        return Skipped(estimator.label, reason(error))
    estimator.eval()
    return tally


def _add(tallies: list[Tally], new: Tally) -> None:
    """The same configuration is measured once; one with modules of its own may differ, and gets a number."""
    same = [tally for tally in tallies if tally.estimator.label == new.estimator.label]
    if same and not new.estimator.learns:
        return
    if same:
        new.label = f"{new.label} no. {len(same) + 1}"
    tallies.append(new)


def _round(
    problem: Problem, reference: Reference, tallies: list[Tally], skipped: list[Skipped], evaluations: int, size: int
) -> None:
    """Add one group of replicates, and one timing, to every estimator."""
    reference.round(evaluations)
    for tally in list(tallies):
        try:
            timed(problem, tally)
            tally.add(problem.estimates(tally.estimator, size, tally.generator))
        except Exception as error:
            tallies.remove(tally)
            skipped.append(Skipped(tally.label, reason(error)))


def reason(error: Exception) -> str:
    """What an error said, on one line."""
    said = " ".join((str(error) or type(error).__name__, *getattr(error, "__notes__", ())))
    return " ".join(said.split())


def _tell(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
