"""MuProp: the cost's first-order expansion at the mean as a control variate.

Source: Gu, Levine, Sutskever and Mnih (2016), "MuProp: Unbiased backpropagation for stochastic neural networks".
Differences from the paper: the coefficient weighs the linear term only, and may be learned; the paper's further learned
baseline and the division by a running deviation are left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, average
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.slopes import value_and_slopes
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import surrogate, train, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class MuProp(Estimator[Bernoullis | OneHots, Draw]):
    r"""Subtracts the cost's tangent at the mean, whose expectation is known, and weighs the score with the rest.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i (f(x_i) - h(x_i))\,\nabla_\phi \log p_\phi(x_i)
            + a\,\nabla f(\mu)^\top \nabla_\phi \mu,
            \qquad h(x) = f(\mu) + a\,\nabla f(\mu)^\top (x - \mu), \quad \mu = \mathbb{E}_{p_\phi}[x]

    Unbiased for every a. f must be defined and differentiable at the mean, which lies between the discrete points. k + 1
    evaluations of f and one backward pass through it, however large k is.

    Args:
        samples: k, at least 1.
        coefficient: a, finite; 0 leaves f(μ) as a constant baseline, 1 is the paper's.
        learn: whether a is trained, from `coefficient` on, on the estimator's own variance.

    Raises:
        ValueError: for a number of samples below 1, a coefficient that is not finite, and when `combine` is not given
            f.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.MuProp(samples=2)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "relaxed"
    calls_f = True
    source = cited("gu2016muprop")

    coefficient: float | nn.Parameter

    def __init__(self, samples: int = 1, *, coefficient: float = 1.0, learn: bool = False) -> None:
        super().__init__()
        checks.samples("MuProp", samples)
        if not math.isfinite(coefficient):
            raise ValueError(f"MuProp needs a finite coefficient; got {coefficient}.")
        self.samples = samples
        self.coefficient = nn.Parameter(torch.tensor(float(coefficient))) if learn else coefficient
        self.learn = learn

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        return self.draws + 1, 1

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        mean = variables.probs.detach().to(variables.dtype).unsqueeze(0)
        at_mean, slopes = value_and_slopes(costs.f, mean, variables.logits.dtype)
        slope = slopes.squeeze(0)  # [*batch, *event]
        score = variables.score(draw.points)
        linear = variables.sum(slope * score)  # [k, *batch]; x - μ is the score by the logits
        # The gradient is affine in the coefficient: what it is at 0, and what each unit adds.
        fixed = average(unsqueeze_to(costs.fixed - at_mean, score.dim()) * score, costs.keep)
        added = variables.through_mean(slope) - average(unsqueeze_to(linear, score.dim()) * score, costs.keep)
        gradient = fixed + self.coefficient * added
        result = surrogate(self.name, costs.mean(), (variables.logits,), (gradient.detach(),))
        if self.training and self.learn:
            result = train(result, variables.sum(gradient.square()))
        return result
