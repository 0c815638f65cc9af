"""Random problems with nothing wrong: a distribution, an f that suits the estimator, and an unbiased estimator."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

import sampleprop as sp
from diagnostics.mistakes import Case
from sampleprop.diagnostics.recommending.candidates import list_candidates
from sampleprop.distributions import MixtureSameFamily

Cost = Callable[[Tensor], Tensor]


def problem(seed: int) -> Case:
    """The problem of this seed."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    size, batch = chance.choice([1, 2, 3, 5, 8]), chance.choice([(), (1,), (4,), (2, 3)])
    dist = chance.choice(_DISTRIBUTIONS)((*batch, size), generator)
    estimator = chance.choice(_estimators(dist))
    costs = _SMOOTH if estimator.needs != "black box" else (*_SMOOTH, *_ROUGH)
    return Case(chance.choice(costs)(dist.event_shape, generator), dist, estimator)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator).requires_grad_()


def _positive(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return (0.5 + 2 * torch.rand(shape, generator=generator)).requires_grad_()


def _mixture(shape: tuple[int, ...], generator: torch.Generator) -> Distribution:
    weights = td.Categorical(logits=_normal((*shape, 3), generator))
    parts = td.Normal(_normal((*shape, 3), generator), _positive((*shape, 3), generator))
    return td.Independent(MixtureSameFamily(weights, parts), 1)


def _moved(shape: tuple[int, ...], generator: torch.Generator) -> Distribution:
    base = td.Normal(torch.zeros(shape), 1.0)
    return td.Independent(td.TransformedDistribution(base, [td.AffineTransform(_normal(shape, generator), 1.5)]), 1)


_DISTRIBUTIONS: tuple[Callable[[tuple[int, ...], torch.Generator], Distribution], ...] = (
    lambda shape, g: td.Independent(td.Bernoulli(logits=_normal(shape, g)), 1),
    lambda shape, g: td.Independent(td.OneHotCategorical(logits=_normal((*shape, 3), g)), 1),
    lambda shape, g: td.Categorical(logits=_normal((*shape, 4), g)),
    lambda shape, g: td.Independent(td.Normal(_normal(shape, g), _positive(shape, g)), 1),
    lambda shape, g: td.Normal(_normal(shape, g), _positive(shape, g)),
    lambda shape, g: td.Independent(td.Poisson(_positive(shape, g)), 1),
    lambda shape, g: td.Independent(td.Gamma(_positive(shape, g), _positive(shape, g)), 1),
    lambda shape, g: td.Independent(td.Exponential(_positive(shape, g)), 1),
    lambda shape, g: td.Independent(td.LogNormal(_normal(shape, g), torch.full(shape, 0.5)), 1),
    lambda shape, g: td.Independent(td.Beta(1 + _positive(shape, g), 1 + _positive(shape, g)), 1),
    lambda shape, g: td.Independent(td.Laplace(_normal(shape, g), _positive(shape, g)), 1),
    _mixture,
    _moved,
)


def _estimators(dist: Distribution) -> list[sp.Estimator[Any, Any]]:
    """Those that are unbiased, with further samples; not those that take hundreds of evaluations."""
    found = [e for e in list_candidates(dist, False) if e.evaluations(dist)[0] <= 256 and _takes(e, dist)]
    return [e if (more := e.for_budget(dist, 12)) is None else more for e in found]


def _takes(estimator: sp.Estimator[Any, Any], dist: Distribution) -> bool:
    """Whether it can do without the names of the parameters, where the distribution does not keep them."""
    event = tuple(range(-len(dist.event_shape), 0))
    try:
        sp.expect(lambda x: x.float().sum(event) if event else x.float(), dist, estimator)
    except TypeError:
        return False
    return True


def _bounded(x: Tensor) -> Tensor:
    """Counts and long tails, brought to a range in which a few hundred replicates have a mean."""
    return torch.atan(x.float() / 2)


def _summed(cost: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[[tuple[int, ...], torch.Generator], Cost]:
    """A cost of one number, weighted and summed over the event."""

    def make(event: tuple[int, ...], generator: torch.Generator) -> Cost:
        seed = generator.initial_seed()
        weights = 0.5 + torch.rand(event, generator=generator)

        def f(x: Tensor) -> Tensor:
            found = weights * cost(_bounded(x), torch.Generator().manual_seed(seed))
            return found.sum(tuple(range(-len(event), 0))) if event else found

        return f

    return make


def _number(generator: torch.Generator) -> float:
    return float(torch.randn((), generator=generator))


_SMOOTH = (
    _summed(lambda x, g: (x - _number(g)).square()),
    _summed(lambda x, g: (2 * x + _number(g)).sin() + 0.3 * x),
    _summed(lambda x, g: (x * _number(g)).sigmoid() + x),
    _summed(lambda x, g: (x - _number(g)).relu() + x),
    _summed(lambda x, g: 100 + x.exp()),
)
_ROUGH = (
    _summed(lambda x, g: (x > 0.3).float() + x),
    _summed(lambda x, g: (4 * x).round()),
)
