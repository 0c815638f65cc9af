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


def _sample_poisson(dist: td.Poisson, k: int, generator: Generator | None) -> Tensor:
    return torch.poisson(dist.rate.expand(k, *dist.rate.shape), **noise.given(generator))


def _sample_binomial(dist: td.Binomial, k: int, generator: Generator | None) -> Tensor:
    probs = dist.probs.expand(k, *dist.probs.shape)
    count = dist.total_count + torch.zeros_like(probs)  # under vmap the two must be batched alike
    return torch.binomial(count, probs, **noise.given(generator))


def _sample_geometric(dist: td.Geometric, k: int, generator: Generator | None) -> Tensor:
    # The whole part of an exponential variable whose survival function is 1 - p at 1.
    wait = noise.exponential((k, *dist.probs.shape), dist.probs, generator) / -(-dist.probs).log1p()
    return wait.floor().to(dist.probs.dtype)


def _sample_negative_binomial(dist: td.NegativeBinomial, k: int, generator: Generator | None) -> Tensor:
    shape = dist.total_count.expand(k, *dist.logits.shape) + torch.zeros_like(dist.logits)
    given = noise.given(generator)
    return torch.poisson(torch._standard_gamma(shape, **given) * dist.logits.exp(), **given)


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
