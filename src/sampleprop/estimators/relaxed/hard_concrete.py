"""Hard concrete gates.

Source: [louizos2018learning], eqs. 10 and 11. Differences from the paper: for limits that are not symmetric about 1/2
the logits are shifted, so that rounding the gate gives p_φ. For the paper's limits there is no shift.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, perturbation
from sampleprop.families import Bernoullis


class HardConcrete(Tempered[Bernoullis]):
    r"""Relaxes a bit to a gate that is often exactly 0 or 1: a stretched and clipped binary Gumbel-softmax.

    .. math::

        s_i = \sigma((\phi + \ell_i)/\tau), \qquad x_i = \min(1, \max(0, s_i (\zeta - \gamma) + \gamma)), \qquad
        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(x_i)

    ℓ is logistic noise. Rounding x gives an exact sample of p_φ, but x is not one. For limits symmetric about 1/2,
    P(x > 0) = σ(φ - τ log(-γ/ζ)), which is above p. The L0 penalty of the relaxed gates is the sum of P(x > 0), and
    that of the discrete ones the sum of p.

    Unbiased for the relaxed problem E[f(x)]. Its value and its gradients, for θ too, are not those of L. They tend to
    those of L as τ → 0, while the variance grows. A clipped gate has no gradient. f must be defined and differentiable
    between 0 and 1. k evaluations of f and k backward passes. Bernoulli variables only.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; a buffer, which :class:`ExponentialTemperature` can lower during a training.
        gamma: γ, the lower limit of the stretched variable, below 0.
        zeta: ζ, the upper limit, above 1.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range; the limits must enclose [0, 1].
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for φ = 0, τ = 1/2, limits -1/4 and 5/4 and the noise (0, ∞): s = (1/2, 1), stretched and clipped to
    x = (1/2, 1), with dx/dφ = 3/2 s (1 - s) / τ = (3/4, 0). With f = x², the value is the mean of (1/4, 1), and the
    gradient is the mean of 2x dx/dφ = (3/4, 0):

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.relaxed.relaxation import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.HardConcrete(2, temperature=0.5, gamma=-0.25, zeta=1.25)
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([0.0, torch.inf])))
        >>> loss = estimator.combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(0.6250), tensor(0.3750))
    """

    exact_forward = False
    needs = "relaxed"
    family = "relaxations"
    source = cited("louizos2018learning", "eqs. 10 and 11")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)
        if not -math.inf < gamma < 0 or not 1 < zeta < math.inf:
            raise ValueError(
                f"HardConcrete needs limits around [0, 1], gamma below 0 and zeta above 1; got {gamma} and {zeta}."
            )
        self.gamma = gamma
        self.zeta = zeta

    def points(self, variables: Bernoullis, generator: Generator | None) -> Tensor:
        return self.points_from(variables, perturbation(variables, self.draws, generator))

    def points_from(self, variables: Bernoullis, noise: Tensor) -> Tensor:
        """The gates for this noise, [k, *batch, *event]."""
        # The stretched variable is above 1/2 where logits + noise > 0. The shift is 0 for symmetric limits.
        middle = math.log1p((1 - self.gamma - self.zeta) / (self.zeta - 0.5))
        scores = (variables.logits + noise) / self.temperature
        soft = (scores + middle if middle else scores).sigmoid()
        return torch.add(soft.new_full((), self.gamma), soft, alpha=self.zeta - self.gamma).clamp(0, 1)
