"""Samplers of the counts in `torch.distributions`, with a generator and under `vmap`, and what torch's scores lack.

torch draws Binomial wrongly shaped and Geometric not at all under `vmap`, and no count from a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from torch import Generator, Tensor

from sampleprop import noise


def _poisson(rate: Tensor, generator: Generator | None) -> Tensor:
    # Generators of None are not passed: torch.compile keeps sizes symbolic, and then refuses them.
    return torch.poisson(rate) if generator is None else torch.poisson(rate, generator=generator)


def _sample_poisson(dist: td.Poisson, k: int, generator: Generator | None) -> Tensor:
    return _poisson(dist.rate.expand(k, *dist.rate.shape), generator)


def _sample_binomial(dist: td.Binomial, k: int, generator: Generator | None) -> Tensor:
    probs = dist.probs.expand(k, *dist.probs.shape)
    count = dist.total_count + torch.zeros_like(probs)  # under vmap the two must be batched alike
    return torch.binomial(count, probs) if generator is None else torch.binomial(count, probs, generator=generator)


def _sample_geometric(dist: td.Geometric, k: int, generator: Generator | None) -> Tensor:
    # The whole part of an exponential variable whose survival function is 1 - p at 1.
    wait = noise.exponential((k, *dist.probs.shape), dist.probs, generator) / -(-dist.probs).log1p()
    return wait.floor().to(dist.probs.dtype)


def _sample_negative_binomial(dist: td.NegativeBinomial, k: int, generator: Generator | None) -> Tensor:
    shape = dist.total_count.expand(k, *dist.logits.shape) + torch.zeros_like(dist.logits)
    given: dict[str, Any] = {} if generator is None else {"generator": generator}
    return _poisson(torch._standard_gamma(shape, **given) * dist.logits.exp(), generator)


# By the method, not the class: a subclass that brings its own is taken at its word.
SAMPLE: dict[Any, Callable[[Any, int, Generator | None], Tensor]] = {
    td.Poisson.sample: _sample_poisson,
    td.Binomial.sample: _sample_binomial,
    td.Geometric.sample: _sample_geometric,
    td.NegativeBinomial.sample: _sample_negative_binomial,
}


def geometric_log_prob(dist: td.Geometric, points: Tensor) -> Tensor:
    """log p(points); torch's own chooses by index, which vmap refuses."""
    failures = torch.where(points > 0, dist.probs, 0.0)  # none: p = 1 must not give 0 · ∞
    return points * (-failures).log1p() + dist.probs.log()
