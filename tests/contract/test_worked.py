"""`combine` on numbers worked out by hand: each estimator carries one example, whose comment shows the arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sampleprop as sp


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_worked_example(estimator: type[sp.Estimator[Any]]) -> None:
    worked = estimator.worked()
    assert type(worked.estimator) is estimator
    parameter = worked.parameter.clone().requires_grad_()
    dist = worked.dist(parameter)
    draw = worked.draw(dist)
    probe_costs = None if draw.probes is None else worked.f(draw.probes)
    value = worked.estimator.combine(dist, draw, worked.f(draw.points), probe_costs=probe_costs, relaxed_f=worked.f)
    (gradient,) = torch.autograd.grad(value.sum(), parameter)
    # The numbers are exact; only float32 coefficients of control variates, where there are any, are not.
    torch.testing.assert_close(value, worked.value, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(gradient, worked.gradient, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_worked_example_tells_something(estimator: type[sp.Estimator[Any]]) -> None:
    """Neither number is zero by symmetry: a lost factor or sign would show."""
    worked = estimator.worked()
    assert worked.value.abs().min() > 0
    assert worked.gradient.abs().max() > 0
