"""Costs: numbers that are not finite, or not there"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinds import NORMAL
from robustness.matrix import RIGHT, Verdict, condition, refusal, said
from robustness.subject import BATCH, ROWS, Subject, same, theta

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
    """Refused with its index."""
    wanted = rf"{subject.name} needs finite costs; .* nan at \[sample, \*batch\] = \[0, 2\]\. Fix f, or pass nonfinite="
    return refusal(lambda: subject.run(f=_spoiled(subject.f(theta()), math.nan)), wanted)


@condition("inf cost, raise")
def inf_raises(subject: Subject) -> Verdict:
    """Refused with its index."""
    wanted = (
        rf"{subject.name} needs finite costs; .* -inf at \[sample, \*batch\] = \[0, 2\]\. Fix f, or pass nonfinite="
    )
    return refusal(lambda: subject.run(f=_spoiled(subject.f(theta()), -math.inf)), wanted)


@condition("NaN cost, propagate")
def nan_propagates(subject: Subject) -> Verdict:
    """The value of its row is NaN; value and gradient of every other row equal those of clean costs, same noise."""
    found = subject.run(f=_spoiled(subject.f(theta()), math.nan), nonfinite="propagate")
    clean = subject.run()
    assert bool(found.value[2].isnan())
    assert subject.attached or bool(found.by_phi[2].isnan().any())
    same((found.value[OTHERS], found.by_phi[OTHERS]), (clean.value[OTHERS], clean.by_phi[OTHERS]))
    return RIGHT


@condition("costs lost, drop")
def lost(subject: Subject) -> Verdict:
    """Up to two samples of a row are lost, whatever they are: the mean stays exact (z-test), so every count follows;
    for a biased or continuous one: the result is the mean of those of the samples kept, each taken alone."""
    several = subject.several()
    if several is None:
        return _belong_together(subject)
    row = torch.arange(ROWS)
    keep = torch.ones(_points(several), ROWS, dtype=torch.bool)
    keep[0, row % 2 == 1] = False
    keep[1, row % 3 == 0] = False
    return _dropped(several, keep)


@condition("all costs but one lost, drop")
def all_but_one(subject: Subject) -> Verdict:
    """Only one sample of each row is left, chosen beforehand: as above, or refused where nothing is left to compare
    with."""
    several = subject.several()
    if several is None:
        return _belong_together(subject)
    keep = torch.zeros(_points(several), ROWS, dtype=torch.bool)
    keep[0] = True
    return _dropped(several, keep)


def _belong_together(subject: Subject) -> Verdict:
    wanted = rf"{subject.name} needs every cost: its samples make sense only together; .* Fix f, or use ScoreFunction"
    phi = subject.kind.phi(BATCH)
    return refusal(lambda: subject.run(phi, f=_spoiled(subject.f(theta()), math.nan), nonfinite="drop"), wanted)


def _dropped(case: Subject, keep: Tensor) -> Verdict:
    try:
        if case.estimator.unbiased and case.kind is not NORMAL:
            phi = case.kind.phi().detach().double()
            case.agrees_with_exact(phi, fault=lambda f: _losing(f, keep), nonfinite="drop")
        else:
            _is_the_mean_of_those_kept(case, keep[:, :BATCH])
    except ValueError as error:
        wanted = rf"^{case.name} needs (every cost|two finite costs|a whole pair).* (Fix f|Use)"
        return said(error, wanted)
    return RIGHT


def _is_the_mean_of_those_kept(case: Subject, keep: Tensor) -> None:
    def run(keep: Tensor) -> Any:
        return case.run(f=_losing(case.f(theta()), keep), nonfinite="drop")[:2]

    alone = [run(row.unsqueeze(1).expand_as(keep)) for row in torch.eye(len(keep), dtype=torch.bool)]
    values, slopes = (torch.stack(those) for those in zip(*alone, strict=True))  # [k, BATCH, ...]
    same((values.mean(0), slopes.mean(0)), case.run()[:2], rtol=1e-4, atol=1e-5)
    weight = keep / keep.sum(0)
    expected = [torch.einsum("kb,kb...->b...", weight, those) for those in (values, slopes)]
    same(run(keep), expected, rtol=1e-4, atol=1e-5)


@condition("all costs lost, raise")
def all_raise(subject: Subject) -> Verdict:
    """Refused."""
    wanted = rf"{subject.name} needs finite costs; .* nan .*Fix f"
    return refusal(lambda: subject.run(f=lambda x: subject.f(theta())(x) * math.nan), wanted)


@condition("all costs lost, drop")
def all_dropped(subject: Subject) -> Verdict:
    """Refused: nothing is left to average."""
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
    """f has no derivative in one row, √0. Where f is not differentiated: value and gradients equal those without
    slope. Where it is: autograd's own NaN comes out in that row, the other rows are right; or refused."""
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
    """Told by hand to leave samples out with a mask that is not [k, *batch]: refused."""
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
