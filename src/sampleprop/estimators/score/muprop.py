"""MuProp: the cost's first-order expansion at the mean as a control variate.

Source: Gu, Levine, Sutskever and Mnih (2016), "MuProp: Unbiased backpropagation for stochastic neural networks".
Differences from the paper: the coefficient weighs the linear term only, and may be learned; the paper's further learned
baseline and the division by a running deviation are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.score.slopes import value_and_slopes
from sampleprop.surrogate import surrogate, train, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class MuProp(Estimator[Draw]):
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
    families = (families.Bernoullis, families.OneHots)
    source = Source(
        key="gu2016muprop",
        authors="Shixiang Gu and Sergey Levine and Ilya Sutskever and Andriy Mnih",
        year=2016,
        title="MuProp: Unbiased backpropagation for stochastic neural networks",
        venue="International Conference on Learning Representations",
        arxiv="1511.05176",
    )

    coefficient: float | nn.Parameter

    def __init__(self, samples: int = 1, *, coefficient: float = 1.0, learn: bool = False) -> None:
        super().__init__()
        checks.samples("MuProp", samples)
        if not math.isfinite(coefficient):
            raise ValueError(f"MuProp needs a finite coefficient; got {coefficient}.")
        self.samples = samples
        self.coefficient = nn.Parameter(torch.tensor(float(coefficient))) if learn else coefficient
        self.learn = learn

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return self.draws + 1, 1

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        return Draw(families.variables(dist).sample(self.draws, generator))

    def combine(
        self,
        dist: Distribution,
        draw: Draw,
        costs: Tensor,
        *,
        probe_costs: Tensor | None = None,
        relaxed_f: F | None = None,
        context: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        costs = checks.costs(self.name, dist, draw.points, costs, keep)
        variables = families.variables(dist)
        mean = variables.probs.detach().to(variables.dtype).unsqueeze(0)
        at_mean, slopes = value_and_slopes(self.name, relaxed_f, mean, variables.logits.dtype)
        slope = slopes.squeeze(0)  # [*batch, *event]
        score = variables.score(draw.points)
        linear = variables.sum(slope * score)  # [k, *batch]; x - μ is the score by the logits
        # The gradient is affine in the coefficient: what it is at 0, and what each unit adds.
        fixed = average(unsqueeze_to(costs.detach() - at_mean, score.dim()) * score, keep)
        added = variables.through_mean(slope) - average(unsqueeze_to(linear, score.dim()) * score, keep)
        gradient = fixed + self.coefficient * added
        result = surrogate(self.name, average(costs, keep), (variables.logits,), (gradient.detach(),))
        if self.training and self.learn:
            result = train(result, variables.sum(gradient.square()))
        return result

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(), cls(2, learn=True))

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, x = 1, f(x) = x² + 2: f(1/2) = 9/4 with slope 1, so h(1) = 9/4 + 1/2 and f(1) - h(1) = 1/4; the score
        # is 1/2, the mean's derivative 1/4: 1/4 * 1/2 + 1 * 1/4.
        return Worked(
            estimator=cls(),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0], dtype=torch.float64)),
            f=lambda x: x.square() + 2,
            value=torch.tensor(3.0, dtype=torch.float64),
            gradient=torch.tensor(0.375, dtype=torch.float64),
        )
