"""`check`: is this estimator right for this f and this distribution?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.diagnostics.checking import objective
from sampleprop.diagnostics.checking.cost import LINES, Cost, indifference, jump, mixing, position, randomness, varied
from sampleprop.diagnostics.checking.findings import Check, Finding, Findings
from sampleprop.diagnostics.checking.program import check_program
from sampleprop.diagnostics.checking.solver import minimization, nondeterminism
from sampleprop.diagnostics.checking.verdicts import judge_bias, judge_value
from sampleprop.diagnostics.measuring.attached import measured
from sampleprop.diagnostics.measuring.reference import Reference, judge, target
from sampleprop.diagnostics.measuring.replicates import Measured, describe_error
from sampleprop.diagnostics.measuring.statistics import Bias, counted
from sampleprop.diagnostics.measuring.tally import GROUPS, Tally, devices, require_estimator
from sampleprop.estimator import Estimator
from sampleprop.expectation import expect
from sampleprop.families.parameters import device_of
from sampleprop.programs.program import program


@overload
def check(f: program[...], dist: Sequence[Any], *, replicates: int = 2048, seed: int = 0) -> Check: ...


@overload
def check(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimator: Estimator[Any, Any],
    *,
    context: Tensor | None = None,
    parameters: Iterable[Tensor] | None = None,
    replicates: int = 2048,
    seed: int = 0,
) -> Check: ...


def check(
    f: Callable[[Tensor], Any] | program[...],
    dist: Distribution | Sequence[Any],
    estimator: Estimator[Any, Any] | None = None,
    *,
    context: Tensor | None = None,
    parameters: Iterable[Tensor] | None = None,
    replicates: int = 2048,
    seed: int = 0,
) -> Check:
    r"""Test whether an estimator is right for this f and this distribution, at the present parameters.

    `check(program, arguments)` tests a program: its value, and its gradient with respect to all tensors on which it
    depends. The reference is a sum over all paths of outcomes if there are at most 4096, and otherwise a long run of
    score functions. It also finds samples that were drawn without `sample`, whose gradient is lost, other noise, and
    rows of a batch that mix.

    First it calls f at many points. It tests that the cost of a point depends on that point only and not on its place,
    that f is not random, that f does not ignore x, and that f has no jump if the estimator differentiates it. For
    `PerturbAndMAP` it tests that the solver is deterministic and that it maximizes. Then it compares the value and the
    gradient of many independent estimates with the exact ones. These come from enumeration for up to 4096 joint states,
    and otherwise from a long run of an unbiased estimator of the same objective. It also counts the evaluations of f.
    The result says which bias would have been seen, and what could not be tested. Outcomes that are too rare to be
    drawn count as noise. `ok` is True only if the gradient was compared, False if something is wrong, and None
    otherwise.

    The gradient is taken with respect to the parameters of `dist`. If `dist` does not keep them under their names
    (LogNormal, a transformed distribution, a class of your own), it is taken with respect to the tensors in it, with
    those of its transforms and networks. Mistakes elsewhere cannot be seen: an encoder that ran under
    `torch.no_grad()`, a decoder whose own parameters get no gradient, a KL term outside f, a cost with the wrong sign,
    and a mean over the event in place of a sum.

    The given objects, every `.grad` and the global random state do not change. But an f that counts its calls or keeps
    running averages sees the additional calls.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch], for any k; or a program.
        dist: p_φ; for a program its arguments, as a tuple.
        estimator: one of the library, or your own. None for a program, which has the estimators of its sites.
        context: [\*batch, ...], for learned baselines and critics.
        parameters: the tensors with respect to which the gradient is compared, each with a path to `dist`, such as the
            parameters of an encoder; None for those of `dist`, as above.
        replicates: independent estimates, at least 128; rounded up to a multiple of 32. The smallest bias that can be
            seen is proportional to one over their square root.
        seed: for all noise.

    Raises:
        ValueError: for fewer than 128 replicates.
        TypeError: for an object that is not an estimator.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> step = lambda x: (x > 0).float().sum(-1) + x.square().sum(-1)
        >>> result = sp.check(step, q, sp.Pathwise())
        >>> result.ok, result.findings[0].name
        (False, 'jump in f')
    """
    if replicates < 4 * GROUPS:
        raise ValueError(f"check needs at least {4 * GROUPS} replicates to judge a bias; got {replicates}.")
    if isinstance(f, program):
        if estimator is not None or not isinstance(dist, Sequence):
            raise TypeError(
                "check of a program needs its arguments as a tuple, and no estimator; got check(program, "
                f"{type(dist).__name__}, {estimator!r}). Use check(program.using(estimator), arguments)."
            )
        return check_program(f, dist, replicates, seed)
    estimator = require_estimator("check", estimator)
    if not isinstance(dist, Distribution):
        raise TypeError(checks.no_distribution("check", dist))
    try:
        refusal = estimator.refusal(dist)
    except ValueError as error:  # parameters at the edge of what they may be
        refusal = str(error)
    if refusal is not None:
        return Check(estimator.label, (Finding("refused", "error", refusal),), (), (), None)
    estimator = copy.deepcopy(estimator).eval()
    found, bias = Findings(), None
    with torch.random.fork_rng(devices=devices(dist)):
        try:
            bias = _run(found, f, dist, estimator, context, parameters, -(-replicates // GROUPS), seed)
        except Exception as error:
            found.add(Finding("fails", "error", f"{type(error).__name__}: {describe_error(error)}"))
    return found.result(estimator, bias)


def _run(
    found: Findings,
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimator: Estimator[Any, Any],
    context: Tensor | None,
    parameters: Iterable[Tensor] | None,
    size: int,
    seed: int,
) -> Bias | None:
    """Run all tests, of f and then of the gradient; return the bias where it could be measured."""
    expect(f, dist, estimator, context=context)
    if 0 in dist.batch_shape:
        found.unchecked.append("anything but that it runs: the batch is empty. Pass one with elements")
        return None
    variables = families.recognize(dist)
    if isinstance(variables, families.Solutions):
        _check_solver(found, variables, Generator(device_of(dist)).manual_seed(seed + 4))
    _check_cost(found, Cost(estimator.name, f, dist, seed), estimator, seed)
    found.add(objective.log_q(f, dist, estimator, Generator(device_of(dist)).manual_seed(seed)))
    found.unchecked.append("what φ does inside f other than through x, and the gradient for θ: f is held fixed")
    if not variables.attached:
        found.unchecked.append("whether φ gets the gradient: no tensor of the distribution requires one")
    if any(finding.name in ("f mixes rows", "f counts samples") for finding in found.findings):
        found.unchecked.append(
            "the gradient: costs that depend on other points or on a place have none to compare with"
        )
        return None
    try:
        expectation = measured(f, dist, context, parameters=parameters)
    except TypeError as error:
        found.unchecked.append(f"the gradient: {error}")
        return None
    return _check_gradient(found, expectation, estimator, size, seed)


def _check_solver(found: Findings, variables: families.Solutions, generator: Generator) -> None:
    found.add(nondeterminism(variables, generator), "the solver gives the same scores the same solutions")
    finding, tested = minimization(variables, generator)
    if tested:
        found.add(finding, "the solver maximizes ⟨y, scores⟩")
    else:
        found.unchecked.append("whether the solver maximizes: solutions are not of the shape of the scores")


def _check_cost(found: Findings, cost: Cost, estimator: Estimator[Any, Any], seed: int) -> None:
    dist = cost.dist
    generator = Generator(device_of(dist)).manual_seed(seed + 1)
    points = cost.variables.sample(2 * LINES, generator)
    noisy, repeatable = randomness(cost, points)
    found.add(noisy, "f gives the same points the same costs")
    if not repeatable:
        found.unchecked.append("whether f mixes rows, ignores x or jumps: it is random beyond torch's generator")
        return
    finding, tested = mixing(cost, points, generator)
    _add_if_tested(found, finding, tested, "the cost of a point depends on that point only", "f mixes rows")
    if noisy is not None:
        found.unchecked.append("whether f depends on a point's place among the samples: it is random")
    elif finding is None:
        found.add(position(cost, points), "the cost of a point does not depend on its place among the samples")
    points = varied(cost, points, generator)
    finding, tested = indifference(cost, points)
    _add_if_tested(found, finding, tested, "the cost depends on x", "f ignores x")
    continuous = points.is_floating_point() and not cost.variables.is_discrete
    # An estimator that differentiates f only at discrete points ("differentiable") does not follow f between them.
    followed = estimator.needs != "black box" if continuous else estimator.needs == "relaxed"
    if followed and points.is_floating_point():
        lines = f"{LINES} lines" + (" for each batch element" if dist.batch_shape else "")
        found.add(jump(cost, points), f"no jump of f along {lines} between draws")


def _add_if_tested(found: Findings, finding: Finding | None, tested: bool, passed: str, name: str) -> None:
    if tested:
        found.add(finding, passed)
    else:
        found.unchecked.append(
            f"whether {name}: all draws were the same point, because its probability is so near to 1"
        )


def _check_gradient(
    found: Findings, expectation: Measured, estimator: Estimator[Any, Any], size: int, seed: int
) -> Bias | None:
    tally = Tally(estimator, expectation.generator(seed + 2))
    reference = Reference(expectation, None, expectation.generator(seed + 3), target(estimator))
    for _ in range(GROUPS):
        tally.add(expectation.estimates(estimator, size, tally.generator))
        reference.round(tally.evaluations * size)
    declared = estimator.evaluations(expectation.dist)[0]
    miscounted = Finding(
        "evaluations",
        "warning",
        f"one estimate evaluates f at {counted(tally.evaluations, 'point')}; `evaluations` says {declared}. Budgets "
        "rely on it: let it count probes and relaxed points too.",
    )
    found.add(
        miscounted if declared != tally.evaluations else None,
        f"one estimate evaluates f at {counted(declared, 'point')}",
    )
    fix = " Average the costs of true samples, [k, *batch] -> [*batch]."
    judge_value(found, tally, reference, expectation.rounding, estimator.exact_forward, fix)
    bias = judge(tally, reference, expectation.rounding)
    if bias is None:
        nothing = (
            ""
            if reference.known
            else ", in which every gradient was zero: the outcomes that matter are too rare, or f is constant"
        )
        found.unchecked.append(f"the gradient's bias; the reference is {reference.describe()}{nothing}")
        return None
    biased = [] if estimator.unbiased else [estimator.name]
    fix = (
        "If it is your own, the estimator is wrong: compare it with its formula. If not, f breaks what it needs: see "
        "its docstring, and look for a jump in f."
    )
    judge_bias(found, bias, biased, f"{estimator.name} states", reference.describe(), "the gradient", fix)
    return bias
