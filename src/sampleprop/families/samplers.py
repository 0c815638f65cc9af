"""Samples of the distributions in `torch.distributions`, with a generator and under `vmap`.

torch takes no generator, cannot sample Normal or Geometric under `vmap`, and draws Binomial with a wrong shape there.
Where torch's own derivative is lost because it clamps, the formula here is another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from torch import Generator, Size, Tensor
from torch.distributions import Distribution
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from sampleprop import noise
from sampleprop.families import laws
from sampleprop.families.laws import unwrap
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.softmax import log_softmax
from sampleprop.tracing import constant_when_compiled, inspectable

BOOSTED = 0.3  # the concentration below which a Gamma variable is drawn by its logarithm
LEAST = 1e-5  # below, the derivative lies with samples that are too rare to be drawn
Sampler = Callable[[Any, Size, Generator | None], Tensor]


def sample(dist: Distribution, base: Distribution, k: int, generator: Generator | None) -> Tensor:
    """Draw [k, *batch, *event], detached, from a distribution and its base inside `Independent`."""
    with torch.set_grad_enabled(False):
        own = _reparameterized(base)
        if own is not None and _samples_by_rsample(type(base)):
            return own(base, Size((k,)), generator)
        own = _SAMPLE.get(type(base).sample)
        if own is not None:
            return own(base, Size((k,)), generator)
        _refuse_tiny_inside(dist)
        with noise.draw_from(generator):
            return dist.sample(Size((k,))).detach()


def rsample(dist: Distribution, base: Distribution, shape: Size, generator: Generator | None) -> Tensor:
    """Draw [*shape, *batch, *event], attached to φ by the reparameterization of the distribution."""
    own = _reparameterized(base)
    if own is not None:
        return own(base, shape, generator)
    with noise.draw_from(generator):
        return dist.rsample(shape)


def smooth(base: Distribution) -> bool:
    """Whether `rsample` is an explicit formula that autograd differentiates to any order.

    torch's Gamma has no second derivative, and its Beta and Dirichlet lose it silently. What is not known here counts
    as not smooth.
    """
    if type(base).rsample in _EXPLICIT:
        return True
    if isinstance(base, td.TransformedDistribution) and type(base).rsample is td.TransformedDistribution.rsample:
        return smooth(unwrap(base.base_dist)[0])
    return isinstance(base, Reparameterized) and base.smooth


def _reparameterized(base: Distribution) -> Sampler | None:
    if isinstance(base, td.TransformedDistribution) and not base.has_rsample:
        return None
    return _RSAMPLE.get(type(base).rsample)


@constant_when_compiled
def _samples_by_rsample(kind: Any) -> bool:
    """Whether no subclass has replaced `sample` below the class that brings `rsample`; found once for each class."""
    if kind not in _FOUND:
        owner = next(base for base in kind.__mro__ if "rsample" in vars(base))
        _FOUND[kind] = kind.sample is owner.sample
    return _FOUND[kind]


_FOUND: dict[type[Distribution], bool] = {}


def _refuse_tiny_inside(dist: Distribution) -> None:
    """Refuse what is drawn by torch from a Beta, Dirichlet or Gamma variable inside that its sampler gets wrong."""
    for part in laws.parts(dist):
        if not isinstance(part, td.Dirichlet | td.Gamma | td.Beta):
            continue
        a = part._dirichlet.concentration if isinstance(part, td.Beta) else part.concentration
        if inspectable(a) and a.numel() and float(a.min()) < LEAST:
            raise ValueError(
                f"{type(dist).__name__} needs concentrations of at least {LEAST:g}, below which torch draws its "
                f"{type(part).__name__} variable wrongly; got {float(a.min()):.2g}."
            )


def normal(dist: td.Normal, shape: Size, generator: Generator | None) -> Tensor:
    """Draw [*shape, *batch], attached to the mean and the scale."""
    epsilon = noise.normal((*shape, *dist.loc.shape), dist.loc, generator)
    return noise.cast_like(torch.addcmul(dist.loc, dist.scale, epsilon), dist.loc)


def _multivariate_normal(dist: td.MultivariateNormal, shape: Size, generator: Generator | None) -> Tensor:
    epsilon = noise.cast_like(noise.normal((*shape, *dist.loc.shape), dist.loc, generator), dist.loc)
    return dist.loc + (dist._unbroadcasted_scale_tril @ epsilon.unsqueeze(-1)).squeeze(-1)


def _uniform(dist: td.Uniform, shape: Size, generator: Generator | None) -> Tensor:
    u = noise.uniform((*shape, *dist.low.shape), dist.low, generator)
    return noise.cast_like(dist.low + (dist.high - dist.low) * u, dist.low)


def _exponential(dist: td.Exponential, shape: Size, generator: Generator | None) -> Tensor:
    # Not a quotient: for rates beyond the root of the largest number its derivative underflows.
    scale = (-noise.promote(dist.rate).log()).exp()
    return noise.cast_like(noise.exponential((*shape, *scale.shape), scale, generator) * scale, dist.rate)


def _laplace(dist: td.Laplace, shape: Size, generator: Generator | None) -> Tensor:
    # The difference of two exponential draws is Laplace, without the logarithm's loss near the median.
    full = (*shape, *dist.loc.shape)
    epsilon = noise.exponential(full, dist.loc, generator) - noise.exponential(full, dist.loc, generator)
    return noise.cast_like(dist.loc + dist.scale * epsilon, dist.loc)


def _logit_relaxed_bernoulli(dist: LogitRelaxedBernoulli, shape: Size, generator: Generator | None) -> Tensor:
    # torch clamps the probabilities, which makes the derivative 0 from |logit| = 16 on in float32.
    epsilon = noise.logistic((*shape, *dist.logits.shape), dist.logits, generator)
    return noise.cast_like((dist.logits + epsilon) / dist.temperature, dist.logits)


def _exp_relaxed_categorical(dist: ExpRelaxedCategorical, shape: Size, generator: Generator | None) -> Tensor:
    scores = (dist.logits + noise.gumbel((*shape, *dist.logits.shape), dist.logits, generator)) / dist.temperature
    return noise.cast_like(log_softmax(scores), dist.logits)


def _continuous_bernoulli(dist: td.ContinuousBernoulli, shape: Size, generator: Generator | None) -> Tensor:
    """The quantile log(1 + u (e^λ - 1)) / λ, for λ <= 0 and mirrored; torch's own has no derivative near λ = 0."""
    logits = noise.promote(dist.logits)
    u = noise.uniform((*shape, *logits.shape), logits, generator)
    a = torch.where(logits > 0, -logits, logits)  # not -|λ|, whose derivative at 0 is 0
    near = a > -0.02
    safe = torch.where(near, -1.0, a)
    v = u * (1 - u)
    # Near λ = 0 the quantile is the series of the cumulants of a coin that shows heads with probability u.
    series = u + v * (
        a / 2 + a.square() * (1 - 2 * u) / 6 + a**3 * (1 - 6 * v) / 24 + a**4 * (1 - 2 * u) * (1 - 12 * v) / 120
    )
    x = torch.where(near, series, (u * safe.expm1()).log1p() / safe)
    return noise.cast_like(torch.where(logits > 0, 1 - x, x), dist._param)


def _own_reparameterized(dist: Reparameterized, shape: Size, generator: Generator | None) -> Tensor:
    return dist.draw(shape, generator)


def _log_gamma(name: str, concentration: Tensor, shape: Size, generator: Generator | None) -> Tensor:
    """log X for X ~ Gamma(a, 1), in float64, attached to a: by torch's sampler, which knows its derivative.

    For small a, X underflows. There log X is that of X(a + 1) U^(1/a), and the derivative follows the same way.
    """
    _refuse_rare(name, concentration)
    a = concentration.double().expand(*shape, *concentration.shape)
    boosted = a < BOOSTED
    x = torch._standard_gamma(torch.where(boosted, a + 1, a), **noise.generator_option(generator))
    wait = noise.exponential(a.shape, a, generator)
    return x.log() - torch.where(boosted, wait / torch.where(boosted, a, 1.0), 0.0)


def _refuse_rare(name: str, concentration: Tensor) -> None:
    if not (torch.is_grad_enabled() and concentration.requires_grad and inspectable(concentration)):
        return
    least = float(concentration.detach().min()) if concentration.numel() else 1.0
    if least < LEAST:
        raise ValueError(
            f"The derivative of a sample of {name} needs concentrations of at least {LEAST:g}; got {least:.2g}, where "
            "nearly all samples are at an end of the support, and those whose move makes up the derivative are too "
            "rare to be drawn. Keep the concentration above that, or draw the end as a Bernoulli variable."
        )


def _gamma(dist: td.Gamma, shape: Size, generator: Generator | None) -> Tensor:
    # torch has no half precision here, and raises what underflows before it divides by the rate.
    x = (_log_gamma("Gamma", dist.concentration, shape, generator) - dist.rate.double().log()).exp()
    return _inside(noise.cast_like(x, dist.concentration), least_only=True)


def _inverse_gamma(dist: td.InverseGamma, shape: Size, generator: Generator | None) -> Tensor:
    gamma: Any = dist.base_dist
    x = (gamma.rate.double().log() - _log_gamma("InverseGamma", gamma.concentration, shape, generator)).exp()
    return _finite("InverseGamma", noise.cast_like(x, gamma.concentration))


def _beta(dist: td.Beta, shape: Size, generator: Generator | None) -> Tensor:
    # torch's derivative is wrong where one concentration is large, and its sign too.
    one = _log_gamma("Beta", dist.concentration1, shape, generator)
    x = (one - _log_gamma("Beta", dist.concentration0, shape, generator)).sigmoid()
    return _inside(noise.cast_like(x, dist.concentration1))


def _dirichlet(dist: td.Dirichlet, shape: Size, generator: Generator | None) -> Tensor:
    x = _log_gamma("Dirichlet", dist.concentration, shape, generator).softmax(-1)
    return _inside(noise.cast_like(x, dist.concentration))


def _inside(x: Tensor, *, least_only: bool = False) -> Tensor:
    """The samples, moved from the edge of the support to the next number inside, as by torch; derivatives stay."""
    with torch.no_grad():
        numbers = torch.finfo(x.dtype)
        moves = x.clamp(numbers.tiny, None if least_only else 1 - numbers.eps) - x
    return x + moves


def _wishart(dist: td.Wishart, shape: Size, generator: Generator | None) -> Tensor:
    # With a sample shape torch's own method writes into a tensor that its backward pass needs.
    with noise.draw_from(generator):
        x: Tensor = dist.expand(shape + dist.batch_shape).rsample()
    return x


def _fisher_snedecor(dist: td.FisherSnedecor, shape: Size, generator: Generator | None) -> Tensor:
    # The logarithm of a ratio of two Gamma variables, either of which may underflow.
    one = _log_gamma("FisherSnedecor", dist.df1 / 2, shape, generator) - dist.df1.double().log()
    other = _log_gamma("FisherSnedecor", dist.df2 / 2, shape, generator) - dist.df2.double().log()
    return _finite("FisherSnedecor", _inside(noise.cast_like((one - other).exp(), dist.df1), least_only=True))


def _student_t(dist: td.StudentT, shape: Size, generator: Generator | None) -> Tensor:
    log_ratio = _log_gamma("StudentT", dist.df / 2, shape, generator) - (dist.df.double() / 2).log()
    epsilon = noise.normal(log_ratio.shape, dist.loc, generator) * (-log_ratio / 2).exp()
    return _finite("StudentT", noise.cast_like(dist.loc + dist.scale * epsilon, dist.loc))


def _finite(name: str, x: Tensor) -> Tensor:
    """Refuse samples of which more than one in a thousand exceeds the largest number of their dtype."""
    if inspectable(x) and x.numel() and float(x.detach().isinf().double().mean()) > 1e-3:
        raise ValueError(
            f"{name} needs parameters whose samples {x.dtype} can hold; got {int(x.detach().isinf().sum())} of "
            f"{x.numel()} infinite. Keep the concentration or the degrees of freedom further from 0, or use float64."
        )
    return x


def _kumaraswamy(dist: td.Kumaraswamy, shape: Size, generator: Generator | None) -> Tensor:
    # (1 - u^(1/b))^(1/a), in logarithms: for large a and b torch's powers lose all digits.
    a, b = noise.promote(dist.concentration1), noise.promote(dist.concentration0)
    x = ((-(-noise.exponential((*shape, *a.shape), a, generator) / b).expm1()).log() / a).exp()
    return _inside(noise.cast_like(x, dist.concentration1))


def _gumbel(dist: td.Gumbel, shape: Size, generator: Generator | None) -> Tensor:
    # torch transforms a Uniform that ends before 0 and 1, in half precision far before.
    epsilon = noise.gumbel((*shape, *dist.loc.shape), dist.loc, generator)
    return noise.cast_like(dist.loc + dist.scale * epsilon, dist.loc)


def _transformed(dist: td.TransformedDistribution, shape: Size, generator: Generator | None) -> Tensor:
    for kind, own in _TRANSFORMED.items():
        if isinstance(dist, kind):
            return own(dist, shape, generator)
    x = rsample(dist.base_dist, unwrap(dist.base_dist)[0], shape, generator)
    for transform in dist.transforms:
        x = transform(x)
    return x


def _poisson(dist: td.Poisson, shape: Size, generator: Generator | None) -> Tensor:
    limit = torch.finfo(dist.rate.dtype).eps ** -2 / 16
    if inspectable(dist.rate) and dist.rate.numel() and float(dist.rate.max()) > limit:
        raise ValueError(
            f"Poisson needs rates up to {limit:.2g} in {dist.rate.dtype}, beyond which floating point does not tell "
            f"its samples apart; got {float(dist.rate.max()):.2g}. Use a Normal distribution, or float64."
        )
    return torch.poisson(dist.rate.expand(*shape, *dist.rate.shape), **noise.generator_option(generator))


def _binomial(dist: td.Binomial, shape: Size, generator: Generator | None) -> Tensor:
    probs = dist.probs.expand(*shape, *dist.probs.shape)
    count = dist.total_count + torch.zeros_like(probs)  # under vmap the two must be batched alike
    return torch.binomial(count, probs, **noise.generator_option(generator))


def _geometric(dist: td.Geometric, shape: Size, generator: Generator | None) -> Tensor:
    # The integer part of an exponential variable whose survival function is 1 - p at 1.
    wait = noise.exponential((*shape, *dist.probs.shape), dist.probs, generator) / -(-dist.probs).log1p()
    return wait.floor().to(dist.probs.dtype)


def _negative_binomial(dist: td.NegativeBinomial, shape: Size, generator: Generator | None) -> Tensor:
    concentration = dist.total_count.expand(*shape, *dist.logits.shape) + torch.zeros_like(dist.logits)
    options = noise.generator_option(generator)
    return torch.poisson(torch._standard_gamma(concentration, **options) * dist.logits.exp(), **options)


# The keys are methods, not classes, so that a subclass which overrides `rsample` or `sample` keeps its own.
_EXPLICIT: dict[Any, Sampler] = {
    td.Normal.rsample: normal,
    td.MultivariateNormal.rsample: _multivariate_normal,
    td.Uniform.rsample: _uniform,
    td.Exponential.rsample: _exponential,
    td.Laplace.rsample: _laplace,
    LogitRelaxedBernoulli.rsample: _logit_relaxed_bernoulli,
    ExpRelaxedCategorical.rsample: _exp_relaxed_categorical,
    td.ContinuousBernoulli.rsample: _continuous_bernoulli,
}
_RSAMPLE: dict[Any, Sampler] = _EXPLICIT | {
    td.TransformedDistribution.rsample: _transformed,
    Reparameterized.rsample: _own_reparameterized,
    td.Gamma.rsample: _gamma,
    td.Beta.rsample: _beta,
    td.Dirichlet.rsample: _dirichlet,
    td.Wishart.rsample: _wishart,
    td.FisherSnedecor.rsample: _fisher_snedecor,
    td.StudentT.rsample: _student_t,
}
# These inherit `rsample` from TransformedDistribution, and torch's transforms lose digits.
_TRANSFORMED: dict[type[Distribution], Sampler] = {
    td.Gumbel: _gumbel,
    td.InverseGamma: _inverse_gamma,
    td.Kumaraswamy: _kumaraswamy,
}
_SAMPLE: dict[Any, Sampler] = {
    td.Poisson.sample: _poisson,
    td.Binomial.sample: _binomial,
    td.Geometric.sample: _geometric,
    td.NegativeBinomial.sample: _negative_binomial,
}
