"""`check`: is this estimator right for this f and this distribution?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop.diagnostics.cost import LINES, Cost, indifference, jump, mixing, randomness, varied
from sampleprop.diagnostics.findings import Check, Finding, Report
from sampleprop.diagnostics.measure import GROUPS, Tally, device_of, devices, instance
from sampleprop.diagnostics.reference import Reference, judge, target
from sampleprop.diagnostics.replicates import Problem
from sampleprop.diagnostics.statistics import POWER, Bias, counted, percent, plus_minus, student
from sampleprop.estimator import Estimator
from sampleprop.expectation import expect
from sampleprop.families import recognize


def check(
    f: Callable[[Tensor], Any],
    dist: Distribution,
    estimator: Estimator[Any, Any],
    *,
    context: Tensor | None = None,
    replicates: int = 2048,
    seed: int = 0,
) -> Check:
    r"""Find out whether an estimator is right for this f and this distribution, at the present parameters.

    Calls f at many points and tests that the cost of a point depends on that point only, that f is not random, that it does
    not ignore x, and, where a derivative is followed through it, that it has no jump. Then compares value and gradient of
    many independent estimates with the exact ones (by enumeration up to 4096 joint states, else by a long run of an
    unbiased estimator of the same objective), and counts the evaluations of f. It says which bias it could have seen, where
    outcomes too rare to be drawn count as noise, and what it could not test.

    The given objects are not changed, nor is any `.grad` nor the global random state; but an f that counts its calls or
    keeps running averages sees them.

    Args:
        f: from points [k, \*batch, \*event] to costs [k, \*batch], for any k.
        dist: p_φ.
        estimator: of the register, or your own.
        context: [\*batch, ...], for learned baselines and critics.
        replicates: independent estimates, at least 128; rounded up to a multiple of 32. The bias that can be
            seen goes with one over their square root.
        seed: of all noise.

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
    refusal = instance("check", estimator).refusal(dist)
    if refusal is not None:
        return Check(estimator.label, (Finding("refused", "error", refusal),), (), (), None)
    estimator = copy.deepcopy(estimator).eval()
    report = Report()
    with torch.random.fork_rng(devices=devices(dist)):
        try:
            expect(f, dist, estimator, context=context)
        except Exception as error:
            report.found(_failure(error))
            return report.check(estimator, None)
        if 0 in dist.batch_shape:
            report.unchecked.append("anything but that it runs: the batch is empty. Pass one with elements")
            return report.check(estimator, None)
        try:
            _check_cost(report, Cost(estimator.name, f, dist, seed), estimator, seed)
        except Exception as error:
            report.found(_failure(error))
            return report.check(estimator, None)
        report.unchecked.append("what φ does inside f other than through x, and the gradient for θ: f is held fixed")
        if any(finding.name == "f mixes rows" for finding in report.findings):
            report.unchecked.append("the gradient: costs that depend on other points have none to compare with")
            return report.check(estimator, None)
        try:
            problem = Problem(f, dist, context)
        except TypeError as error:
            report.unchecked.append(f"the gradient: {error}")
            return report.check(estimator, None)
        bias = _check_gradient(report, problem, estimator, -(-replicates // GROUPS), seed)
    return report.check(estimator, bias)


def _check_cost(report: Report, cost: Cost, estimator: Estimator[Any, Any], seed: int) -> None:
    dist = cost.dist
    generator = Generator(device_of(dist)).manual_seed(seed + 1)
    points = recognize(dist).sample(2 * LINES, generator)
    finding, repeatable = randomness(cost, points)
    report.found(finding, "f gives the same points the same costs")
    if not repeatable:
        report.unchecked.append("whether f mixes rows, ignores x or jumps: it is random beyond torch's generator")
        return
    finding, tested = mixing(cost, points, generator)
    _tell(report, finding, tested, "the cost of a point depends on that point only", "f mixes rows")
    points = varied(cost, points, generator)
    finding, tested = indifference(cost, points)
    _tell(report, finding, tested, "the cost depends on x", "f ignores x")
    continuous = points.is_floating_point() and not recognize(dist).is_discrete
    # A derivative at the discrete points themselves (needs "differentiable") is no path between them.
    followed = estimator.needs != "black box" if continuous else estimator.needs == "relaxed"
    if followed and points.is_floating_point():
        lines = f"{LINES} lines" + (" for each batch element" if dist.batch_shape else "")
        report.found(jump(cost, points), f"no jump of f along {lines} between draws")


def _failure(error: Exception) -> Finding:
    notes = " ".join(getattr(error, "__notes__", ()))
    return Finding("fails", "error", f"{type(error).__name__}: {error} {notes}".strip())


def _tell(report: Report, finding: Finding | None, tested: bool, passed: str, name: str) -> None:
    if tested:
        report.found(finding, passed)
    else:
        report.unchecked.append(f"whether {name}: all draws were the same point, the distribution being so sure of it")


def _check_gradient(
    report: Report, problem: Problem, estimator: Estimator[Any, Any], size: int, seed: int
) -> Bias | None:
    tally = Tally(estimator, problem.generator(seed + 2))
    reference = Reference(problem, None, problem.generator(seed + 3), target(estimator))
    try:
        for _ in range(GROUPS):
            tally.add(problem.estimates(estimator, size, tally.generator))
            reference.round(tally.evaluations * size)
    except Exception as error:
        report.found(_failure(error))
        return None
    declared = estimator.evaluations(problem.dist)[0]
    miscounted = Finding(
        "evaluations",
        "warning",
        f"one estimate evaluates f at {counted(tally.evaluations, 'point')}; `evaluations` says {declared}. Budgets rely on it: "
        "let it count probes and relaxed points too.",
    )
    report.found(
        miscounted if declared != tally.evaluations else None,
        f"one estimate evaluates f at {counted(declared, 'point')}",
    )
    _check_value(report, tally, reference, problem.rounding)
    bias = judge(tally, reference, problem.rounding)
    if bias is None:
        nothing = (
            ""
            if reference.known
            else ", and never saw a gradient: the outcomes that matter are too rare, or f is constant"
        )
        report.unchecked.append(f"the gradient's bias; the reference is {reference.describe()}{nothing}")
        return None
    _check_bias(report, bias, estimator, reference)
    return bias


def _check_value(report: Report, tally: Tally, reference: Reference, rounding: float) -> None:
    expected = reference.values(GROUPS)
    if expected is None:
        report.unchecked.append("the value of the estimate: it is not known")
        return
    differences = torch.tensor(tally.values, dtype=torch.float64) - expected
    rounded = rounding * float(expected.abs().max())
    error = math.sqrt(float(differences.var()) / GROUPS + reference.unseen(tally).value + rounded**2)
    mean = float(differences.mean())
    if abs(mean) <= student(GROUPS) * error:
        visible, total = (student(GROUPS) + POWER) * error, float(expected.mean())
        report.passed.append(
            f"the value, summed over the batch, is right: {total:.4g}; an error of {visible:.2g} would have been seen"
        )
        return
    report.found(
        Finding(
            "wrong value",
            "error" if tally.estimator.exact_forward else "warning",
            f"the value, summed over the batch, is off by {plus_minus(mean, error)} for an expectation of "
            f"{float(expected.mean()):.4g}. Average the costs of true samples, [k, *batch] -> [*batch].",
        )
    )


def _check_bias(report: Report, bias: Bias, estimator: Estimator[Any, Any], reference: Reference) -> None:
    power = f"the reference is {reference.describe()}"
    if math.isfinite(bias.visible):
        power = (
            f"a bias of {percent(bias.visible)} of the gradient would have been seen, of {percent(bias.visible_along)} "
            f"along it; {power}"
        )
    if not bias.seen:
        report.passed.append(f"no bias of the gradient was seen (z = {bias.z:.1f}); {power}")
        return
    size = f"the gradient is off by {percent(bias.relative)} of its length ({percent(bias.along)} along it, z = {bias.z:.1f})"
    if estimator.unbiased:
        text = (
            f"{size}, although {estimator.name} states that it is unbiased. If it is your own, the estimator is wrong: compare it "
            "with its formula. If not, f breaks what it needs: see its docstring, and look for a jump in f."
        )
        report.found(Finding("wrong gradient", "error", text))
    else:
        text = f"{size}, as {estimator.name} says of itself: it is biased. {power[0].upper()}{power[1:]}."
        report.found(Finding("biased gradient", "note", text))
