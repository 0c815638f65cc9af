"""Stochastic gates: a clipped Gaussian in place of a bit.

Source: [yamada2020feature]. Differences from the paper: there x = clip(μ + σε) with μ free and σ = 1/2. Here σ = 1/τ,
and μ is set from the logits so that rounding the gate gives p_φ.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, probit, tempered
from sampleprop.families import Bernoullis


class GaussianRelaxedBernoulli(Tempered[Bernoullis]):
    r"""Relaxes a bit to a gate that is often exactly 0 or 1: a clipped Gaussian.

    .. math::

        x_i = \min\Big(1, \max\Big(0, \frac12 + \frac{\Phi^{-1}(p) + \varepsilon_i}{\tau}\Big)\Big), \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    ε is standard normal. Rounding x gives an exact sample of p_φ, but x is not one: P(x > 0) = Φ(Φ⁻¹(p) + τ/2), which
    is above p. The L0 penalty of the relaxed gates is the sum of P(x > 0), and that of the discrete ones the sum of p.

    Unbiased for the relaxed problem E[f(x)]. Its value and its gradients, for θ too, are not those of L. They tend to
    those of L as τ → 0, while the variance grows. A clipped gate has no gradient. f must be defined and differentiable
    between 0 and 1. k evaluations of f and k backward passes. Bernoulli variables only.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0, one over the paper's σ; a buffer, which :class:`ExponentialTemperature` can lower
            during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for p = Φ(m), m = 1/2, τ = 2 and ε = (0, 3): x = 1/2 + (m + ε) / τ = (3/4, 9/4), clipped to (3/4, 1), and
    dx/dm = (1/2, 0). With f = 4x², the value is the mean of (9/4, 4), and the gradient is that of 8x dx/dm = (3, 0):

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> m = torch.tensor(0.5, requires_grad=True)
        >>> q = torch.distributions.Bernoulli(probs=torch.special.ndtr(m))
        >>> estimator = sp.GaussianRelaxedBernoulli(2)
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([0.0, 3.0])))
        >>> loss = estimator.combine(q, draw, 4 * draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), m.grad
        (tensor(3.1250), tensor(1.5000))
    """

    exact_forward = False
    needs = "relaxed"
    family = "relaxations"
    source = cited("yamada2020feature")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 2.0,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)

    def points(self, variables: Bernoullis, generator: Generator | None) -> Tensor:
        shape = (self.draws, *variables.logits.shape)
        return self.points_from(variables, noise.normal(shape, variables.logits, generator))

    def points_from(self, variables: Bernoullis, epsilon: Tensor) -> Tensor:
        """The gates for this noise, [k, *batch, *event]."""
        return tempered(probit(variables.logits) + self.temperature / 2, epsilon, self.temperature).clamp(0, 1)
