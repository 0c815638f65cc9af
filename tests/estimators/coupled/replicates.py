"""Independent replicates of a gradient estimate for Bernoulli and one-hot variables, and the exact gradient."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

import sampleprop as sp

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
    estimator: sp.Estimator, logits: Tensor, family: Callable[[Tensor], Distribution], f: Callable, rows: int, seed: int
) -> Tensor:
    """One gradient for each of `rows` independent replicates: [rows, *event]."""
    leaf = logits.expand(rows, *logits.shape).clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    sp.expect(f, family(leaf), estimator, generator=generator).sum().backward()
    return leaf.grad


def exact(logits: Tensor, family: Callable[[Tensor], Distribution], f: Callable) -> Tensor:
    leaf = logits.clone().unsqueeze(0).requires_grad_()
    sp.expect(f, family(leaf), sp.Enumerate()).sum().backward()
    return leaf.grad.squeeze(0)


def largest_z(samples: Tensor, mean: Tensor) -> float:
    return ((samples.mean(0) - mean).abs() / (samples.std(0) / samples.shape[0] ** 0.5)).max().item()


def combined(estimator: sp.Estimator, draw, logits: Tensor, family: Callable[[Tensor], Distribution], costs: Tensor):
    leaf = logits.clone().requires_grad_()
    estimator.combine(family(leaf), draw, costs).sum().backward()
    return leaf.grad


def variance(estimator: sp.Estimator, logits: Tensor, family: Callable[[Tensor], Distribution]) -> float:
    """Of one gradient, summed over the logits; its standard error is below 1 %."""
    return gradients(estimator, logits, family, rough, 20_000, seed=12).var(0).sum().item()
