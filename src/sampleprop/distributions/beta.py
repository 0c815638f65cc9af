"""The Beta distribution, right for concentrations near 0.

Source: [figurnov2018implicit], for two Gamma variables; the sample is the share of one in their sum. Differences from
the paper: drawn as a logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributions as td
import torch.nn.functional as F
from torch import Generator, Size, Tensor
from torch.distributions.utils import broadcast_all

from sampleprop.distributions.log_gamma import log_gamma, refuse_infinite
from sampleprop.families.reparameterized import Reparameterized


class Beta(Reparameterized, td.Beta):
    r"""A :class:`torch.distributions.Beta` for any concentrations, however small, with exact derivatives.

    .. math::

        p(x) = \frac{x^{a-1} (1 - x)^{b-1}}{B(a, b)}

        \operatorname{logit} x = \log X_a - \log X_b, \qquad
            X_a \sim \mathrm{Gamma}(a, 1),\ X_b \sim \mathrm{Gamma}(b, 1)

    The derivative of each Gamma variable for its concentration is that of its quantile. For a = b = 10⁻³ nearly every
    sample is so close to 0 or 1 that it is rounded to it. This is right for E f(x) and its pathwise gradient. But the
    density of such a point is lost, and `log_prob` refuses it. `rsample_logit` and `log_prob_of_logit` are accurate at
    both ends. The second derivative through a sample raises.

    Args:
        concentration1: a > 0; tested down to 10⁻⁴.
        concentration0: b > 0, likewise.

    Raises:
        ValueError: for parameters out of range; in `log_prob`, for x = 0 where a < 1 and x = 1 where b < 1 (with
            `validate_args`).
        RuntimeError: in a second backward pass through a sample.

    Example:
        >>> import torch, sampleprop as sp
        >>> from sampleprop.distributions.beta import Beta
        >>> concentration = torch.full((3,), 1e-3, requires_grad=True)
        >>> q = Beta(concentration, 1e-3)
        >>> sp.expect(torch.square, q, sp.Pathwise(samples=4)).sum().backward()
        >>> bool(q.rsample_logit((1000,)).isfinite().all())
        True
    """

    smooth = False
    concentration1: Any = None  # attributes; torch computes them from a Dirichlet distribution
    concentration0: Any = None

    def __init__(
        self, concentration1: Tensor | float, concentration0: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        td.Distribution.__init__(self, self.concentration1.shape, validate_args=validate_args)

    @property
    def _dirichlet(self) -> td.Dirichlet:  # type: ignore[override]
        """The distribution from which torch's own methods compute."""
        return td.Dirichlet(torch.stack((self.concentration1, self.concentration0), -1), validate_args=False)

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        return self._logit(shape, generator).sigmoid().to(self.concentration1.dtype)

    def rsample_logit(self, sample_shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
        r"""Draw log x - log(1 - x), [\*shape, \*batch], attached to φ: finite where x is rounded to 0 or 1."""
        return self._logit(Size(sample_shape), generator).to(self.concentration1.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            ends = ((value == 0) & (self.concentration1 < 1)) | ((value == 1) & (self.concentration0 < 1))
            refuse_infinite("Beta", ends, self.concentration1.dtype, "logit")
        result: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return result

    def log_prob_of_logit(self, logit: Tensor) -> Tensor:
        """log p(x) of the point x = sigmoid(logit), as `log_prob`, also where x is rounded to 0 or 1."""
        a, b = self.concentration1, self.concentration0
        powers = (a - 1) * F.logsigmoid(logit) + (b - 1) * F.logsigmoid(-logit)
        result: Tensor = powers + (a + b).lgamma() - a.lgamma() - b.lgamma()
        return result

    def _logit(self, shape: Size, generator: Generator | None) -> Tensor:
        """In float64."""
        log_one = log_gamma("Beta", self.concentration1, shape, generator)
        return log_one - log_gamma("Beta", self.concentration0, shape, generator)
