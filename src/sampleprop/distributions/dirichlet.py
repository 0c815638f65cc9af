"""The Dirichlet distribution, right for concentrations near 0.

Source: [figurnov2018implicit], for Gamma variables; the sample consists of their shares in the sum. Differences from
the paper: drawn in logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributions as td
from torch import Generator, Size, Tensor

from sampleprop.distributions.log_gamma import log_gamma, refuse_infinite
from sampleprop.families.reparameterized import Reparameterized


class Dirichlet(Reparameterized, td.Dirichlet):
    r"""A :class:`torch.distributions.Dirichlet` for any concentrations, however small, with exact derivatives.

    .. math::

        p(x) = \frac{\Gamma(\sum_c a_c)}{\prod_c \Gamma(a_c)} \prod_c x_c^{a_c - 1}

        \log x = \operatorname{log\,softmax}(\log X_1, \dots, \log X_C), \quad X_c \sim \mathrm{Gamma}(a_c, 1)

    The derivative of each Gamma variable for its concentration is that of its quantile. For concentrations of 10⁻³
    nearly every sample is rounded to a one-hot vector. This is right for E f(x) and its pathwise gradient. But the
    density of such a point is lost, and `log_prob` refuses it. `rsample_log` and `log_prob_of_log` never compute x. The
    second derivative through a sample raises.

    Args:
        concentration: a > 0, [\*batch, C]; tested down to 10⁻⁴.

    Raises:
        ValueError: for parameters out of range; in `log_prob`, for x_c = 0 where a_c < 1 (with `validate_args`).
        RuntimeError: in a second backward pass through a sample.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.dirichlet import Dirichlet
        >>> concentration = torch.full((4,), 1e-3, requires_grad=True)
        >>> q = Dirichlet(concentration)
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.Pathwise(samples=4)).backward()
        >>> bool(q.rsample_log((1000,)).isfinite().all())
        True
    """

    smooth = False

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        return self._log(shape, generator).exp().to(self.concentration.dtype)

    def rsample_log(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        r"""Draw log x, [\*shape, \*batch, C], attached to φ: finite where x underflows."""
        return self._log(Size(sample_shape), generator).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            refuse_infinite("Dirichlet", (value == 0) & (self.concentration < 1), value.dtype, "log")
        result: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return result

    def log_prob_of_log(self, log_value: Tensor) -> Tensor:
        """log p(x) of the point x = exp(log_value), as `log_prob`, also where x underflows."""
        a = self.concentration
        return ((a - 1) * log_value - a.lgamma()).sum(-1) + a.sum(-1).lgamma()

    def _log(self, shape: Size, generator: Generator | None) -> Tensor:
        """log x in float64."""
        return log_gamma("Dirichlet", self.concentration, shape, generator).log_softmax(-1)
