"""The von Mises distribution on the circle, with a sample that is differentiable in its concentration.

Source: [figurnov2018implicit]. Differences from the paper: drawn by inversion instead of rejection; cdf and derivative
come from quadrature, to rounding error.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from sampleprop import noise
from sampleprop.distributions.angle import Angle
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import guarded


class VonMises(Reparameterized):
    r"""The normal distribution of the circle, as an angle, with `rsample`.

    .. math::

        p(z) = \frac{e^{\kappa \cos(z - \mu)}}{2\pi I_0(\kappa)}, \qquad z = \mu + t, \quad
            \frac{dt}{d\kappa} = -\frac{\int_0^t (\cos v - \mathbb{E}\cos)\, p(\mu + v)\, dv}{p(z)}

    f must be 2π-periodic: let it use cos z and sin z. A sample moves through the cut at ±π as through any other point.
    An f that is not periodic jumps there, so its pathwise gradient is wrong; use `ScoreFunction` for such an f.
    `log_prob` is right to any order. The second derivative through a sample raises.

    Args:
        loc: μ, the mean direction in radians.
        concentration: κ >= 0; 0 is the uniform distribution.

    Raises:
        ValueError: for a concentration out of range.
        RuntimeError: in a second backward pass through the concentration of a sample, or of the cdf.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.von_mises import VonMises
        >>> concentration = torch.ones(3, requires_grad=True)
        >>> q = VonMises(0.0, concentration)
        >>> sp.expect(torch.cos, q, sp.Pathwise(samples=4)).sum().backward()
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "concentration": constraints.nonnegative,
    }
    support = constraints.real
    smooth = False
    periodic = True

    def __init__(self, loc: Tensor | float, concentration: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The circular mean."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The circular variance, 1 - E[cos(z - μ)]."""
        return Angle(self.concentration, 0).versine()[0]

    def entropy(self) -> Tensor:
        angle = Angle(self.concentration, 0)
        return angle.concentration * angle.versine()[0] + angle.log_normalizer() + math.log(2)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        angle = Angle(self.concentration, 0)
        u = 2 * noise.uniform((*shape, *self.batch_shape), self.loc, generator) - 1
        t = angle.quantile(u.abs()) * u.sign()
        if torch.is_grad_enabled():
            _, by_concentration, density = angle.cdf(t.abs())
            derivative = -by_concentration / density * u.sign()
            t = guarded("VonMises", t + (angle.concentration - angle.kappa) * derivative)
        z = self.loc + t
        return (z - 2 * math.pi * (z.detach() / (2 * math.pi)).round()).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        angle = Angle(self.concentration, 0)
        versine = 2 * ((value - self.loc) / 2).sin().square()
        return -self.concentration * versine - angle.log_normalizer() - math.log(2)

    def cdf(self, value: Tensor) -> Tensor:
        """P(-π <= z <= value), for a value in [-π, π]."""
        return self._lifted(value) - self._lifted(torch.full_like(value, -math.pi))

    def _lifted(self, value: Tensor) -> Tensor:
        """The cdf of z unwound on the line, where it grows by 1 in each turn; 1/2 at μ."""
        angle = Angle(self.concentration, 0)
        t = value - self.loc
        turns = (t.detach() / (2 * math.pi)).round()
        t = t - 2 * math.pi * turns
        part, by_concentration, density = angle.cdf(t.abs())
        change = (angle.concentration - angle.kappa) * by_concentration * t.detach().sign() + (t - t.detach()) * density
        return turns + (1 + t.detach().sign() * part + guarded("VonMises.cdf", change)) / 2
