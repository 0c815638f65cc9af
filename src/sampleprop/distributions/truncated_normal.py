"""The normal distribution between two bounds, differentiable in all four parameters.

Source: [robert1995simulation]. Differences from the paper: inversion instead of rejection, so that the sample is a
smooth function of the parameters. The cdf is inverted in logarithms, after a reflection to the left tail, where they
are accurate.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.special import erfcx, ndtri

from sampleprop import noise
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.tracing import Function, inspectable


class TruncatedNormal(Reparameterized):
    r"""A normal variable, given that it lies between two bounds.

    .. math::

        z = \mu + \sigma\, \Phi^{-1}\!\big((1-u)\,\Phi(\alpha) + u\,\Phi(\beta)\big), \qquad
            \alpha = \tfrac{a-\mu}{\sigma},\ \beta = \tfrac{b-\mu}{\sigma},\ u \sim U(0, 1)

    `rsample` is right to any order, in the bounds too. The score function cannot differentiate with respect to the
    bounds, and refuses it. Everything is computed in logarithms, on the side where Φ is small. Therefore intervals far
    in a tail, such as [10, 11], lose no accuracy.

    Args:
        loc: μ, of the normal variable before truncation.
        scale: σ > 0, likewise.
        low: a, the lower bound; -inf for none.
        high: b > a, the upper bound; inf for none.

    Raises:
        ValueError: for parameters out of range.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.truncated_normal import TruncatedNormal
        >>> loc = torch.zeros(3, requires_grad=True)
        >>> q = TruncatedNormal(loc, 1.0, 0.0, torch.inf)
        >>> sp.expect(torch.square, q, sp.Pathwise(samples=4)).sum().backward()
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    smooth = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float,
        high: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and inspectable(self.low) and not bool((self.low < self.high).all()):
            raise ValueError(
                "TruncatedNormal needs low < high; got an empty interval. Exchange the bounds, or widen it."
            )

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def mode(self) -> Tensor:
        return self.loc.clamp(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        frame = self._frame()
        at_left, at_right = frame.densities()
        return self._given(frame.loc + frame.sign * frame.scale * (at_left - at_right))

    @property
    def variance(self) -> Tensor:
        frame = self._frame()
        at_left, at_right = frame.densities()
        edges = frame.left * at_left - frame.right * at_right
        return self._given(frame.scale.square() * (1 + edges - (at_left - at_right).square()))

    def entropy(self) -> Tensor:
        frame = self._frame()
        at_left, at_right = frame.densities()
        edges = frame.left * at_left - frame.right * at_right
        return self._given(frame.log_mass + frame.scale.log() + _HALF_LOG_2PI + (1 + edges) / 2)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        return self.icdf(noise.uniform((*shape, *self.batch_shape), self.loc, generator))

    def icdf(self, value: Tensor) -> Tensor:
        frame, u = self._frame(), value.double()
        forward, backward, same = u.log(), torch.log1p(-u), frame.sign > 0
        log_part = torch.logaddexp(
            frame.log_left + torch.where(same, backward, forward),
            frame.log_right + torch.where(same, forward, backward),
        )
        x = _NdtriExp.apply(log_part)
        return self._given(frame.loc + frame.scale * frame.sign * x).clamp(self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        frame = self._frame()
        z = (value - frame.loc) / frame.scale
        result = self._given(-z.square() / 2 - _HALF_LOG_2PI - frame.scale.log() - frame.log_mass)
        return torch.where((value >= self.low) & (value <= self.high), result, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        frame = self._frame()
        z = frame.sign * (value.clamp(self.low, self.high) - frame.loc) / frame.scale
        finite = z.isfinite()  # False only at an infinite bound
        at = _log_ndtr(torch.where(finite, z, 0.0))
        log_part = torch.where(finite, at, torch.where(z > 0, 0.0, -math.inf))
        part = ((log_part - frame.log_mass).exp() - (frame.log_left - frame.log_mass).exp()).clamp(0, 1)
        return self._given(torch.where(frame.sign > 0, part, 1 - part))

    def _given(self, x: Tensor) -> Tensor:
        """In the dtype of the parameters."""
        return x.to(self.loc.dtype)

    def _frame(self) -> _Frame:
        # In float64, because differences of logarithms would lose most digits in float32, both far in a tail and
        # between bounds that are close together. An infinite bound is replaced before any arithmetic, because it would
        # make 0 * inf in the backward pass.
        loc, scale, no_low, no_high = self.loc.double(), self.scale.double(), self.low.isinf(), self.high.isinf()
        a = (torch.where(no_low, loc.detach(), self.low) - loc) / scale
        b = (torch.where(no_high, loc.detach(), self.high) - loc) / scale
        reflect = ~no_low & (no_high | (a + b > 0))
        left, right = torch.where(reflect, -b, a), torch.where(reflect, -a, b)
        no_left, no_right = torch.where(reflect, no_high, no_low), torch.where(reflect, no_low, no_high)
        log_left = torch.where(no_left, -math.inf, _log_ndtr(left))
        log_right = torch.where(no_right, 0.0, _log_ndtr(right))
        log_mass = log_right + torch.log(-torch.expm1(log_left - log_right))
        sign = 1 - 2 * reflect.to(left.dtype)
        return _Frame(loc, scale, sign, left, right, log_left, log_right, log_mass, no_left, no_right)


class _Frame(NamedTuple):
    """The standardized interval, mirrored if need be so that most of it is negative; each [*batch], in float64."""

    loc: Tensor
    scale: Tensor
    sign: Tensor  # -1 where mirrored
    left: Tensor
    right: Tensor
    log_left: Tensor  # log Φ(left)
    log_right: Tensor
    log_mass: Tensor  # log(Φ(right) - Φ(left))
    no_left: Tensor  # where the bound is infinite; `left` is then a stand-in
    no_right: Tensor

    def densities(self) -> tuple[Tensor, Tensor]:
        """The truncated standard density at both bounds, 0 at an infinite one."""
        at_left = (-self.left.square() / 2 - _HALF_LOG_2PI - self.log_mass).exp()
        at_right = (-self.right.square() / 2 - _HALF_LOG_2PI - self.log_mass).exp()
        return torch.where(self.no_left, 0.0, at_left), torch.where(self.no_right, 0.0, at_right)


class _NdtriExp(Function):
    """Φ⁻¹(exp(y)) for y <= 0, also where exp(y) would underflow; differentiable to any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        upper = -ndtri(-torch.expm1(y))
        middle = ndtri(y.clamp_min(-20).exp())
        # log Φ(x) ≈ -x²/2 - log(-x) - log √(2π), with x² ≈ -2y in the logarithm.
        tail = y.clamp_max(-10)
        x = -(-2 * (tail + _HALF_LOG_2PI + (-2 * tail).log() / 2)).sqrt()
        for _ in range(3):  # Newton: quadratic from a relative error of 2 %
            x = x - (_log_ndtr(x) - tail) * _mills(x)
        return torch.where(y > -0.7, upper, torch.where(y > -10, middle, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * _mills(x)


def _log_ndtr(x: Tensor) -> Tensor:
    """log Φ(x), as `torch.special.log_ndtr`, which `vmap` would run in a loop."""
    low, high = x.clamp_max(-1), x.clamp_min(-1)  # each branch sees only its own range
    tail = (erfcx(-low / math.sqrt(2)) / 2).log() - low.square() / 2
    return torch.where(x < -1, tail, torch.log1p(-torch.erfc(high / math.sqrt(2)) / 2))


def _mills(x: Tensor) -> Tensor:
    """Φ(x) / ϕ(x)."""
    scaled: Tensor = erfcx(-x / math.sqrt(2))
    return math.sqrt(math.pi / 2) * scaled


_HALF_LOG_2PI = math.log(2 * math.pi) / 2
