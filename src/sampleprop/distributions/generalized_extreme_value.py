"""The generalized extreme value distribution, smooth where its shape passes 0.

Source: [jenkinson1955frequency]; sampled by inversion. Differences from the paper: the sign of the shape is the one of
extreme value theory today (positive: heavy upper tail).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.special import zeta

from sampleprop import noise
from sampleprop.families.reparameterized import Reparameterized


class GeneralizedExtremeValue(Reparameterized):
    r"""The distribution of the largest of many numbers: Gumbel for shape 0, Fréchet above 0, reversed Weibull below 0.

    .. math::

        z = \mu + \sigma\, \frac{e^{\xi y} - 1}{\xi}, \quad y = -\log(-\log u),\ u \sim U(0, 1)

        F(z) = \exp\!\Big(-\big(1 + \xi\tfrac{z-\mu}{\sigma}\big)^{-1/\xi}\Big)

    `rsample` is right to any order, also at ξ = 0. The support ends at μ - σ/ξ, so it moves with the parameters, and
    the score function refuses it.

    Args:
        loc: μ.
        scale: σ > 0.
        concentration: ξ, the shape. The mean is finite for ξ < 1, the variance for ξ < 1/2.

    Raises:
        ValueError: for a scale out of range.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.generalized_extreme_value import GeneralizedExtremeValue
        >>> shape = torch.zeros(3, requires_grad=True)
        >>> q = GeneralizedExtremeValue(0.0, 1.0, shape)
        >>> sp.expect(torch.tanh, q, sp.Pathwise(samples=4)).sum().backward()
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    smooth = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        concentration: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        shape = self.concentration
        edge = self.loc - self.scale / torch.where(shape == 0, 1.0, shape)
        return constraints.interval(torch.where(shape > 0, edge, -math.inf), torch.where(shape < 0, edge, math.inf))

    @property
    def mean(self) -> Tensor:
        shape = self.concentration.clamp_max(1)
        first, _ = _log_moments(shape)
        mean = self.loc + self.scale * first * _expm1_ratio(shape * first)
        return torch.where(shape < 1, mean, math.inf)

    @property
    def mode(self) -> Tensor:
        return self._from_gumbel(-torch.log1p(self.concentration.clamp_min(-1)))

    @property
    def variance(self) -> Tensor:
        shape = self.concentration.clamp_max(0.5)
        first, second = _log_moments(shape)
        growth = (2 * shape * first).exp()  # Γ(1 - ξ)²
        variance = self.scale.square() * growth * second * _expm1_ratio(shape.square() * second)
        return torch.where(shape < 0.5, variance, math.inf)

    def entropy(self) -> Tensor:
        return self.scale.log() + _EULER * self.concentration + _EULER + 1

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        y = noise.gumbel((*shape, *self.batch_shape), self.loc, generator)
        return self._from_gumbel(y).to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        return self._from_gumbel(-(-value.log()).log())

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        y, inside = self._to_gumbel(value)
        result = -self.scale.log() - (1 + self.concentration) * y - (-y).exp()
        return torch.where(inside, result, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        y, inside = self._to_gumbel(value)
        return torch.where(inside, (-(-y).exp()).exp(), (self.concentration < 0).to(y.dtype))

    def _from_gumbel(self, y: Tensor) -> Tensor:
        return self.loc + self.scale * y * _expm1_ratio(self.concentration * y)

    def _to_gumbel(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The standard Gumbel variable that gives `value`, 0 outside the support; and whether that is inside."""
        z = (value - self.loc) / self.scale
        inside = 1 + self.concentration * z > 0
        z = torch.where(inside, z, 0.0)
        return z * _log1p_ratio(self.concentration * z), inside


def _expm1_ratio(x: Tensor) -> Tensor:
    """(e^x - 1) / x and its derivatives of any order, also at 0."""
    near = x.abs() < 0.5
    far = torch.where(near, 1.0, x)
    s = torch.where(near, x, 0.0) / 2
    # e^s sinh(s) / s, whose series in s² needs 7 terms for float64.
    series = s.exp() * _polynomial(s.square(), [1 / math.factorial(2 * k + 1) for k in range(8)])
    return torch.where(near, series, torch.expm1(far) / far)


def _log1p_ratio(x: Tensor) -> Tensor:
    """log(1 + x) / x for x > -1 and its derivatives of any order, also at 0."""
    near = x.abs() < 0.2
    far = torch.where(near, 1.0, x)
    s = torch.where(near, x, 0.0)
    w = s / (2 + s)
    # log(1 + s) = 2 artanh(w).
    series = 2 / (2 + s) * _polynomial(w.square(), [1 / (2 * k + 1) for k in range(9)])
    return torch.where(near, series, torch.log1p(far) / far)


def _log_moments(shape: Tensor) -> tuple[Tensor, Tensor]:
    """log Γ(1 - ξ) / ξ and log(Γ(1 - 2ξ) / Γ(1 - ξ)²) / ξ²; near ξ = 0 by log Γ(1 - ξ) = γξ + Σ ζ(k) ξ^k / k."""
    near = shape.abs() < 0.1
    far = torch.where(near, 0.2, shape)
    s = torch.where(near, shape, 0.0)
    first = torch.lgamma(1 - far)
    second = torch.lgamma(1 - 2 * far) - 2 * first
    series_first = _EULER + s * _polynomial(s, [z / k for k, z in _ZETA])
    series_second = _polynomial(s, [z * (2**k - 2) / k for k, z in _ZETA])
    return torch.where(near, series_first, first / far), torch.where(near, series_second, second / far.square())


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


_EULER = 0.5772156649015329
_ZETA = [
    (k, float(zeta(torch.tensor(k, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)))) for k in range(2, 26)
]
