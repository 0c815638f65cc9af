"""`LearnedBaseline` learns to minimize the variance of the gradient, exactly, by enumeration and quadrature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, SigmoidTransform, TransformedDistribution

import sampleprop as sp
from sampleprop.estimators.score.score_function import Draw

LOGITS = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)


def f(x: Tensor) -> Tensor:
    return 2 + (x * torch.tensor([1.0, -2.0, 3.0], dtype=x.dtype)).sum(-1).square()


def learner(b: float) -> sp.ScoreFunction:
    estimator = sp.ScoreFunction(1, baseline=sp.LearnedBaseline()).double()
    torch.nn.init.constant_(estimator.baseline.offset, b)
    return estimator


def learned(b: float, dist: Distribution, points: Tensor, costs: Tensor, weights: Tensor) -> Tensor:
    """What the baseline learns by, from all rows with their probabilities."""
    estimator = learner(b)
    (weights * estimator.combine(dist, Draw(points.unsqueeze(0)), costs.unsqueeze(0))).sum().backward()
    gradient: Tensor = estimator.baseline.offset.grad
    return gradient.squeeze(0)


def rows() -> tuple[Tensor, Tensor]:
    points = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    return points, Independent(Bernoulli(logits=LOGITS), 1).log_prob(points).exp()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("b", [0.0, 5.0])
def test_it_learns_by_half_the_derivative_of_the_variance(sign: float, b: float) -> None:
    points, probability = rows()

    def half_variance(b: float) -> Tensor:
        phi = LOGITS.expand(8, 3).clone().requires_grad_()
        learner(b).combine(
            Independent(Bernoulli(logits=phi), 1), Draw(points.unsqueeze(0)), f(points).unsqueeze(0)
        ).sum().backward()
        assert phi.grad is not None
        return (probability @ phi.grad.square().sum(-1)) / 2

    phi = LOGITS.expand(8, 3).clone().requires_grad_()
    dist = Independent(Bernoulli(logits=phi), 1)
    found = learned(b, dist, points, f(points), sign * probability)
    torch.testing.assert_close(found, (half_variance(b + 1e-4) - half_variance(b - 1e-4)) / 2e-4, rtol=1e-6, atol=0)


@pytest.mark.parametrize("both", [True, False])
def test_only_the_parameters_whose_gradient_is_asked_for_count(both: bool) -> None:
    """At b = 0, f = x² and x ~ N(0, 1): E[f ‖s‖²] is E[x⁴] = 3, and E[x² (x² - 1)²] = 10 more with the scale."""
    grid = torch.arange(-12, 12.05, 0.05, dtype=torch.float64)
    weights = 0.05 * Normal(0.0, 1.0).log_prob(grid).exp()
    mean = torch.zeros_like(grid).requires_grad_()
    scale = torch.ones_like(grid).requires_grad_(both)
    found = learned(0.0, Normal(mean, scale), grid, grid.square(), weights)
    torch.testing.assert_close(found, torch.tensor(-13.0 if both else -3.0, dtype=torch.float64))


def test_without_parameters_by_name_it_learns_by_the_squared_error() -> None:
    mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    dist = TransformedDistribution(Normal(mean, 1.0), [SigmoidTransform()])
    points, costs = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0]).double()
    found = learned(0.5, dist, points, costs, torch.ones(3))
    torch.testing.assert_close(found, (0.5 - costs).sum())


def test_it_trains_nothing_else() -> None:
    points, _ = rows()
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    phi = LOGITS.expand(8, 3).clone().requires_grad_()
    found = []
    for mode in (True, False):
        estimator = learner(1.0).train(mode)
        value = estimator.combine(
            Independent(Bernoulli(logits=phi), 1), Draw(points.unsqueeze(0)), theta * f(points).unsqueeze(0)
        )
        found.append(torch.autograd.grad(value.sum(), (phi, theta)))
    torch.testing.assert_close(found[0], found[1])
