"""The angle between a von Mises-Fisher vector and its mean direction: its distribution by quadrature.

Let κ be the concentration, and m the dimension of the space minus 2. The angle θ in (0, π) has the density g(θ) / N
with g(θ) = sin(θ)^m exp(κ (cos θ - 1)). The part of the interval where g is not negligible is cut into panels.
Gauss-Legendre quadrature in each panel gives N, the cdf and its inverse to rounding error, for any κ and m and without
Bessel functions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sampleprop import noise
from sampleprop.distributions.quadrature import gauss_legendre

PANELS = 12
NODES = 10
# g falls below e^-39 of its maximum within this many standard deviations, or reaches the end of the interval.
REACH = 14.1


class Angle:
    """The distribution of θ for a batch of concentrations.

    Args:
        concentration: κ >= 0, [*batch], attached to φ.
        power: m, 0 for the circle.
    """

    def __init__(self, concentration: Tensor, power: int) -> None:
        self.concentration, self.power = noise.promote(concentration), power
        self.kappa = self.concentration.detach()
        tiny = torch.finfo(self.kappa.dtype).tiny
        # The mode solves m cos θ = κ sin² θ. To the right of it the curvature of -log g is at least this number.
        curvature = ((power + torch.hypot(torch.full_like(self.kappa, power), 2 * self.kappa)) / 2).clamp_min(tiny)
        self.mode = (power / curvature).sqrt().asin()
        self.low = (self.mode - REACH * curvature.rsqrt()).clamp_min(0)
        self.high = (self.mode + REACH * curvature.rsqrt()).clamp_max(math.pi)
        self.step = (self.high - self.low) / PANELS
        self.edge = torch.finfo(self.kappa.dtype).eps  # as a part of a panel: angles stay inside the open interval
        self.nodes, self.weights = _NODES.to(self.kappa), _WEIGHTS.to(self.kappa)
        self.masses = self._masses()

    def log_normalizer(self) -> Tensor:
        """log N, [*batch], attached to κ."""
        log_mass = self.masses.sum((-2, -1)).log()
        if self.power:
            log_mass = log_mass + self.power * self.mode.sin().log()
        return log_mass - self.concentration * _versine(self.mode)

    def versine(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance of 1 - cos θ, each [*batch], attached to κ."""
        shares = self.masses / self.masses.sum((-2, -1), keepdim=True)
        versines = _versine(self._grid())
        mean = (shares * versines).sum((-2, -1))
        return mean, (shares * (versines - mean[..., None, None]).square()).sum((-2, -1))

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of the cdf: [..., *batch] of numbers in (0, 1) -> angles, without graph."""
        with torch.no_grad():
            return self._quantile(u)

    def cdf(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F(θ), ∂F/∂κ and ∂F/∂θ: [..., *batch] each, without graph."""
        with torch.no_grad():
            return self._cdf(theta)

    def _quantile(self, u: Tensor) -> Tensor:
        masses = self.masses.detach().sum(-1)  # [*batch, PANELS]
        edges = masses.cumsum(-1)
        target = u * edges[..., -1]
        panel = (target.unsqueeze(-1) > edges[..., :-1]).sum(-1)  # [..., *batch]
        mass = _pick(masses, panel)
        part = ((target - _pick(F.pad(edges[..., :-1], (1, 0)), panel)) / mass).clamp(0, 1)
        start = self.low + self.step * panel
        x = self._guess(part, panel, start)
        for _ in range(5):
            excess = self._local(start, x * self.step) - part * mass
            derivative = self.step * self._density(start + x * self.step)
            x = (x - excess / derivative).clamp(self.edge, 1 - self.edge)
        return start + x * self.step

    def _cdf(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = theta.clamp(self.low + self.edge * self.step, self.high - self.edge * self.step)
        masses, versines = self.masses.detach(), _versine(self._grid())
        total = masses.sum((-2, -1))
        mean = (masses * versines).sum((-2, -1)) / total
        panel = ((theta - self.low) / self.step).long().clamp(0, PANELS - 1)
        start = self.low + self.step * panel
        right = start > self.mode
        near = torch.where(right, start + self.step, start)  # the edge of the panel towards the nearer tail
        part = self._beyond(masses, panel, right) + self._local(near, theta - near)
        # ∂ log(g / N) / ∂κ = cos θ - E[cos θ]. Its integral over (0, π) is 0, so the integral over the nearer tail is
        # enough.
        moment = self._beyond(masses * (mean[..., None, None] - versines), panel, right)
        moment = moment + self._local(near, theta - near, mean)
        return torch.where(right, 1 + part / total, part / total), moment / total, self._density(theta) / total

    def _grid(self) -> Tensor:
        panels = torch.arange(PANELS, device=self.kappa.device).unsqueeze(-1) + self.nodes  # [PANELS, NODES]
        return self.low[..., None, None] + self.step[..., None, None] * panels

    def _masses(self) -> Tensor:
        """The integral of g / g(mode) in pieces, [*batch, PANELS, NODES], attached to κ."""
        log_density = self._log_density(self._grid(), self.concentration[..., None, None], self.mode[..., None, None])
        return self.step[..., None, None] * self.weights * log_density.exp()

    def _log_density(self, theta: Tensor, kappa: Tensor, mode: Tensor) -> Tensor:
        # cos θ - cos mode as a product, which keeps its digits where both are near 1.
        result = -2 * kappa * ((theta + mode) / 2).sin() * ((theta - mode) / 2).sin()
        if self.power:
            sine = theta.sin().clamp_min(torch.finfo(theta.dtype).tiny)  # π rounds to a number above π
            result = result + self.power * (sine / mode.sin()).log()
        return result

    def _density(self, theta: Tensor) -> Tensor:
        return self._log_density(theta, self.kappa, self.mode).exp()

    def _local(self, start: Tensor, length: Tensor, mean: Tensor | None = None) -> Tensor:
        """∫ g, or ∫ (mean - versine) g, over `length` from `start`, at most one panel: [..., *batch]."""
        theta = start.unsqueeze(-1) + length.unsqueeze(-1) * self.nodes  # [..., *batch, NODES]
        density = self._log_density(theta, self.kappa.unsqueeze(-1), self.mode.unsqueeze(-1)).exp()
        if mean is not None:
            density = density * (mean.unsqueeze(-1) - _versine(theta))
        return length * (self.weights * density).sum(-1)

    def _beyond(self, masses: Tensor, panel: Tensor, right: Tensor) -> Tensor:
        """The sum over the panels before `panel`; where `right`, minus the sum over those after it."""
        panels = masses.sum(-1)
        before = F.pad(panels[..., :-1].cumsum(-1), (1, 0))
        after = F.pad(panels[..., 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))
        return torch.where(right, -_pick(after, panel), _pick(before, panel))

    def _guess(self, part: Tensor, panel: Tensor, start: Tensor) -> Tensor:
        """The place in its panel where the cdf has risen by `part`, if log g is linear there; a power at 0 and π."""
        rise = self._log_density(start + self.step, self.kappa, self.mode) - self._log_density(
            start, self.kappa, self.mode
        )
        rise = rise.clamp(-20, 20)
        rise = torch.where(rise.abs() < 1e-2, 1e-2, rise)
        x = torch.log1p(part * torch.expm1(rise)) / rise
        if self.power:
            exponent = 1 / (self.power + 1)
            x = torch.where((panel == 0) & (self.low == 0), part**exponent, x)
            last = (panel == PANELS - 1) & (self.high >= _PI_BELOW)
            x = torch.where(last, 1 - (1 - part) ** exponent, x)
        return x.clamp(self.edge, 1 - self.edge)


def _versine(theta: Tensor) -> Tensor:
    """1 - cos θ, accurate near 0."""
    return 2 * (theta / 2).sin().square()


def _pick(table: Tensor, panel: Tensor) -> Tensor:
    """[*batch, PANELS] at panel numbers [..., *batch]."""
    return table.expand(*panel.shape, PANELS).gather(-1, panel.unsqueeze(-1)).squeeze(-1)


_NODES, _WEIGHTS = gauss_legendre(NODES)
_PI_BELOW = 3.14159
