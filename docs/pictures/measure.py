"""What the pictures measure: means and variances of many estimates, each with its standard error."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

import sampleprop as sp

Data = dict[str, Any]
Measured = dict[str, float]
AnyEstimator = sp.Estimator[Any, Any]


def measured(numbers: Tensor) -> Measured:
    """The mean of independent numbers, [n], and its standard error; a test compares it with a new measurement."""
    n = len(numbers)
    return {"mean": _short(numbers.mean().item()), "error": _short(numbers.std().item() / n**0.5)}


def gradients(
    f: Callable[[Tensor], Tensor],
    family: Callable[[Tensor], Distribution],
    phi: Tensor,
    estimator: AnyEstimator,
    replicates: int,
) -> Tensor:
    """Independent estimates of the gradient, [replicates, *phi], with what the estimator has learned held fixed."""
    rows = phi.detach().expand(replicates, *phi.shape).clone().requires_grad_()
    learning = estimator.training
    estimator.eval()
    value = sp.expect(f, family(rows), estimator)
    estimator.train(learning)
    (found,) = torch.autograd.grad(value.sum(), rows)
    return found


def exact(f: Callable[[Tensor], Tensor], family: Callable[[Tensor], Distribution], phi: Tensor) -> Tensor:
    """The gradient by enumeration."""
    return gradients(f, family, phi, sp.Enumerate(), 1)[0]


def variance(estimates: Tensor) -> Measured:
    """The variance of one estimate, summed over its coordinates; `estimates` is [n, ...]."""
    n = len(estimates)
    deviations = (estimates - estimates.mean(0)).flatten(1).square().sum(1) * n / (n - 1)
    return measured(deviations)


def bias(estimates: Tensor, right: Tensor) -> Measured:
    """The length of the mean deviation from the right gradient, relative to the length of that."""
    deviations = (estimates - right).flatten(1)
    direction = deviations.mean(0)
    return measured(deviations @ (direction / direction.norm()) / right.norm())


def scaled(number: Measured, factor: float) -> Measured:
    """The number and its error, both times a factor."""
    return {part: _short(value * factor) for part, value in number.items()}


def points(numbers: Tensor) -> list[Any]:
    """Positions to draw: three digits after the point are enough."""
    rounded: list[Any] = torch.round(numbers.double(), decimals=3).tolist()
    return rounded


def _short(number: float) -> float:
    return float(f"{number:.4g}")
