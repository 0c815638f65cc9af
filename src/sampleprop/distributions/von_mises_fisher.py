"""The von Mises-Fisher distribution on the sphere, differentiable in its direction and its concentration.

Source: [davidson2018hyperspherical] for the decomposition; [figurnov2018implicit] for the concentration. Differences
from the papers: the angle is drawn by inversion instead of rejection, so no correction term is needed. The tangent
follows the direction by the least rotation, which has less variance than a Householder reflection.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise
from sampleprop.distributions.angle import Angle
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import guarded
from sampleprop.tracing import inspectable


class _UnitVector(constraints.Constraint):
    """Vectors of length 1, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        excess: Tensor = value.norm(dim=-1) - 1
        return excess.abs() < 1e-3


class VonMisesFisher(Reparameterized):
    r"""Unit vectors around a mean direction.

    .. math::

        p(x) = C_D(\kappa)\, e^{\kappa \mu^\top x}

        x = \cos\theta\, \mu + \sin\theta\, v, \qquad
            \theta \sim \tfrac1N \sin^{D-2}\theta\; e^{\kappa\cos\theta}, \quad v \perp \mu \text{ uniform}

    κ moves a sample through its angle, by the angle's cdf. μ moves it by the least rotation. The second derivative with
    respect to κ through a sample raises. `log_prob` is right to any order.

    Args:
        loc: [\*batch, D], D at least 2: the mean direction μ. It is divided by its length, so that its gradient
            lies along the sphere.
        concentration: [\*batch], κ >= 0; 0 is the uniform distribution.

    Raises:
        ValueError: for parameters out of range, or a loc without direction.
        RuntimeError: in a second backward pass through the concentration of a sample.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.von_mises_fisher import VonMisesFisher
        >>> concentration = torch.ones((), requires_grad=True)
        >>> q = VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), concentration)
        >>> sp.expect(lambda x: x[..., 0].exp(), q, sp.Pathwise(samples=4)).backward()
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "concentration": constraints.nonnegative,
    }
    support = _UnitVector()
    smooth = False

    def __init__(self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None) -> None:
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(
                "VonMisesFisher needs loc with at least 2 coordinates in its last dimension; got shape "
                f"{list(loc.shape)}. Pass a direction in the plane or in a space of more dimensions."
            )
        concentration = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(*batch, loc.shape[-1]), concentration.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)
        if self._validate_args and inspectable(loc) and not bool((loc.detach().norm(dim=-1) > 0).all()):
            raise ValueError("VonMisesFisher needs a loc with a direction; got a vector of length 0. Give it a length.")

    @property
    def mean(self) -> Tensor:
        versine, _ = self._angle().versine()
        return (1 - versine).unsqueeze(-1) * self._direction()

    @property
    def mode(self) -> Tensor:
        return self._direction()

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate."""
        versine, spread = self._angle().versine()
        along = self._direction().square()
        across = (versine * (2 - versine) - spread) / (self.event_shape[0] - 1)  # E[sin² θ] / (D - 1)
        return spread.unsqueeze(-1) * along + across.unsqueeze(-1) * (1 - along)

    def entropy(self) -> Tensor:
        angle = self._angle()
        return angle.concentration * angle.versine()[0] + self._log_normalizer(angle)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        angle, direction = self._angle(), self._direction()
        at = direction.detach()
        full = (*shape, *self.batch_shape)
        theta = angle.quantile(noise.uniform(full, angle.kappa, generator))
        tangent = noise.normal((*full, *self.event_shape), at, generator)
        for _ in range(2):  # after one pass the division by a small length has enlarged the rounding errors
            tangent = tangent - (tangent * at).sum(-1, keepdim=True) * at
            tangent = tangent / tangent.norm(dim=-1, keepdim=True)
        if torch.is_grad_enabled():
            _, by_concentration, density = angle.cdf(theta)
            derivative = -by_concentration / density
            theta = guarded("VonMisesFisher", theta + (angle.concentration - angle.kappa) * derivative)
        # The rotation that takes `at` to `direction` and leaves every vector orthogonal to both as it is.
        shift = (tangent * direction).sum(-1, keepdim=True) / (1 + (at * direction).sum(-1, keepdim=True))
        tangent = tangent - shift * (at + direction)
        theta = theta.unsqueeze(-1)
        return (theta.cos() * direction + theta.sin() * tangent).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        angle = self._angle()
        versine = (value - self._direction()).square().sum(-1) / 2  # 1 - μᵀx on the sphere, accurate near 0
        return -angle.concentration * versine - self._log_normalizer(angle)

    def _angle(self) -> Angle:
        return Angle(self.concentration, self.event_shape[0] - 2)

    def _direction(self) -> Tensor:
        loc = noise.promote(self.loc)
        direction: Tensor = loc / loc.norm(dim=-1, keepdim=True)
        return direction

    def _log_normalizer(self, angle: Angle) -> Tensor:
        """-log C_D(κ) - κ: the normalizer of the angle, times the area of the sphere of tangents."""
        half = (self.event_shape[0] - 1) / 2
        return angle.log_normalizer() + math.log(2) + half * math.log(math.pi) - math.lgamma(half)
