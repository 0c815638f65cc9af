"""Hard concrete gates.

Source: Louizos, Welling and Kingma (2018), "Learning sparse neural networks through L0 regularization", eqs. 10 and 11.
Differences from the paper: for limits that are not symmetric about 1/2 the logits are shifted, so that rounding the gate
gives p_φ; for the paper's limits there is no shift.
"""

from __future__ import annotations

import math

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, perturbation
from sampleprop.families import Bernoullis, Discrete


class HardConcrete(Relaxation[Bernoullis]):
    r"""Relaxes a bit to a gate that is often exactly 0 or 1: a stretched and clipped binary Gumbel-softmax.

    .. math::

        s_i = \sigma((\phi + \ell_i)/\tau), \qquad x_i = \min(1, \max(0, s_i (\zeta - \gamma) + \gamma)), \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    with logistic noise ℓ. Rounding x gives an exact sample of p_φ, but x is not one: for limits symmetric about 1/2,
    P(x > 0) = σ(φ - τ log(-γ/ζ)), which is above p. That is the L0 penalty of the relaxed gates; the penalty of the
    discrete ones is the sum of p.
    Unbiased for the relaxed problem E[f(x)], whose value and gradient (for θ too) are not those of L; both tend to
    them as τ → 0, while the variance grows. A clipped gate has no gradient. f must be defined and differentiable
    between 0 and 1. k evaluations of f and k backward passes. Bernoulli variables only.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower in the course of training.
        gamma: γ, the lower limit of the stretched variable, below 0.
        zeta: ζ, the upper limit, above 1.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range; the limits must enclose [0, 1].
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.HardConcrete(4)).backward()
    """

    exact_forward = False
    needs = "relaxed"
    source = cited("louizos2018learning", "eqs. 10 and 11")
    temperature: Tensor

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        allow_unused: bool = False,
    ) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})
        if not -math.inf < gamma < 0 or not 1 < zeta < math.inf:
            raise ValueError(
                f"HardConcrete needs limits around [0, 1], gamma below 0 and zeta above 1; got {gamma} and {zeta}."
            )
        self.gamma = gamma
        self.zeta = zeta

    def points(self, variables: Bernoullis, generator: Generator | None) -> Tensor:
        noise = perturbation(variables, self.draws, generator)
        return _gates(variables, noise, self.temperature, self.gamma, self.zeta)


def _gates(variables: Discrete, noise: Tensor, temperature: Tensor, gamma: float, zeta: float) -> Tensor:
    # The stretched variable is above 1/2 where logits + noise > 0.
    middle = math.log((0.5 - gamma) / (zeta - 0.5))
    soft = ((variables.logits + noise) / temperature + middle).sigmoid()
    return (soft * (zeta - gamma) + gamma).clamp(0, 1)
