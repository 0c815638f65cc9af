"""Log-probabilities of torch's distributions where torch's own formula fails under `vmap`, or loses its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import noise
from sampleprop.tracing import inspectable

LARGEST = 1e10  # the concentration from where on float64 does not hold the score either


def log_prob(base: Distribution, points: Tensor) -> Tensor:
    """log p(points): by a formula of ours where there is one, else by the distribution's own method."""
    own = _OWN.get(type(base).log_prob)
    if own is None:
        if not (isinstance(base, td.InverseGamma) and type(base).log_prob is td.TransformedDistribution.log_prob):
            return base.log_prob(points)
        own = _OWN[td.InverseGamma]
    if base._validate_args and points.dtype.itemsize >= 4:  # rounded further, points of the simplex do not sum to 1
        base._validate_sample(points)
    return own(base, points)


def _geometric(dist: td.Geometric, points: Tensor) -> Tensor:
    """torch's own formula chooses by index, which vmap refuses."""
    failures = torch.where(points > 0, dist.probs, 0.0)  # where there are no failures, p = 1 must not give 0 · ∞
    return points * (-failures).log1p() + dist.probs.log()


def _continuous_bernoulli(dist: td.ContinuousBernoulli, points: Tensor) -> Tensor:
    """λx - log((e^λ - 1) / λ). torch clamps the probability: in float32 its score is wrong from |λ| = 16 on."""
    logits = noise.promote(dist.logits)
    size = torch.where(logits > 0, logits, -logits)
    near = size < 1e-3
    safe = torch.where(near, 1.0, size)
    # log((e^|λ| - 1) / |λ|) - |λ|, and its series.
    log_norm = torch.where(near, -size / 2 + size.square() / 24, (-(-safe).expm1()).log() - safe.log())
    return torch.where(logits > 0, (points - 1) * logits, points * logits) - log_norm


def _gamma(dist: td.Gamma, points: Tensor) -> Tensor:
    a, rate, x = _exact("Gamma", dist.concentration), dist.rate.double(), points.double()
    return _back(a * rate.log() + (a - 1) * x.log() - rate * x - a.lgamma(), points)


def _inverse_gamma(dist: td.InverseGamma, points: Tensor) -> Tensor:
    a, rate, x = _exact("InverseGamma", dist.concentration), dist.rate.double(), points.double()
    return _back(a * rate.log() - (a + 1) * x.log() - rate / x - a.lgamma(), points)


def _beta(dist: td.Beta, points: Tensor) -> Tensor:
    a, b = _exact("Beta", dist.concentration1), _exact("Beta", dist.concentration0)
    x = points.double()
    powers = torch.special.xlogy(a - 1, x) + torch.special.xlog1py(b - 1, -x)
    return _back(powers + (a + b).lgamma() - a.lgamma() - b.lgamma(), points)


def _dirichlet(dist: td.Dirichlet, points: Tensor) -> Tensor:
    a = _exact("Dirichlet", dist.concentration)
    powers = torch.special.xlogy(a - 1, points.double()).sum(-1)
    return _back(powers + a.sum(-1).lgamma() - a.lgamma().sum(-1), points)


def _lkj(dist: td.LKJCholesky, points: Tensor) -> Tensor:
    _exact("LKJCholesky", dist.concentration)
    result: Tensor = dist.log_prob(points)
    return result


def _exact(name: str, concentration: Tensor) -> Tensor:
    """The concentration in float64, where the score, a difference of near numbers, keeps its digits."""
    if concentration.requires_grad and inspectable(concentration) and concentration.numel():
        largest = float(concentration.detach().max())
        if largest > LARGEST:
            raise ValueError(
                f"The score of {name} needs concentrations up to {LARGEST:g}; got {largest:.2g}, for which it is a "
                "difference of numbers that floating point does not tell apart. Use Pathwise."
            )
    return concentration.double()


def _back(x: Tensor, points: Tensor) -> Tensor:
    return x.to(noise.working_dtype(points.dtype))


# The keys are methods, so that a subclass which overrides `log_prob` keeps its own; InverseGamma has none.
_OWN: dict[Any, Callable[[Any, Tensor], Tensor]] = {
    td.Geometric.log_prob: _geometric,
    td.ContinuousBernoulli.log_prob: _continuous_bernoulli,
    td.Gamma.log_prob: _gamma,
    td.Beta.log_prob: _beta,
    td.Dirichlet.log_prob: _dirichlet,
    td.LKJCholesky.log_prob: _lkj,
    td.InverseGamma: _inverse_gamma,
}
