"""The Gamma distribution, right for concentrations near 0.

Source: [figurnov2018implicit]. Differences from the paper: drawn in logarithms; the derivative of the cdf comes from a
series or from quadrature instead of forward differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributions as td
from torch import Generator, Size, Tensor

from sampleprop.distributions.log_gamma import derivative, log_gamma, refuse_infinite
from sampleprop.families.reparameterized import Reparameterized
from sampleprop.surrogate import guarded


class Gamma(Reparameterized, td.Gamma):
    r"""A :class:`torch.distributions.Gamma` for any concentration, however small, with exact derivatives.

    .. math::

        p(x) = \frac{b^a}{\Gamma(a)}\, x^{a-1} e^{-bx}, \qquad \log x = \log X_{a+1} + \tfrac1a \log u - \log b

        \frac{\partial \log x}{\partial a} = -\frac{\partial_a F(x)}{x\, p(x)}

    For a = 10⁻³ most samples are below the smallest number of float32, and become 0. This is right for E f(x) and its
    pathwise gradient. But log x and the density of such a point are lost, and `log_prob` refuses it. `rsample_log` and
    `log_prob_of_log` never compute x. Torch returns 10⁻³⁸ instead of 0, whose log_prob is finite and wrong. The second
    derivative through a sample raises.

    Args:
        concentration: a > 0; tested down to 10⁻⁴.
        rate: b > 0.

    Raises:
        ValueError: for parameters out of range; in `log_prob`, for x = 0 where a < 1 (with `validate_args`).
        RuntimeError: in a second backward pass through the concentration of a sample, or of the cdf.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.gamma import Gamma
        >>> concentration = torch.full((3,), 1e-3, requires_grad=True)
        >>> q = Gamma(concentration, 1.0)
        >>> sp.expect(torch.tanh, q, sp.Pathwise(samples=4)).sum().backward()
        >>> bool(q.rsample_log((1000,)).isfinite().all())
        True
    """

    smooth = False

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        return self._log(shape, generator).exp().to(self.concentration.dtype)

    def rsample_log(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        r"""Draw log x, [\*shape, \*batch], attached to φ: finite where x underflows."""
        return self._log(Size(sample_shape), generator).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=self.rate.dtype, device=self.rate.device)
        if self._validate_args:
            refuse_infinite("Gamma", (value == 0) & (self.concentration < 1), value.dtype, "log")
        result: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return result

    def log_prob_of_log(self, log_value: Tensor) -> Tensor:
        """log p(x) of the point x = exp(log_value), as `log_prob`, also where x underflows."""
        scaled = log_value + self.rate.log()
        return self.rate.log() + (self.concentration - 1) * scaled - scaled.exp() - self.concentration.lgamma()

    def cdf(self, value: Tensor) -> Tensor:
        """P(x <= value), differentiable in the value and in both parameters."""
        if self._validate_args:
            self._validate_sample(value)
        a, u = torch.broadcast_tensors(self.concentration.double(), self.rate.double() * value)
        result: Tensor = torch.special.gammainc(a.detach(), u.detach())
        if torch.is_grad_enabled():
            y = u.detach().clamp_min(1e-300).log()
            density = (a * y - y.exp() - a.lgamma()).detach().exp()  # of log u
            change = (u - u.detach()) / y.exp() - (a - a.detach()) * derivative(a, y)
            result = result + guarded("Gamma.cdf", density * change)
        return result.to(self.concentration.dtype)

    def _log(self, shape: Size, generator: Generator | None) -> Tensor:
        """log x in float64."""
        return log_gamma("Gamma", self.concentration, shape, generator) - self.rate.double().log()
