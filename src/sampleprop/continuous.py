"""Reparameterized samples of the continuous distributions in `torch.distributions`, with a generator and under `vmap`.

torch takes no generator, and its Normal cannot be sampled under `vmap`; where torch's own derivative is lost by clamping, this is
another formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from torch import Generator, Size, Tensor
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from sampleprop import noise

Sampler = Callable[[Any, Size, Generator | None], Tensor]


def _normal(dist: td.Normal, shape: Size, generator: Generator | None) -> Tensor:
    epsilon = noise.normal((*shape, *dist.loc.shape), dist.loc, generator)
    return noise.lowered(dist.loc + dist.scale * epsilon, dist.loc)


def _multivariate_normal(dist: td.MultivariateNormal, shape: Size, generator: Generator | None) -> Tensor:
    epsilon = noise.lowered(noise.normal((*shape, *dist.loc.shape), dist.loc, generator), dist.loc)
    return dist.loc + (dist._unbroadcasted_scale_tril @ epsilon.unsqueeze(-1)).squeeze(-1)


def _uniform(dist: td.Uniform, shape: Size, generator: Generator | None) -> Tensor:
    u = noise.uniform((*shape, *dist.low.shape), dist.low, generator)
    return noise.lowered(dist.low + (dist.high - dist.low) * u, dist.low)


def _exponential(dist: td.Exponential, shape: Size, generator: Generator | None) -> Tensor:
    return noise.lowered(noise.exponential((*shape, *dist.rate.shape), dist.rate, generator) / dist.rate, dist.rate)


def _laplace(dist: td.Laplace, shape: Size, generator: Generator | None) -> Tensor:
    # The difference of two exponential draws is Laplace, without the logarithm's loss near the median.
    full = (*shape, *dist.loc.shape)
    epsilon = noise.exponential(full, dist.loc, generator) - noise.exponential(full, dist.loc, generator)
    return noise.lowered(dist.loc + dist.scale * epsilon, dist.loc)


def _logit_relaxed_bernoulli(dist: LogitRelaxedBernoulli, shape: Size, generator: Generator | None) -> Tensor:
    # torch clamps the probabilities, which makes the derivative 0 from |logit| = 16 on in float32.
    epsilon = noise.logistic((*shape, *dist.logits.shape), dist.logits, generator)
    return noise.lowered((dist.logits + epsilon) / dist.temperature, dist.logits)


def _exp_relaxed_categorical(dist: ExpRelaxedCategorical, shape: Size, generator: Generator | None) -> Tensor:
    scores = (dist.logits + noise.gumbel((*shape, *dist.logits.shape), dist.logits, generator)) / dist.temperature
    return noise.lowered(scores.log_softmax(-1), dist.logits)


def _continuous_bernoulli(dist: td.ContinuousBernoulli, shape: Size, generator: Generator | None) -> Tensor:
    """The quantile log(1 + u (e^λ - 1)) / λ, for λ <= 0 and mirrored; torch's own has no derivative near λ = 0."""
    logits = noise.raised(dist.logits)
    u = noise.uniform((*shape, *logits.shape), logits, generator)
    a = torch.where(logits > 0, -logits, logits)  # not -|λ|, whose derivative at 0 is 0
    near = a > -0.02
    safe = torch.where(near, -1.0, a)
    v = u * (1 - u)
    # The cumulants of a coin that shows heads with probability u: the quantile is their generating function over λ.
    series = u + v * (
        a / 2 + a.square() * (1 - 2 * u) / 6 + a**3 * (1 - 6 * v) / 24 + a**4 * (1 - 2 * u) * (1 - 12 * v) / 120
    )
    x = torch.where(near, series, (u * safe.expm1()).log1p() / safe)
    return noise.lowered(torch.where(logits > 0, 1 - x, x), dist._param)


# By the method, not the class: a subclass that brings its own is taken at its word.
RSAMPLE: dict[Any, Sampler] = {
    td.Normal.rsample: _normal,
    td.MultivariateNormal.rsample: _multivariate_normal,
    td.Uniform.rsample: _uniform,
    td.Exponential.rsample: _exponential,
    td.Laplace.rsample: _laplace,
    LogitRelaxedBernoulli.rsample: _logit_relaxed_bernoulli,
    ExpRelaxedCategorical.rsample: _exp_relaxed_categorical,
    td.ContinuousBernoulli.rsample: _continuous_bernoulli,
}
