"""`nonfinite="drop"` where x decides which costs are lost: E[f | f is finite] and its gradient are exact."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

import sampleprop as sp
from sampleprop.estimators.score.score_function import Draw

Z = 4.9  # standard errors: a false alarm once in 10⁶ for each number
NAN = math.nan
THREE = torch.tensor([1.0, 4.0, NAN], dtype=torch.float64)  # class 2 is lost


def classes(logits: Tensor) -> Distribution:
    return Categorical(logits=logits)


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def rough(x: Tensor) -> Tensor:
    """Of three bits; lost where the first two are 1."""
    cost = (x[..., 0] - 0.3 * x[..., 1] + 0.5 * x[..., 2]).square() + x[..., 1] * x[..., 2]
    return torch.where((x[..., 0] * x[..., 1]) > 0, NAN, cost)


def _leaf(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


def test_enumeration_is_exact() -> None:
    logits = _leaf(0.3, -0.4, -0.2)
    value = sp.expect(lambda x: THREE[x], classes(logits), sp.Enumerate(), nonfinite="drop")
    p = logits.detach().softmax(0)[:2]
    first, second = (p / p.sum()).tolist()
    torch.testing.assert_close(value.item(), first + 4 * second)
    (gradient,) = torch.autograd.grad(value, logits)
    slope = 3 * first * second
    torch.testing.assert_close(gradient, torch.tensor([-slope, slope, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("baseline", [None, sp.LeaveOneOut()], ids=str)
def test_the_mean_over_all_draws_with_two_kept_is_exact(baseline: sp.Baseline | None) -> None:
    """Three samples of three classes: every draw, weighted by its probability given that two costs are kept."""
    logits = _leaf(0.3, -0.4, 0.9)
    states = torch.tensor([x for x in itertools.product(range(3), repeat=3) if x.count(2) < 2]).T  # [3, draws]
    weight = logits.detach().softmax(0)[states].prod(0)
    rows = logits.detach().expand(states.shape[1], 3).clone().requires_grad_()
    costs = THREE[states]
    keep = costs.isfinite()
    estimator = sp.ScoreFunction(3, baseline=baseline)
    value = estimator.combine(classes(rows), Draw(states), torch.where(keep, costs, 0.0), keep=keep)
    (gradients,) = torch.autograd.grad(value.sum(), rows)
    exact = sp.expect(lambda x: THREE[x], classes(logits), sp.Enumerate(), nonfinite="drop")
    (exact_gradient,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close((weight / weight.sum()) @ value, exact)
    torch.testing.assert_close((weight / weight.sum()) @ gradients, exact_gradient)


def test_bits_by_sampling() -> None:
    logits = _leaf(0.4, -0.7, 0.2)
    exact = sp.expect(rough, bits(logits), sp.Enumerate(), nonfinite="drop")
    (exact_gradient,) = torch.autograd.grad(exact, logits)
    rows = logits.detach().expand(50_000, 3).clone().requires_grad_()
    value = sp.expect(rough, bits(rows), sp.ScoreFunction(16), nonfinite="drop")
    (gradients,) = torch.autograd.grad(value.sum(), rows)
    _agree(value.detach(), exact.detach())
    _agree(gradients, exact_gradient)


def test_a_half_line_of_the_normal() -> None:
    """E[x² | x > 0] of N(μ, 1), with the gradient by quadrature; Pathwise would miss what crosses the edge."""
    mean = _leaf(0.2)
    grid = torch.linspace(0, 14, 200_001, dtype=torch.float64)
    density = (-(grid - mean).square() / 2).exp()
    exact = torch.trapezoid(density * grid.square(), grid) / torch.trapezoid(density, grid)
    (exact_gradient,) = torch.autograd.grad(exact, mean)
    rows = mean.detach().expand(50_000).clone().requires_grad_()
    f = lambda x: torch.where(x > 0, x.square(), NAN)  # noqa: E731
    value = sp.expect(f, Normal(rows, 1.0), sp.ScoreFunction(24), nonfinite="drop")
    (gradients,) = torch.autograd.grad(value.sum(), rows)
    _agree(value.detach(), exact.detach())
    _agree(gradients, exact_gradient.squeeze())
    with pytest.raises(ValueError, match="Pathwise needs every cost: where x decides which costs are lost"):
        sp.expect(f, Normal(rows, 1.0), sp.Pathwise(8), nonfinite="drop")


def _agree(found: Tensor, exact: Tensor) -> None:
    z = (found.mean(0) - exact) / (found.std(0) / len(found) ** 0.5 + 1e-12)
    assert z.abs().max() < Z, f"mean {found.mean(0).tolist()}, exact {exact.tolist()}"


def test_theta_gets_the_mean_over_the_kept() -> None:
    logits, theta = _leaf(0.4, -0.7, 0.2), _leaf(1.5)
    value = sp.expect(lambda x: theta * rough(x), bits(logits.expand(64, 3)), sp.ScoreFunction(32), nonfinite="drop")
    (slope,) = torch.autograd.grad(value.sum(), theta)
    torch.testing.assert_close(slope.squeeze() * theta.detach().squeeze(), value.detach().sum())


@pytest.mark.parametrize(
    "baseline",
    [sp.Constant(0.0), sp.MovingAverage(), sp.LearnedBaseline(), sp.SelfCritical(), sp.OptimalCoefficient()],
    ids=str,
)
def test_other_baselines_are_refused(baseline: sp.Baseline) -> None:
    estimator = sp.ScoreFunction(16, baseline=baseline)
    with pytest.raises(ValueError, match=r"ScoreFunction needs every cost: where x decides .* leave-one-out"):
        sp.expect(rough, bits(_leaf(0.4, -0.7, 0.2)), estimator, nonfinite="drop")


def test_one_cost_alone_is_refused() -> None:
    f = lambda x: THREE[x]  # noqa: E731
    dist = classes(torch.zeros(2, 3, dtype=torch.float64))
    draw = Draw(torch.tensor([[0, 0], [1, 2], [2, 2]]))
    keep = f(draw.points).isfinite()
    costs = torch.where(keep, f(draw.points), 0.0)
    with pytest.raises(ValueError, match=r"needs two finite costs of each batch element .* at batch index \[1\]"):
        sp.ScoreFunction(3).combine(dist, draw, costs, keep=keep)


def test_second_derivatives_are_refused() -> None:
    for dist, leaf in (
        (bits, _leaf(0.4, -0.7, 0.2)),
        (lambda mean: Independent(Normal(mean, 1.0), 1), _leaf(0.1, 0.2, 0.3)),
    ):
        f = rough if dist is bits else lambda x: torch.where(x[..., 0] > -1, x.sum(-1).square(), NAN)
        value = sp.expect(f, dist(leaf), sp.ScoreFunction(32), nonfinite="drop")
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="ScoreFunction estimates first derivatives only"):
            torch.autograd.grad(gradient.sum(), leaf)
