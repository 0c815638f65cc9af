"""Every estimator gives θ its own gradient only: that of the costs at the samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

import sampleprop as sp
from contract.cases import BATCH, CASES, over, shares, tell
from kinds import BITS, CLASSES, ONE_BIT, ONE_HOTS, Kind, cost, estimate, gradients, theta


@over(CASES)
def test_theta_hears_of_the_costs_only(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """∇_θ is the chain rule through the costs of `draw.points`: nothing comes from relaxed points, probes or noise."""
    phi, weights = kind.phi(BATCH), theta()
    dist = kind.dist(phi)
    draw = variant.propose(dist, generator=Generator().manual_seed(0))
    costs = cost(draw.points.detach(), weights, len(dist.event_shape))
    told = cost(draw.points, theta().detach(), len(dist.event_shape))
    leaf = torch.zeros_like(told).requires_grad_()
    (share,) = gradients(tell(variant, kind, phi, draw, told + leaf), leaf)
    (expected,) = torch.autograd.grad(costs, weights, share)
    (found,) = gradients(estimate(variant, kind, phi, weights), weights)
    torch.testing.assert_close(found, expected)


EVEN = [case for case in CASES if case[0].exact_forward and bool((shares(*case).diff(dim=0).abs() < 1e-7).all())]


@over(EVEN)
def test_gradient_by_theta_is_the_mean_over_the_points(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    dist = kind.dist(phi)
    points = variant.propose(dist, generator=Generator().manual_seed(5)).points.detach()
    (expected,) = gradients(cost(points, weights, len(dist.event_shape)).mean(0), weights)
    (found,) = gradients(estimate(variant, kind, phi, weights, seed=5), weights)
    torch.testing.assert_close(found, expected)


def test_most_estimators_weigh_their_samples_evenly() -> None:
    assert len(EVEN) > len(CASES) / 2


@over([(v, kind) for v, kind in CASES if v.exact_forward and kind in (BITS, ONE_BIT, CLASSES, ONE_HOTS)])
def test_relaxed_points_do_not_leak_into_theta(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """A term that vanishes at every true sample, x (1 - x), gives θ nothing at all."""
    phi, weight = kind.phi(BATCH), torch.ones((), requires_grad=True)
    event = tuple(range(-len(kind.shape), 0))

    def f(x: Tensor) -> Tensor:
        between = x * (1 - x)
        return cost(x, theta().detach(), len(kind.shape)) + weight * (between.sum(event) if event else between)

    (gradient,) = gradients(sp.expect(f, kind.dist(phi), variant), weight)
    assert gradient == 0
