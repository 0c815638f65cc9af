"""The logarithm of a Gamma variable, which does not underflow, and its derivative with respect to the concentration.

Source: [marsaglia2000simple], sec. 6, for X(a) = X(a + 1) U^(1/a), here in logarithms; [figurnov2018implicit] for the
derivative. Differences from the papers: the derivative comes from a series or from quadrature, to eight digits. That of
torch is a fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Size, Tensor

from sampleprop import noise
from sampleprop.distributions.quadrature import gauss_legendre
from sampleprop.surrogate import guarded
from sampleprop.tracing import Function, inspectable

TERMS = 19  # of the series, for x below 1: 1 / 20! is below the rounding error
NODES = 20  # of the quadrature: a relative error of 1e-8 at most
REACH = 28.0  # the integral ends where the integrand has fallen below e^-28 of its value at y


def log_gamma(name: str, concentration: Tensor, shape: Size, generator: Generator | None = None) -> Tensor:
    r"""Draw log X for X ~ Gamma(a, 1), [\*shape, \*batch], in float64, attached to a once.

    Args:
        name: the distribution, for the refusal of a second derivative.
        concentration: a, [\*batch].
        shape: the sample dimensions.
        generator: the source of noise; the default one if None.
    """
    a = concentration.double().expand(shape + concentration.shape)
    with torch.no_grad():
        y = (
            torch._standard_gamma(a + 1, **noise.generator_option(generator)).log()
            - noise.exponential(a.shape, a, generator) / a
        )
    return guarded(name, _Attach.apply(a, y))


def refuse_infinite(name: str, infinite: Tensor, dtype: torch.dtype, log: str) -> None:
    """Refuse points at an end of the support where the density is infinite: samples come to lie there by rounding."""
    if inspectable(infinite) and bool(infinite.any()):
        raise ValueError(
            f"{name}.log_prob needs points inside the support where a concentration is below 1; got one at its end, "
            f"where the density is infinite: in {dtype}, points close to the end are rounded to it. Draw with "
            f"rsample_{log} and use log_prob_of_{log}, or an estimator without log_prob, such as Pathwise."
        )


def derivative(a: Tensor, y: Tensor) -> Tensor:
    r"""The derivative of y = log X with respect to a at a fixed value of the cdf, without graph.

    .. math::

        \frac{dy}{da} = -\frac{\partial_a F}{q(y)} = \int_{-\infty}^y (\psi(a) - t)\, \frac{q(t)}{q(y)}\, dt
            = \int_y^\infty (t - \psi(a))\, \frac{q(t)}{q(y)}\, dt, \qquad \log q(t) = a t - e^t - \log \Gamma(a)
    """
    with torch.no_grad():
        return torch.where(y < 0, _series(a, y.clamp_max(0)), _quadrature(a, y.clamp_min(0)))


def _series(a: Tensor, y: Tensor) -> Tensor:
    """The integral from below, for y <= 0. exp(x e^-s) is expanded in powers of x, so that each term is elementary."""
    excess = torch.digamma(a + 1) - y  # ψ(a) = ψ(a + 1) - 1/a, which cancels with a part of the first term
    n = torch.arange(1, TERMS + 1, dtype=a.dtype, device=a.device)
    x, r = y.exp(), 1 / (a.unsqueeze(-1) + n)  # [..., TERMS]
    powers = (-x.unsqueeze(-1) / n).cumprod(-1)  # (-x)^n / n!
    first, second = (powers * r).sum(-1), (powers * r.square()).sum(-1)
    return x.exp() * (excess + (a * excess - 1) * first + a * second) / a


def _quadrature(a: Tensor, y: Tensor) -> Tensor:
    """One of the two integrals, for y >= 0, over s = |t - y|: mostly the one away from the mode."""
    x = y.exp()
    # For small a the way to the left is long and would take more nodes, so this goes to the right too.
    side = torch.where((x > a) | (a < 2), 1.0, -1.0).to(a.dtype)

    def fall(s: Tensor, a: Tensor, x: Tensor, side: Tensor) -> Tensor:
        """log q(y) - log q(t)."""
        return x * torch.expm1(side * s) - side * a * s

    # The s where the fall reaches REACH. The fall is convex, so Newton's method starts from beyond. To the right the
    # fall is at least s (x - a) + x s² / 2. To the left it is at least a s - x, and x s² / 3 up to s = 1.
    bound = torch.where(side > 0, (a - x + ((a - x).square() + 2 * REACH * x).sqrt()) / x, (REACH + x) / a)
    bound = torch.where((side < 0) & (x > 3 * REACH), torch.minimum(bound, (3 * REACH / x).sqrt()), bound)
    for _ in range(4):
        bound = bound - (fall(bound, a, x, side) - REACH) / (side * (x * (side * bound).exp() - a))
    s = bound.unsqueeze(-1) * _NODES.to(a)  # [..., NODES]
    excess = (y - torch.digamma(a)) * side
    wide = [part.unsqueeze(-1) for part in (a, x, side)]
    return bound * (_WEIGHTS.to(a) * (excess.unsqueeze(-1) + s) * (-fall(s, *wide)).exp()).sum(-1)


class _Attach(Function):
    """y as a function of a. Its derivative is computed only where a gradient with respect to a is asked for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return grad_output * derivative(*ctx.saved_tensors), None


_NODES, _WEIGHTS = gauss_legendre(NODES)
