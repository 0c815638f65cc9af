"""Small random variables of every kind, in torch's default dtype, for the tests of contracts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

import sampleprop as sp
from variants import VARIANTS


@dataclass(frozen=True)
class Kind:
    """A random variable.

    Attributes:
        name: as the tests show it.
        shape: the shape of φ after the batch.
        dist: from φ, [*batch, *shape], to the distribution; it checks no arguments, which `vmap` and `compile` cannot.
        law: from φ to the same distribution in a form that knows its log-probability, where `dist` does not.
    """

    name: str
    shape: tuple[int, ...]
    dist: Callable[[Tensor], Distribution]
    law: Callable[[Tensor], Distribution] | None = None

    def __str__(self) -> str:
        return self.name

    def phi(self, *batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A leaf φ, [*batch, *shape], the same numbers at each call."""
        numbers = torch.randn((*batch, *self.shape), generator=Generator().manual_seed(1), dtype=torch.float64)
        return (0.8 * numbers).to(dtype).requires_grad_()


def _bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


def _one_bit(logits: Tensor) -> Distribution:
    return Bernoulli(logits=logits, validate_args=False)


def _classes(logits: Tensor) -> Distribution:
    return OneHotCategorical(logits=logits, validate_args=False)


def _one_hots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=logits, validate_args=False), 1, validate_args=False)


def _integers(logits: Tensor) -> Distribution:
    return Independent(Categorical(logits=logits, validate_args=False), 1, validate_args=False)


def _normal(phi: Tensor) -> Distribution:
    mean, log_scale = phi.unbind(-1)
    return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)


def _gamma(phi: Tensor) -> Distribution:
    concentration, rate = phi.exp().unbind(-1)
    return Independent(Gamma(concentration, rate, validate_args=False), 1, validate_args=False)


def _poisson(phi: Tensor) -> Distribution:
    return Independent(Poisson(phi.exp(), validate_args=False), 1, validate_args=False)


def _subsets(phi: Tensor) -> Distribution:
    return sp.KSubset(phi, 2, validate_args=False)


def _rankings(phi: Tensor) -> Distribution:
    return sp.PlackettLuce(phi, 2, validate_args=False)


def _chains(phi: Tensor) -> Distribution:
    """Three places and two labels, with the same transitions at each place."""
    unary, transitions = phi.split([6, 4], -1)
    return sp.LinearChain(unary.unflatten(-1, (3, 2)), transitions.unflatten(-1, (1, 2, 2)), validate_args=False)


def _trees(phi: Tensor) -> Distribution:
    return sp.SpanningTree(phi, validate_args=False)


def _matchings(phi: Tensor) -> Distribution:
    return sp.Matching(phi, validate_args=False)


def best(scores: Tensor) -> Tensor:
    """The solver that picks the largest score: one-hot rows."""
    return (scores.argmax(-1, keepdim=True) == torch.arange(scores.shape[-1])).to(scores.dtype)


def _solutions(phi: Tensor) -> Distribution:
    return sp.PerturbAndMAP(phi, best, noise="gumbel", scale=0.8, validate_args=False)


BITS = Kind("bits", (3,), _bits)
ONE_BIT = Kind("one bit", (), _one_bit)
CLASSES = Kind("classes", (4,), _classes)
ONE_HOTS = Kind("one-hots", (2, 3), _one_hots)
INTEGERS = Kind("integers", (2, 3), _integers)
NORMAL = Kind("normal", (2, 2), _normal)
GAMMA = Kind("gamma", (2, 2), _gamma)
POISSON = Kind("poisson", (2,), _poisson)
SUBSETS = Kind("subsets", (5,), _subsets)
RANKINGS = Kind("rankings", (4,), _rankings)
CHAINS = Kind("chains", (10,), _chains)
TREES = Kind("trees", (6,), _trees)
MATCHINGS = Kind("matchings", (3, 3), _matchings)
SOLUTIONS = Kind("solutions", (4,), _solutions, lambda phi: _classes(phi / 0.8))
STRUCTURES = (SUBSETS, RANKINGS, CHAINS, TREES, MATCHINGS)
KINDS = (BITS, ONE_BIT, CLASSES, ONE_HOTS, INTEGERS, NORMAL, GAMMA, POISSON, *STRUCTURES, SOLUTIONS)

Case = tuple[sp.Estimator[Any, Any], Kind]


def takes(estimator: sp.Estimator[Any, Any], kind: Kind) -> bool:
    """Whether the estimator supports this kind."""
    return estimator.refusal(kind.dist(kind.phi(2))) is None


def cases(kinds: Sequence[Kind] = KINDS) -> list[Case]:
    """Every variant of the register with each of the kinds that it takes."""
    return [(variant, kind) for variant in VARIANTS for kind in kinds if takes(variant, kind)]


def cost(x: Tensor, theta: Tensor, event_ndim: int) -> Tensor:
    """[k, *batch] for points of any event; θ holds two numbers. Defined and differentiable between the points too."""
    y = x.to(theta.dtype)
    y = y.flatten(x.dim() - event_ndim) if event_ndim else y.unsqueeze(-1)  # [k, *batch, coordinates]
    weights = torch.linspace(-0.7, 1.0, y.shape[-1], dtype=y.dtype)
    return 2 + (theta[0] * (y * weights).sum(-1)).sin() + theta[1] * y.square().mean(-1)


def theta(dtype: torch.dtype = torch.float32) -> Tensor:
    """A leaf θ."""
    return torch.tensor([1.1, 0.6], dtype=dtype, requires_grad=True)


def estimate(
    estimator: sp.Estimator[Any, Any], kind: Kind, phi: Tensor, theta: Tensor, seed: int = 0, **arguments: Any
) -> Tensor:
    """The value, [*batch], of one estimate of `cost`."""
    dist = kind.dist(phi)
    event_ndim = len(dist.event_shape)
    return sp.expect(
        lambda x: cost(x, theta, event_ndim), dist, estimator, generator=Generator().manual_seed(seed), **arguments
    )


def gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of the summed value, zero where it does not depend."""
    return torch.autograd.grad(value.sum(), leaves, materialize_grads=True)
