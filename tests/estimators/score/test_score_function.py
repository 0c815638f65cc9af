"""What is peculiar to the score function: its refusals, and the precision of the leave-one-out gradient in float32.

The bounds hold for every draw, so no test raises a false alarm.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, OneHotCategorical

import sampleprop as sp
from sampleprop.costs import Group
from sampleprop.estimators.score.score_function import Draw

PROBABILITIES = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
ROWS, SITES = 100, 4  # of each probability


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def classes(logits: Tensor) -> Tensor:
    """The logits of three classes of which the first two are as likely as the two values of a bit."""
    return torch.stack((logits, torch.zeros_like(logits), torch.full_like(logits, -1.0)), -1)


def onehots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=classes(logits)), 1)


def integers(logits: Tensor) -> Distribution:
    return Independent(Categorical(logits=classes(logits)), 1)


@pytest.mark.parametrize("dist", [td.Uniform(0.0, torch.ones((), requires_grad=True)), td.Pareto(1.0, 2.0)], ids=repr)
def test_score_function_refuses_a_moving_support(dist: td.Distribution) -> None:
    with pytest.raises(TypeError, match=r"ScoreFunction needs a support that does not move .* Use Pathwise"):
        sp.expect(lambda x: x, dist, sp.ScoreFunction())


def offset(x: Tensor) -> Tensor:
    """[k, rows, *event] -> [k, rows]: small differences beside a large common cost."""
    weights = torch.arange(1, x[0, 0].numel() + 1, dtype=x.dtype)
    return (x.flatten(2) * weights).sum(-1) + 1e6


def apart(x: Tensor) -> Tensor:
    """[k, rows, *event] -> [k, rows]: costs near 1e6 and costs near 1."""
    return torch.where(x.flatten(2)[..., 0] > 0, 1e6, 1.0).to(x.dtype) + x.flatten(2).sum(-1)


def gradient(make, logits: Tensor, points: Tensor, costs: Tensor) -> Tensor:
    phi = logits.clone().requires_grad_()
    sp.ScoreFunction(len(costs)).combine(make(phi), Draw(points), costs).sum().backward()
    return phi.grad


@pytest.mark.parametrize("make", [bits, onehots, integers])
@pytest.mark.parametrize("k", range(2, 9))
def test_equal_samples_give_no_gradient_whatever_their_cost(make, k):
    # The sum of 7 costs of 1e6, times 1/7 in float32, is not 1e6. The weights must be made of differences of costs.
    logits = torch.zeros(1, SITES)
    points = make(logits).sample((1,)).expand(k, *make(logits).sample().shape)
    assert not gradient(make, logits, points, torch.full((k, 1), 1e6 + 2)).any()


@pytest.mark.parametrize("make", [bits, onehots, integers])
@pytest.mark.parametrize("f", [offset, apart])
@pytest.mark.parametrize("k", [*range(2, 9), 20])
def test_float32_is_as_exact_as_the_differences_of_the_costs(make, f, k):
    """Against float64 at the same draws, within the rounding errors of the formula.

    Let u = 2^-24, d_i = f(x_i) - f(x_1) and M = max |d_i|. The weight (d_i - Σ_j d_j / k) / (k - 1) is at most
    2 M / (k - 1). Its error is to first order at most u M (1 + (k - 1) + 1 + 1 + 2 + 2) / (k - 1): from d_i, the sum,
    1 / k, the product, the difference and the quotient. The sum of k weights times 0 or 1 is thus off by at most
    k u M (k + 6) / (k - 1) + k u · 2 k M / (k - 1) = 3 k (k + 2) / (k - 1) u M. The offset of f is not in it.
    For classes it is at most twice that, because the normalization of the logits subtracts p times the sum over the
    classes, which is the sum of the weights.
    """
    logits = PROBABILITIES.logit().repeat_interleave(ROWS).unsqueeze(1).expand(-1, SITES)
    torch.manual_seed(0)
    points = make(logits).sample((k,))
    costs = f(points.double())
    assert torch.equal(costs.float().double(), costs)
    points32 = points if points.dtype == torch.int64 else points.float()
    right = gradient(make, logits, points, costs)
    error = (gradient(make, logits.float(), points32, costs.float()).double() - right).abs().amax(1)
    spread = (costs - costs[0]).abs().amax(0)
    assert (right.abs().amax(1) > 0).any()
    factor = 1 if make is bits else 2
    assert (error <= factor * 3 * k * (k + 2) / (k - 1) * 2**-24 * spread).all()


@pytest.mark.parametrize("baseline", [None, sp.LeaveOneOut()], ids=str)
def test_each_particle_has_a_gradient_of_its_own(baseline):
    """The weights sum to zero over all particles, not over the samples of each, whose logits may differ."""
    logits = torch.randn(3, 2, SITES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = bits(logits).sample((2,))  # [2, particles, batch, event]
    costs = points.sum(-1).square() + points[..., 0]
    phi = logits.clone().requires_grad_()
    estimator = sp.ScoreFunction(2, baseline=baseline)
    value = estimator.combine(bits(phi), Draw(points), costs, group=Group(dim=-2))
    (found,) = torch.autograd.grad(value.sum(), phi)
    mean = (costs.sum((0, 1)) - costs) / 5  # of the other samples of all particles
    expected = ((costs - mean).unsqueeze(-1) * (points - logits.sigmoid())).mean(0)
    torch.testing.assert_close(found, expected)


def value_of(theta: Tensor, logits: Tensor) -> Tensor:
    """With the same noise at each call."""
    dist = Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
    generator = torch.Generator().manual_seed(0)
    return sp.expect(lambda x: theta * (x.sum(-1) - 0.2).square(), dist, sp.ScoreFunction(3), generator=generator)


def test_a_gradient_that_an_outer_transform_asks_for_is_there():
    """The logits do not require a gradient in the innermost transform, only in one around it."""
    phi = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    rows = phi.detach().expand(3, 2)

    def summed(logits: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: value_of(theta.detach(), row), randomness="same")(logits).sum()

    (expected,) = torch.autograd.grad(value_of(theta, phi), phi, create_graph=True)
    torch.testing.assert_close(torch.func.grad(summed)(rows), expected.detach().expand(3, 2))
    (slope,) = torch.autograd.grad(value_of(theta, phi), theta, create_graph=True)
    (mixed,) = torch.autograd.grad(slope, phi)
    assert mixed.any()
    found = torch.func.grad(lambda logits: torch.func.grad(value_of)(theta.detach(), logits))(phi.detach())
    torch.testing.assert_close(found, mixed)


@pytest.mark.parametrize(
    ("estimator", "nonfinite"),
    [
        (sp.ScoreFunction(4), "raise"),
        (sp.ScoreFunction(4), "drop"),
        (sp.ScoreFunction(4, baseline=sp.LeaveOneOut()), "raise"),
        (sp.ScoreFunction(4, baseline=sp.LeaveOneOut()), "drop"),
        (sp.ARMS(4), "raise"),
        (sp.DoubleCV(4), "raise"),
        (sp.RODEO(4), "raise"),
    ],
    ids=str,
)
def test_what_all_costs_share_takes_no_digits_from_the_gradient(
    estimator: sp.Estimator[Any, Any], nonfinite: Any
) -> None:
    """Costs of 2²⁰ and a few units are exact in float32, and so are their differences."""
    gradients = []
    for shared in (0.0, 2.0**20):
        logits = torch.linspace(-0.5, 0.5, 24).reshape(8, 3).requires_grad_()

        def f(x: Tensor, shared: float = shared) -> Tensor:
            costs = x.sum(-1) + shared
            return torch.where(x[..., :2].sum(-1) == 2, torch.nan, costs) if nonfinite == "drop" else costs

        value = sp.expect(
            f,
            Independent(Bernoulli(logits=logits), 1),
            estimator,
            generator=Generator().manual_seed(4),
            nonfinite=nonfinite,
        )
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
