"""Independent replicates of a gradient estimate for Bernoulli and one-hot variables, and the exact gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

import sampleprop as sp

Family = Callable[[Tensor], Distribution]
Cost = Callable[[Tensor], Tensor]

COPULAS = ("systematic", "dirichlet")
Z = 5.0  # standard errors at which a z-test fails
ROWS = 50_000


def bernoullis(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def one_hots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=logits), 1)


def rough(x: Tensor) -> Tensor:
    """A cost without structure: [k, rows, D] or [k, rows, variables, classes] -> [k, rows]."""
    flat = x.flatten(2)
    ramp = torch.arange(1, flat.shape[-1] + 1, dtype=flat.dtype)
    return 2 + (1.7 * (flat * ramp).sum(-1)).sin() + flat[..., 0] * flat[..., -1]


def gradients(
    estimator: sp.Estimator[Any, Any], logits: Tensor, family: Family, f: Cost, rows: int, seed: int
) -> Tensor:
    """One gradient for each of `rows` independent replicates: [rows, *event]."""
    leaf = logits.expand(rows, *logits.shape).clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    value = sp.expect(f, family(leaf), estimator, generator=generator)
    return torch.autograd.grad(value.sum(), leaf)[0]


def exact(logits: Tensor, family: Family, f: Cost) -> Tensor:
    leaf = logits.clone().unsqueeze(0).requires_grad_()
    return torch.autograd.grad(sp.expect(f, family(leaf), sp.Enumerate()).sum(), leaf)[0].squeeze(0)


def largest_z(samples: Tensor, mean: Tensor) -> float:
    return float(((samples.mean(0) - mean).abs() / (samples.std(0) / samples.shape[0] ** 0.5)).max())


def combined(estimator: sp.Estimator[Any, Any], draw: Any, logits: Tensor, family: Family, costs: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(estimator.combine(family(leaf), draw, costs).sum(), leaf)[0]


def variance(estimator: sp.Estimator[Any, Any], logits: Tensor, family: Family) -> float:
    """Of one gradient, summed over the logits; its standard error is below 1 %."""
    return gradients(estimator, logits, family, rough, 20_000, seed=12).var(0).sum().item()
