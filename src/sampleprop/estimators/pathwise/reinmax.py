"""ReinMax: straight-through of second order.

Source: Liu, Dong, Liu, Yu and Gao (2023), "Bridging discrete and backpropagation: straight-through and beyond", alg. 2.
Differences from the paper: Bernoulli variables too, as the two-class case.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Relaxation, soften, straight_through
from sampleprop.families import Bernoullis, Discrete, OneHots


class ReinMax(Relaxation[Bernoullis | OneHots]):
    r"""Straight-through with a derivative taken halfway between the sample and its mean, after Heun's method.

    .. math::

        x_i \sim p_\phi, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \big(2 J(\tfrac12 (x_i + \pi_\tau)) - \tfrac12 J(\pi)\big) \nabla_x f(x_i),
            \qquad J(\pi) = \operatorname{diag}(\pi) - \pi \pi^T

    with :math:`\pi_\tau = \operatorname{softmax}(\phi/\tau)`. Biased, except at τ = 1 for f that is quadratic in each
    variable while the others are fixed: then unbiased. The value and the gradient for θ are exact in the mean. f must
    be differentiable at the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        temperature: τ, above 0, the paper advises 1 or more; a buffer, which :class:`ExponentialTemperature` can
            lower in the course of training.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.ReinMax()).item()
        1.0
    """

    exact_forward = True
    needs = "differentiable"
    source = cited("liu2023bridging", "alg. 2")
    temperature: Tensor

    def __init__(self, samples: int | None = 1, *, temperature: float = 1.0, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused, {"temperature": temperature})

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        hard = variables.sample(self.draws, generator)
        return _through(variables, hard, self.temperature)


def _through(variables: Discrete, hard: Tensor, temperature: Tensor) -> Tensor:
    logits = variables.logits
    halfway = (hard + soften(variables, logits.detach() / temperature)) / 2
    scores = torch.logit(halfway) if isinstance(variables, Bernoullis) else halfway.log()
    # The soft point halfway has J(halfway) for a derivative. Where scores or logits are infinite, so that halfway is
    # 0 or 1, the logits give the same point without ∞ - ∞.
    shift = (scores - logits.detach()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return straight_through(hard.to(logits.dtype), 2 * soften(variables, logits + shift) - variables.probs / 2)
