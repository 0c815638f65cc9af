"""Problems for estimators with a control variate, and statistics of their estimates.

The random tests that use them compare at |z| < 4.5. They make about 80 comparisons, so that one false alarm in 1800
runs of all these files is expected. The seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical

import sampleprop as sp
from sampleprop import families

THRESHOLD = 4.5
Cost = Callable[[Tensor], Tensor]


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def one_hots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=logits), 1)


def normal(parameters: Tensor) -> Distribution:
    return Independent(Normal(parameters[..., :2], parameters[..., 2:].exp()), 1)


def cost(x: Tensor, theta: Tensor) -> Tensor:
    """Neither additive nor of low degree, with an offset."""
    x = x.flatten(2)
    return (x * theta[: x.shape[-1]]).sum(-1).sin() + x[..., 0] * x[..., 1] + 2.0


THETA = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0, 0.7, 0.2, -0.6], dtype=torch.float64)
BITS = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
CLASSES = torch.tensor([[0.5, -0.3, 0.1, -1.0], [0.0, 0.7, -0.4, 0.2]], dtype=torch.float64)
PROBLEMS = {"bits": (bits, BITS), "one-hots": (one_hots, CLASSES)}

both = pytest.mark.parametrize("problem", PROBLEMS)


def f(x: Tensor) -> Tensor:
    return cost(x, THETA)


def exact(problem: str) -> Tensor:
    dist, logits = PROBLEMS[problem]
    phi = logits.clone().requires_grad_()
    loss = sp.expect(lambda x: cost(x.unsqueeze(1), THETA).squeeze(1), dist(phi), sp.Enumerate())
    return torch.autograd.grad(loss, phi)[0]


def estimates(estimator: sp.Estimator[Any, Any], problem: str, rows: int = 20_000, seed: int = 0) -> Tensor:
    """Independent estimates of the gradient with respect to the logits, [rows, *event]."""
    dist, logits = PROBLEMS[problem]
    phi = logits.expand(rows, *logits.shape).clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    sp.expect(f, dist(phi), estimator, generator=generator).sum().backward()
    assert phi.grad is not None
    return phi.grad


def largest_z(estimates: Tensor, mean: Tensor) -> float:
    z = (estimates.mean(0) - mean) / estimates.std(0) * estimates.shape[0] ** 0.5
    return float(z.abs().max())


def variance(estimates: Tensor) -> float:
    return float(estimates.var(0).sum())


def gradient(
    estimator: sp.Estimator[Any, Any], dist: Callable[[Tensor], Distribution], phi: Tensor, draw: Any, f: Cost = f
) -> Tensor:
    """The gradient of one draw with respect to φ, as `combine` gives it."""
    phi = phi.clone().requires_grad_()
    estimator.combine(dist(phi), draw, f(draw.points), relaxed_f=f).sum().backward()
    assert phi.grad is not None
    return phi.grad


def rebuilt(variables: families.Discrete, points: Tensor, v: Tensor) -> Tensor:
    """z̃ as an attached function of the logits and of uniform noise, by the textbook formulas."""
    logits = variables.logits
    if isinstance(variables, families.Bernoullis):
        p = logits.sigmoid()
        return logits + torch.logit(torch.where(points > 0, 1 - p + p * v, (1 - p) * v))
    total = logits.logsumexp(-1, keepdim=True)
    log_e = (-v.log()).log()
    largest = (log_e * points).sum(-1, keepdim=True)
    return torch.where(points > 0, total - largest, -torch.logaddexp(log_e - logits, largest - total))
