"""Double control variates: leave-one-out, improved by the gradients of f at the other samples.

Source: Titsias and Shi (2022), "Double control variates for gradient estimation in discrete latent variable models",
sec. 3.
Differences from the paper: the correction is subtracted, so that a good coefficient is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, others
from sampleprop.estimators.score.slopes import value_and_slopes
from sampleprop.surrogate import surrogate, train, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class DoubleCV(Estimator[Draw]):
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
    families = (families.Bernoullis, families.OneHots)
    source = Source(
        key="titsias2022double",
        authors="Michalis K. Titsias and Jiaxin Shi",
        year=2022,
        title="Double control variates for gradient estimation in discrete latent variable models",
        venue="International Conference on Artificial Intelligence and Statistics",
        arxiv="2111.05300",
        where="sec. 3",
    )

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("DoubleCV", samples, least=2)
        self.samples = samples
        self.coefficient = nn.Parameter(torch.tensor(0.5))

    @property
    def samples_least(self) -> int:
        return 2

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return 2 * self.draws, self.draws

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
        checks.whole(self.name, keep)
        variables = families.variables(dist)
        _, slopes = value_and_slopes(self.name, relaxed_f, draw.points, variables.logits.dtype)  # [k, *batch, *event]
        score = variables.score(draw.points)
        tangents = variables.sum(others(slopes) * score)  # [k, *batch]; x - μ is the score by the logits
        fixed = _weighed_mean(costs.detach(), score)
        added = variables.through_mean(slopes.mean(0)) - _weighed_mean(tangents, score)
        gradient = fixed + self.coefficient * added
        result = surrogate(self.name, costs.mean(0), (variables.logits,), (gradient.detach(),))
        return train(result, variables.sum(gradient.square())) if self.training else result

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(), cls(4))

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, x = (1, 0), f(x) = x² + x: costs (2, 0), slopes (3, 1), so the tangents at x - μ = ±1/2 are 1 * 1/2 and
        # 3 * -1/2, and h = (2 - 1/4, 0 + 3/4). Scores ±1/2 weighed by ±(7/4 - 3/4) give 1/2; the mean's part adds
        # 1/2 * 2 * 1/4.
        return Worked(
            estimator=cls(),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0, 0.0], dtype=torch.float64)),
            f=lambda x: x.square() + x,
            value=torch.tensor(1.0, dtype=torch.float64),
            gradient=torch.tensor(0.75, dtype=torch.float64),
        )


def _weighed_mean(weights: Tensor, score: Tensor) -> Tensor:
    """The mean score, weighed by how much each weight exceeds the mean of the others."""
    return (unsqueeze_to(weights - others(weights), score.dim()) * score).mean(0)
