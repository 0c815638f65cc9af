"""`compare`: bias, variance and time of several estimators on one problem, at equal evaluations of f."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import checks
from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.comparing.program import compare_program
from sampleprop.diagnostics.comparing.row import Skipped, ranked, row
from sampleprop.diagnostics.measuring.attached import measured
from sampleprop.diagnostics.measuring.reference import MEAN, Exact, Reference, Target, judge, target
from sampleprop.diagnostics.measuring.replicates import Measured, buffers_kept, describe_error
from sampleprop.diagnostics.measuring.tally import GROUPS, Tally, devices, require_estimator, time_one
from sampleprop.estimator import Estimator
from sampleprop.programs.coupled_replay import CoupledReplay
from sampleprop.programs.program import program

Progress = Callable[[str, int, int], None]


@overload
def compare(
    f: program[...],
    dist: Sequence[Any],
    estimators: Iterable[Estimator[Any, Any] | CoupledReplay],
    *,
    site: str | None = None,
    replicates: int = 1024,
    seed: int = 0,
    train_steps: int = 200,
) -> Comparison: ...


@overload
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
) -> Comparison: ...


def compare(
    f: Callable[[Tensor], Any] | program[...],
    dist: Distribution | Sequence[Any],
    estimators: Any,
    *,
    site: str | None = None,
    budget: int = 16,
    exact: Exact | None = None,
    context: Tensor | None = None,
    replicates: int = 1024,
    seed: int = 0,
    train_steps: int = 200,
    progress: Progress | None = None,
) -> Comparison:
    r"""Measure bias, variance and time of several estimators on one problem, at equal evaluations of f.

    `compare(program, arguments, estimators, site=name)` uses each estimator at that site of a program, or at every site
    for None. It measures the gradient with respect to all tensors on which the program depends. An evaluation is then a
    run of the part after the site, and each estimate is a call of the program. `CoupledReplay` can take part.

    Each estimator gets the configuration that spends the budget (`for_budget`). The parameters of the distribution are
    copied `replicates` times, so that one call of f gives many independent estimates. The gradient is taken with
    respect to the parameters of `dist`: the logits of a discrete family, and otherwise the parameters that require a
    gradient. If `dist` does not keep them under their names (LogNormal, a transformed distribution, a class of your
    own), the gradient is taken with respect to the tensors in it that require one. These cannot be copied, so each
    estimate takes a call of f. f is held fixed: the direct effect of φ inside f is not measured, nor is θ's gradient.

    Unbiased estimators are ranked twice: for equal time, by variance × time, and for equal evaluations, by variance ×
    evaluations. The second ranking matters if f takes nearly all the time. The other estimators follow without a rank,
    ordered by mean squared error: first those that declare themselves biased although no bias was seen here, then those
    whose bias was seen.

    All must estimate the same objective: E[f], the ELBO, or the bound log-mean-exp with the same number of samples. The
    first estimator decides which. Estimators with another objective are listed with this reason.

    An estimator that learns, or has an average that follows the costs, is first trained with Adam on this problem, and
    the table says so. The given objects, every `.grad` and the global random state do not change. After Ctrl-C, the
    finished results are returned.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch], for any k; or a program.
        dist: p_φ; for a program its arguments, as a tuple.
        estimators: the estimators to compare, each configuration once. One that cannot take part is listed with the
            reason.
        site: the name of the site of a program.
        budget: evaluations of f for one estimate and batch element, at least 1.
        exact: the exact gradient of the expectation, summed over the batch: a tensor for each measured parameter, in
            their order or by name. None enumerates up to 4096 joint states. Beyond that it uses a long run of an
            unbiased estimator with 16 times the evaluations of each estimator, and every z includes the standard error
            of this run.
        context: [\*batch, ...], for learned baselines and critics.
        replicates: independent estimates for each estimator, at least 128; rounded up to a multiple of 32.
        seed: for all noise.
        train_steps: steps of training for estimators that learn; 0 for none.
        progress: a function that is called with the present stage, the number of its finished steps, and the number of
            all its steps.

    Raises:
        ValueError: for a budget below 1, fewer than 128 replicates, an exact gradient of another shape, and an empty
            batch.
        TypeError: for a distribution whose parameters cannot be copied and that has no tensor which requires a
            gradient, and for an object that is not an estimator.

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
    if isinstance(f, program):
        if not isinstance(dist, Sequence):
            raise TypeError(f"compare of a program needs its arguments as a tuple; got {type(dist).__name__}.")
        return compare_program(f, dist, estimators, site, replicates, seed, train_steps)
    if not isinstance(dist, Distribution):
        raise TypeError(checks.no_distribution("compare", dist))
    waiting = _given(estimators)
    total = len(waiting)
    expectation = measured(f, dist, context, apart=True)
    size = -(-replicates // GROUPS)
    tallies: list[Tally] = []
    skipped: list[Skipped] = []
    interrupted = False
    with torch.random.fork_rng(devices=devices(dist)):
        torch.manual_seed(seed)
        wanted = wanted_of(waiting, dist, budget)
        reference = Reference(expectation, exact, expectation.generator(seed), wanted)
        try:
            while waiting:
                _tell(progress, f"preparing {waiting[0].name}", total - len(waiting), total)
                number = seed + 1 + total - len(waiting)
                prepared = prepare(expectation, waiting[0], wanted, budget, train_steps, number, progress)
                if isinstance(prepared, Skipped):
                    skipped.append(prepared)
                else:
                    _add(tallies, prepared)
                del waiting[0]
            each = len(tallies)
            steps = GROUPS * each
            _tell(progress, "measuring", 0, steps)
            for done in range(0, steps, max(1, each)):
                for finished in _round(expectation, reference, tallies, skipped, budget * size, size):
                    _tell(progress, "measuring", done + finished, steps)
        except KeyboardInterrupt:
            interrupted = True
            skipped += [Skipped(estimator.label, "not reached before the interruption") for estimator in waiting]
    gradient = reference.length()
    rows = [
        row(
            tally,
            tally.estimator.name,
            tally.estimator.unbiased,
            judge(tally, reference, expectation.rounding),
            gradient,
        )
        for tally in tallies
        if tally.means
    ]
    return Comparison(
        rows=ranked(rows),
        skipped=tuple(skipped),
        budget=budget,
        seed=seed,
        reference=reference.describe(),
        parameters=tuple(expectation.shapes),
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
    return [require_estimator("compare", estimator) for estimator in estimators]


def wanted_of(given: Iterable[Estimator[Any, Any]], dist: Distribution, budget: int) -> Target:
    """The target of the first estimator that takes the distribution and fits the budget."""
    for estimator in given:
        configured = None if estimator.refusal(dist) else estimator.for_budget(dist, budget)
        if configured is not None:
            return target(configured)
    return MEAN


def prepare(
    expectation: Measured,
    given: Estimator[Any, Any],
    wanted: Target,
    budget: int,
    train_steps: int,
    seed: int,
    progress: Progress | None = None,
) -> Tally | Skipped:
    """Configure, try out and train an estimator; or say why it cannot take part."""
    refusal = given.refusal(expectation.dist)
    if refusal is not None:
        return Skipped(given.label, refusal, refused=True)
    estimator = given.for_budget(expectation.dist, budget)
    if estimator is None:
        needed = given.evaluations(expectation.dist)[0]
        return Skipped(given.label, f"does not fit the budget of {budget} evaluations; {given.label} takes {needed}")
    if target(estimator) != wanted:
        return Skipped(
            estimator.label,
            f"estimates another objective, {target(estimator)}; this comparison is of {wanted}, as the first "
            "estimator's. Compare those of one objective.",
        )
    estimator = copy.deepcopy(estimator)
    tally = Tally(estimator, expectation.generator(seed))
    try:
        with buffers_kept(estimator):
            expectation.step(estimator.train(), tally.generator)
        if (estimator.learns or estimator.moves) and train_steps:
            expectation.train(
                estimator,
                train_steps,
                tally.generator,
                lambda step: _tell(progress, f"training {estimator.name}", step, train_steps),
            )
            tally.trained = train_steps
    except Exception as error:
        return Skipped(estimator.label, describe_error(error))
    estimator.eval()
    return tally


def _add(tallies: list[Tally], new: Tally) -> None:
    """Add an estimator. An equal configuration is measured once; another one with the same label gets a number."""
    same = [tally for tally in tallies if tally.estimator.label == new.estimator.label]
    if not (new.estimator.learns or new.estimator.moves) and any(
        type(tally.estimator) is type(new.estimator) for tally in same
    ):
        return
    if same:
        new.label = f"{new.label} no. {len(same) + 1}"
    tallies.append(new)


def _round(
    expectation: Measured,
    reference: Reference,
    tallies: list[Tally],
    skipped: list[Skipped],
    evaluations: int,
    size: int,
) -> Iterator[int]:
    """Add one group of replicates, and one timing, to every estimator; yield how many are finished."""
    reference.round(evaluations)
    for finished, tally in enumerate(list(tallies), start=1):
        try:
            time_one(expectation, tally)
            tally.add(expectation.estimates(tally.estimator, size, tally.generator))
        except Exception as error:
            tallies.remove(tally)
            skipped.append(Skipped(tally.label, describe_error(error)))
        yield finished


def _tell(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
