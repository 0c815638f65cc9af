"""Programs of two levels, and their exact gradients: by forced replay, and by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

import sampleprop as sp
from sampleprop import noise
from sampleprop.programs import forced

WEIGHT = torch.tensor([[0.8, -0.5], [0.3, 1.1]], dtype=torch.float64)
LEAVES = tuple(torch.tensor(x, dtype=torch.float64) for x in ((0.3, -0.5), (-0.2, 0.6), (0.7, -0.4)))
LIMIT = 4.9  # a false-alarm rate of 1e-6 for each number
NORMAL = "pathwise"  # the kind whose variables are Normal; all others are bits
LINEAR = "straight-through"  # the kind that is unbiased where the cost is linear in each bit


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


def normals(mean: Tensor) -> Distribution:
    return Independent(Normal(mean, 0.7, validate_args=False), 1, validate_args=False)


def two_levels(
    first: sp.Estimator[Any, Any] | None, second: sp.Estimator[Any, Any] | None, kinds: tuple[str, str] = ("", "")
) -> Any:
    """x1 ~ p(phi1), x2 ~ p(phi2 + W x1), with a cost after each; [*rows, 2] -> [*rows]."""
    make = [normals if kind == NORMAL else bits for kind in kinds]
    linear = LINEAR in kinds

    @sp.program
    def model(phi1: Tensor, phi2: Tensor, theta: Tensor) -> Tensor:
        a = sp.sample(make[0](phi1), first, name="first")
        t = theta.expand(a.shape)
        sp.charge(0.3 * a.sum(-1) + (t * a).sum(-1))
        # A straight-through first level is unbiased where what follows is linear in it.
        b = sp.sample(
            make[1](phi2.expand(a.shape) + (0.0 if kinds[0] == LINEAR else a @ WEIGHT)), second, name="second"
        )
        if linear:
            return 2 * a.expand(b.shape)[..., 0] * b[..., 0] - (t * a).expand(b.shape)[..., 1] * b[..., 1] + 1
        return ((a * t).sum(-1) - b.sum(-1)).square() + b.prod(-1) * a[..., 0] + 1

    return model


def gradients(model: Any, rows: int, leaves: tuple[Tensor, ...] = LEAVES) -> tuple[Tensor, list[Tensor]]:
    """One value, and the gradients of the leaves, for each row."""
    copies = [leaf.expand(rows, -1).clone().requires_grad_() for leaf in leaves]
    value = model(*copies)
    assert value.shape == (rows,)
    found = torch.autograd.grad(value.sum(), copies, allow_unused=True, materialize_grads=True)
    return value.detach(), list(found)


def z(samples: Tensor, exact: Tensor) -> float:
    """The largest distance of a mean from the exact number, in standard errors."""
    error = samples.std(0) / samples.shape[0] ** 0.5
    return float(((samples.mean(0) - exact).abs() / (error + 1e-9)).max())


def largest_z(found: tuple[Tensor, list[Tensor]], exact: tuple[Tensor, list[Tensor]]) -> float:
    return max(z(found[0], exact[0]), *(z(a, b) for a, b in zip(found[1], exact[1], strict=True)))


def exact(model: Any, kinds: tuple[str, str]) -> tuple[Tensor, list[Tensor]]:
    """The value and the gradients, by forced replay at every node of a quadrature for the Normal variables."""
    count = kinds.count(NORMAL)
    degree = 7 if kinds[1] == NORMAL or count == 0 else 40  # behind Normal bits the function is no polynomial
    nodes, weights = (torch.from_numpy(x) for x in numpy.polynomial.hermite_e.hermegauss(degree))
    grid = torch.cartesian_prod(*[nodes] * (2 * count)) if count else torch.zeros(1, 0, dtype=torch.float64)
    mass = torch.cartesian_prod(*[weights / weights.sum()] * (2 * count)).prod(1) if count else torch.ones(1)
    rows = len(grid)
    copies = [leaf.expand(rows, -1).clone().requires_grad_() for leaf in LEAVES]
    with _quadrature(grid):
        found = forced.exact(model, copies, {}, copies, noise=lambda: lambda name: torch.Generator())
    assert found.missing < 1e-9
    return (found.value * mass).sum(), [(g * mass.unsqueeze(1)).sum(0) for g in found.gradients]


@contextmanager
def _quadrature(grid: Tensor) -> Iterator[None]:
    """Normal noise is taken from the grid, [rows, coordinates], two coordinates after the other."""
    normal, parts = noise.normal, itertools.cycle(grid.split(2, 1))
    noise.normal = lambda shape, like, generator=None: next(parts).reshape(shape)
    try:
        yield
    finally:
        noise.normal = normal
