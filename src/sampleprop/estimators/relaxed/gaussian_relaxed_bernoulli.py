"""Stochastic gates: a clipped Gaussian in place of a bit.

Source: Yamada, Lindenbaum, Negahban and Kluger (2020), "Feature selection using stochastic gates".
Differences from the paper: there x = clip(μ + σε) with μ free and σ = 1/2; here σ = 1/τ, and μ is set from the logits so
that rounding the gate gives p_φ.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop import noise
from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, probit
from sampleprop.families import Bernoullis, Discrete


class GaussianRelaxedBernoulli(Relaxation[Bernoullis]):
    r"""Relaxes a bit to a gate that is often exactly 0 or 1: a clipped Gaussian.

    .. math::

        x_i = \min\Big(1, \max\Big(0, \frac12 + \frac{\Phi^{-1}(p) + \varepsilon_i}{\tau}\Big)\Big), \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    with standard normal ε. Rounding x gives an exact sample of p_φ, but x is not one: P(x > 0) = Φ(Φ⁻¹(p) + τ/2), which
    is above p. That is the L0 penalty of the relaxed gates; the penalty of the discrete ones is the sum of p.
    Unbiased for the relaxed problem E[f(x)], whose value and gradient (for θ too) are not those of L; both tend to
    them as τ → 0, while the variance grows. A clipped gate has no gradient. f must be defined and differentiable
    between 0 and 1. k evaluations of f and k backward passes. Bernoulli variables only.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0, one over the paper's σ; a buffer, which :class:`ExponentialTemperature` can lower in
            the course of training.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.GaussianRelaxedBernoulli(4)).backward()
    """

    exact_forward = False
    needs = "relaxed"
    source = cited("yamada2020feature")
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 2.0, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def points(self, variables: Bernoullis, generator: Generator | None) -> Tensor:
        epsilon = noise.normal((self.draws, *variables.logits.shape), variables.logits, generator)
        return _gates(variables, epsilon, self.temperature)


def _gates(variables: Discrete, epsilon: Tensor, temperature: Tensor) -> Tensor:
    return (0.5 + (probit(variables.logits) + epsilon) / temperature).clamp(0, 1)
