"""Derivatives above the first are refused where they would be wrong, and right with respect to θ.

That those with respect to φ are right where an estimator has the order: tests/core/test_orders.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.func import grad, vmap

import sampleprop as sp
from contract.cases import ATTACHED, BATCH, CASES, DETACHED, free, once, over, shares
from kinds import GAMMA, Kind, cost, estimate, theta
from sampleprop import families

# torch's own refusal of the second derivative of Gamma samples comes first, see the test for it.
FIRST_ORDER = [(variant, kind) for variant, kind in CASES if variant.order(kind.dist(kind.phi(2))) < 2]
FIRST_ORDER = [case for case in FIRST_ORDER if case not in ATTACHED or case[1] is not GAMMA]
REFUSED = "estimates first derivatives only; got a derivative of its gradient"


@over(FIRST_ORDER)
def test_second_and_mixed_derivatives_of_the_gradient_are_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), phi, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.square().sum(), phi, retain_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.sum(), weights)


@over(once([case for case in FIRST_ORDER if case in DETACHED]))
def test_mixed_derivative_the_other_way_is_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.sum(), phi)


@over(once(FIRST_ORDER))
def test_second_derivative_behind_an_encoder_is_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """The chain rule through tanh alone would give something, and it would be wrong."""
    inputs, weights = kind.phi(BATCH), theta()
    value = estimate(variant, kind, 2 * inputs.tanh(), weights)
    (first,) = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.sum(), inputs)


@over([case for case in ATTACHED if case[1] is GAMMA])
def test_second_derivative_of_gamma_samples_is_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), phi, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not implemented|first derivatives only"):
        torch.autograd.grad(first.square().sum(), phi)


@over(once([case for case in FIRST_ORDER if free(case[0]) and case[1] is not GAMMA]))
def test_second_derivative_under_functional_transforms_is_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(3).detach(), theta().detach()
    event_ndim = len(kind.dist(phi).event_shape)

    def one(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant)

    def slope(phi: Tensor) -> Tensor:
        return grad(one)(phi).square().sum()

    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        grad(slope)(phi[0])
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        vmap(grad(slope), randomness="different")(phi)


def _as_function_of_costs(variant: sp.Estimator[Any, Any], kind: Kind, phi: Tensor) -> Callable[[Tensor], Tensor]:
    """The value at the points of seed 0, by the costs there."""
    if variant.objective == "log-mean-exp":
        dist = kind.dist(phi)
        points = variant.propose(dist, generator=Generator().manual_seed(0)).points
        log_q = families.recognize(dist).log_prob(points).detach()
        return lambda costs: (costs - log_q).logsumexp(0)
    share = shares(variant, kind)
    return lambda costs: (share * costs).sum(0)


@over(FIRST_ORDER)
def test_second_derivative_by_theta_is_right(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    if variant.objective == "log-mean-exp":  # whose exponential multiplies the rounding of log q
        phi, weights = (x.detach().double().requires_grad_() for x in (phi, weights))
    dist = kind.dist(phi)

    def second(value: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(value, weights, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weights)[0]

    points = variant.propose(dist, generator=Generator().manual_seed(0)).points.detach()
    expected = second(_as_function_of_costs(variant, kind, phi)(cost(points, weights, len(dist.event_shape))).sum())
    torch.testing.assert_close(second(estimate(variant, kind, phi, weights).sum()), expected)
