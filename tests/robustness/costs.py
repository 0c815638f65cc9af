"""Costs: numbers that are not finite, or not there"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustness.matrix import RIGHT, Verdict, condition, refusal, said
from robustness.subject import BATCH, ROWS, Outcome, Subject, close_in_mean, gradients, same, theta
from sampleprop import families

OTHERS = torch.arange(BATCH) != 2


def _spoiled(f: Callable[[Tensor], Tensor], spoil: float) -> Callable[[Tensor], Tensor]:
    """f with row 2 of the first sample not finite."""

    def spoiled(x: Tensor) -> Tensor:
        costs = f(x)
        where = torch.zeros_like(costs, dtype=torch.bool)
        where[0, 2] = True
        return torch.where(where, spoil, costs)

    return spoiled


def _losing(f: Callable[[Tensor], Tensor], keep: Tensor) -> Callable[[Tensor], Tensor]:
    """f that fails at first where `keep`, [k, *batch], is False; asked again, and at further points, it does not."""
    calls: list[int] = []

    def losing(x: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.where(keep, f(x), math.nan) if len(calls) == 1 else f(x)

    return losing


def _points(subject: Subject) -> int:
    return int(subject.estimator.propose(subject.kind.dist(subject.kind.phi(2))).points.shape[0])


@condition("NaN cost, raise")
def nan_raises(subject: Subject) -> Verdict:
    """Refused; the error names the index."""
    wanted = rf"{subject.name} needs finite costs; .* nan at \[sample, \*batch\] = \[0, 2\]\. Fix f, or pass nonfinite="
    return refusal(lambda: subject.run(f=_spoiled(subject.f(theta()), math.nan)), wanted)


@condition("inf cost, raise")
def inf_raises(subject: Subject) -> Verdict:
    """Refused; the error names the index."""
    wanted = (
        rf"{subject.name} needs finite costs; .* -inf at \[sample, \*batch\] = \[0, 2\]\. Fix f, or pass nonfinite="
    )
    return refusal(lambda: subject.run(f=_spoiled(subject.f(theta()), -math.inf)), wanted)


@condition("NaN cost, propagate")
def nan_propagates(subject: Subject) -> Verdict:
    """The value of the row with the NaN is NaN. The value and gradient of every other row equal those of finite
    costs, with the same noise."""
    found = subject.run(f=_spoiled(subject.f(theta()), math.nan), nonfinite="propagate")
    clean = subject.run()
    assert bool(found.value[2].isnan())
    assert subject.attached or bool(found.by_phi[2].isnan().any())
    same((found.value[OTHERS], found.by_phi[OTHERS]), (clean.value[OTHERS], clean.by_phi[OTHERS]))
    return RIGHT


@condition("costs lost where x says so, drop")
def lost(subject: Subject) -> Verdict:
    r"""Value and gradient of $\mathbb{E}[f \mid f \text{ is finite}]$ agree with the sum over the states (z-test, 32
    samples), or the call is refused."""
    if not subject.estimator.can_drop:
        return _every_cost_is_needed(subject)
    estimator = copy.deepcopy(subject.estimator)
    if "samples" in vars(estimator):
        estimator.samples = 32
    case, weights = Subject(estimator, subject.kind), theta(torch.float64)
    phi = case.kind.phi().detach().double()
    one = phi.unsqueeze(0).requires_grad_()
    rows = phi.expand(ROWS // 8, *phi.shape).clone().requires_grad_()
    variables = families.recognize(case.kind.dist(one))
    assert isinstance(variables, families.Enumerable)
    states = variables.support().unsqueeze(1)
    probs = torch.where(_is_lost(states), 0.0, variables.support_log_prob().exp())  # [states, 1]
    value = (probs * case.f(weights)(states)).sum(0) / probs.sum(0)
    estimate = case.value(rows, lambda x: torch.where(_is_lost(x), math.nan, case.f(weights)(x)), nonfinite="drop")
    close_in_mean(estimate.detach(), value.detach()[0])
    close_in_mean(gradients(estimate, rows)[0], gradients(value, one)[0][0])
    return RIGHT


def _is_lost(x: Tensor) -> Tensor:
    """[k, *batch]: the first coordinate is not 0."""
    return x.flatten(2)[..., 0] != 0


@condition("all costs but one lost, drop")
def all_but_one(subject: Subject) -> Verdict:
    """Refused, because a single cost cannot be compared with others. An exact sum gives the cost of the state that
    is left."""
    if not subject.estimator.can_drop:
        return _every_cost_is_needed(subject)
    several = subject.several() or subject
    keep = torch.zeros(_points(several), BATCH, dtype=torch.bool)
    keep[0] = True

    def run() -> Outcome:
        return several.run(f=_losing(several.f(theta()), keep), nonfinite="drop")

    if "samples" in vars(several.estimator):
        return refusal(
            run, rf"{subject.name} needs two finite costs of each batch element .* Draw more samples, or fix f"
        )
    found = run()
    same([found.by_phi], [torch.zeros_like(found.by_phi)])
    return RIGHT


def _every_cost_is_needed(subject: Subject) -> Verdict:
    wanted = rf"{subject.name} needs every cost: where x decides which costs are lost, .* Fix f, or use ScoreFunction"
    phi = subject.kind.phi(BATCH)
    return refusal(lambda: subject.run(phi, f=_spoiled(subject.f(theta()), math.nan), nonfinite="drop"), wanted)


@condition("all costs lost, raise")
def all_raise(subject: Subject) -> Verdict:
    """Refused."""
    wanted = rf"{subject.name} needs finite costs; .* nan .*Fix f"
    return refusal(lambda: subject.run(f=lambda x: subject.f(theta())(x) * math.nan), wanted)


@condition("all costs lost, drop")
def all_dropped(subject: Subject) -> Verdict:
    """Refused, because no cost is left."""
    if not subject.estimator.can_drop:
        return _every_cost_is_needed(subject)
    wanted = rf"{subject.name} needs a finite cost for each batch element; .* \[0\]\. Nothing is left to average: fix f"
    return refusal(lambda: subject.run(f=lambda x: subject.f(theta())(x) * math.nan, nonfinite="drop"), wanted)


@condition("all costs lost, propagate")
def all_propagate(subject: Subject) -> Verdict:
    """Every value is NaN."""
    found = subject.run(f=lambda x: subject.f(theta())(x) * math.nan, nonfinite="propagate")
    assert bool(found.value.isnan().all())
    assert bool(found.by_phi.isnan().flatten(1).any(1).all())
    return RIGHT


@condition("finite cost, NaN slope")
def nan_slope(subject: Subject) -> Verdict:
    r"""$f$ has no derivative in one row: $\sqrt 0$. If the estimator does not differentiate $f$, value and gradients
    equal those without this term. If it does, the gradient of that row is NaN, as autograd computes it, and the
    other rows are right; or the call is refused."""
    clean = theta()
    event_ndim = subject.event_ndim

    def f(x: Tensor, slope: bool) -> Tensor:
        row = OTHERS.reshape(BATCH, *(1,) * event_ndim)
        y = torch.where(row, 1.0, 0 * x.to(clean.dtype)).sqrt()  # [k, BATCH, *event]
        y = y if slope else y.detach()
        return subject.f(clean)(x) + (y.flatten(2).sum(-1) if event_ndim else y)

    expected = subject.run(f=lambda x: f(x, False), weights=clean)
    try:
        found = subject.run(f=lambda x: f(x, True), weights=clean)
    except ValueError as error:
        return said(error, rf"{subject.name} needs a finite derivative of f with respect to x.* Fix f")
    if subject.black_box:
        same(found, expected)
        return RIGHT
    assert bool(found.by_phi[2].isnan().any())
    assert subject.attached, "a NaN slope of a control variate should have raised"
    same((found.value, found.by_phi[OTHERS]), (expected.value, expected.by_phi[OTHERS]))
    return RIGHT


@condition("keep of another shape")
def keep_of_another_shape(subject: Subject) -> Verdict:
    """`combine` is told to leave samples out by a mask that does not have the shape `[k, *batch]`. Refused."""
    phi, weights = subject.kind.phi(BATCH), theta()
    dist, f = subject.kind.dist(phi), subject.f(weights)
    draw = subject.estimator.propose(dist)
    costs = f(draw.points)
    probe_costs = None if draw.probes is None else f(draw.probes)
    keep = torch.ones(len(costs), 1, dtype=torch.bool)
    wanted = rf"{subject.name} needs (keep of the costs' shape.* got \[{len(costs)}, 1\].* Pass|every cost: .* Fix f)"
    return refusal(
        lambda: subject.estimator.combine(dist, draw, costs, probe_costs=probe_costs, relaxed_f=f, keep=keep), wanted
    )
