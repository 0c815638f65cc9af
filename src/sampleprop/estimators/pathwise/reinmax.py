"""ReinMax: straight-through of second order.

Source: [liu2023bridging], alg. 2. Differences from the paper: Bernoulli variables too, as the two-class case.
"""

from __future__ import annotations

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.relaxed.relaxation import Tempered, soften, through_softmax
from sampleprop.families import Bernoullis, OneHots


class ReinMax(Tempered[Bernoullis | OneHots]):
    r"""Straight-through with a derivative taken halfway between the sample and its mean, after Heun's method.

    .. math::

        x_i \sim p_\phi, \qquad
        \nabla_\phi L \approx \frac1k \sum_i \big(2 J(\tfrac12 (x_i + \pi_\tau)) - \tfrac12 J(\pi)\big) \nabla_x f(x_i),
            \qquad J(\pi) = \operatorname{diag}(\pi) - \pi \pi^T

    with :math:`\pi_\tau = \operatorname{softmax}(\phi/\tau)`. Biased, except at τ = 1 for f that is quadratic in each
    variable while the others are fixed: then it is unbiased. The value and the gradient for θ are exact in the mean. f
    must be differentiable at the discrete points. k evaluations of f and k backward passes.

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        temperature: τ, above 0; the paper advises 1 or more. It is a buffer, which :class:`ExponentialTemperature` can
            lower during a training.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for arguments out of range.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for p = 1/2 and the samples x = (1, 0). The points halfway are h = (3/4, 1/4), with J(h) = h (1 - h) = 3/16
    at both, so dx/dφ is 2 · 3/16 - 1/2 · 1/4 = 1/4. With f = x² the value is the mean of (1, 0), and the gradient is
    the mean of 2x/4 = (1/2, 0):

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.through_points import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.ReinMax(2)
        >>> draw = Draw(estimator.points_from(sp.families.recognize(q), torch.tensor([1.0, 0.0])))
        >>> loss = estimator.combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(0.5000), tensor(0.2500))
    """

    exact_forward = True
    needs = "differentiable"
    once = True
    family = "straight-through"
    source = cited("liu2023bridging", "alg. 2")

    def __init__(
        self,
        samples: int | None = 1,
        *,
        temperature: float = 1.0,
        allow_unused: bool = False,
        allow_steps: bool = False,
    ) -> None:
        super().__init__(samples, temperature=temperature, allow_unused=allow_unused, allow_steps=allow_steps)

    def points(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Tensor:
        return self.points_from(variables, variables.sample(self.draws, generator))

    def points_from(self, variables: Bernoullis | OneHots, hard: Tensor) -> Tensor:
        """These samples, with the derivative 2 J((hard + π_τ) / 2) - J(π) / 2 with respect to the logits."""
        halfway = (hard + soften(variables, variables.logits.detach() / self.temperature)) / 2
        return through_softmax(self.name, variables, hard, (2.0, halfway), (-0.5, variables.fixed_probs))
