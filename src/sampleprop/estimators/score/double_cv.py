"""Double control variates: leave-one-out, improved by the gradients of f at the other samples.

Source: Titsias and Shi (2022), "Double control variates for gradient estimation in discrete latent variable models",
sec. 3.
Differences from the paper: the correction is subtracted, so that a good coefficient is positive.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, others
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.slopes import value_and_slopes
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import surrogate, train, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class DoubleCV(Estimator[Bernoullis | OneHots, Draw]):
    r"""Corrects each cost, and each cost in its leave-one-out baseline, by a tangent taken from the other samples.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \Bigl(h_i - \frac{1}{k-1} \sum_{j \ne i} h_j\Bigr) \nabla_\phi \log p_\phi(x_i)
            + a\,\frac1k \sum_i \nabla f(x_i)^\top \nabla_\phi \mu,
            \qquad h_i = f(x_i) - a \Bigl(\frac{1}{k-1} \sum_{j \ne i} \nabla f(x_j)\Bigr)^\top (x_i - \mu)

    with :math:`\mu = \mathbb{E}_{p_\phi}[x]`. Unbiased for every a, which starts at 1/2 and is trained on the estimator's
    own variance. f must be differentiable at the discrete points; how it continues between them does not matter. 2 k
    evaluations of f (k of them for its derivative by x, without gradient for θ) and k backward passes through it.

    Args:
        samples: k, at least 2.

    Raises:
        ValueError: for a number of samples below 2, and when `combine` is not given f.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> estimator = sp.DoubleCV(samples=2)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, estimator).backward()
        >>> estimator.learns
        ('coefficient',)
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    calls_f = True
    whole = True
    source = cited("titsias2022double", "sec. 3")

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("DoubleCV", samples, least=2)
        self.samples = samples
        self.coefficient = nn.Parameter(torch.tensor(0.5))

    @property
    def samples_least(self) -> int:
        return 2

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        return 2 * self.draws, self.draws

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        _, slopes = value_and_slopes(costs.f, draw.points, variables.logits.dtype)  # [k, *batch, *event]
        score = variables.score(draw.points)
        tangents = variables.sum(others(slopes) * score)  # [k, *batch]; x - μ is the score by the logits
        fixed = _weighed_mean(costs.fixed, score)
        added = variables.through_mean(slopes.mean(0)) - _weighed_mean(tangents, score)
        gradient = fixed + self.coefficient * added
        result = surrogate(self.name, costs.points.mean(0), (variables.logits,), (gradient.detach(),))
        return train(result, variables.sum(gradient.square())) if self.training else result


def _weighed_mean(weights: Tensor, score: Tensor) -> Tensor:
    """The mean score, weighed by how much each weight exceeds the mean of the others."""
    return (unsqueeze_to(weights - others(weights), score.dim()) * score).mean(0)
