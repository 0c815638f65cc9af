"""RODEO: leave-one-out with two control variates made by a discrete Stein operator.

Source: Shi, Zhou, Hwang, Titsias and Mackey (2022), "Gradient estimation with discrete Stein operators", with the Gibbs
operator.
Differences from the paper: the operator sums over the variables where the paper's averages, so that good coefficients do
not grow with their number; the learned H starts at the tangent; categorical variables are resampled one at a time.
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
from sampleprop.families import Bernoullis, Discrete, OneHots
from sampleprop.surrogate import surrogate, train, unsqueeze_to

HIDDEN = 8


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class RODEO(Estimator[Bernoullis | OneHots, Draw]):
    r"""Corrects the score function and its leave-one-out baseline by functions whose mean is zero, however they are learned.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \Bigl[\Bigl(f(x_i)
            - \frac{1}{k-1} \sum_{j \ne i} \bigl(f(x_j) + \alpha (A h_j)(x_j)\bigr)\Bigr) s(x_i)
            + \beta\, (A (h_i s))(x_i)\Bigr], \qquad s = \nabla_\phi \log p_\phi

        (A h)(x) = \sum_v \mathbb{E}\bigl[h(x \text{ with } x_v \text{ drawn anew})\bigr] - h(x), \qquad
            h_i(y) = \frac{1}{k-1} \sum_{j \ne i} H\bigl(f(x_j), \nabla f(x_j)^\top (y - x_j)\bigr)

    :math:`\mathbb{E}[A h] = 0` for every h, so the estimator is unbiased for all α, β and H(f, t) = t + network(f, t), which
    start at 1/4, 1/4 and t, and are trained on its own variance. f must be differentiable at the discrete points; how it
    continues between them does not matter. 2 k evaluations of f (k of them for its derivative by x, without gradient for θ), k
    backward passes through it, and k (k - 1) (D + 1) evaluations of the tiny network for D logits.

    Args:
        samples: k, at least 2.

    Raises:
        ValueError: for a number of samples below 2, and when `combine` is not given f.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> estimator = sp.RODEO(samples=2)
        >>> optimizer = torch.optim.Adam(estimator.parameters(), lr=1e-3)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, estimator).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    calls_f = True
    whole = True
    source = cited("shi2022gradient")

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("RODEO", samples, least=2)
        self.samples = samples
        self.alpha = nn.Parameter(torch.tensor(0.25))
        self.beta = nn.Parameter(torch.tensor(0.25))
        last = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # A piecewise linear unit: what H adds then scales with f, whose scale is not known.
        self.network = nn.Sequential(nn.Linear(2, HIDDEN), nn.LeakyReLU(), last)

    @property
    def samples_least(self) -> int:
        return 2

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        return 2 * self.draws, self.draws

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        _, slopes = value_and_slopes(costs.f, draw.points, variables.logits.dtype)  # [k, *batch, *event]
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            gradient = self._gradient(variables, draw.points, costs.fixed, slopes)
        result = surrogate(self.name, costs.points.mean(0), (variables.logits,), (gradient.detach(),))
        return train(result, variables.sum(gradient.square())) if self.training else result

    def _gradient(self, variables: Discrete, points: Tensor, costs: Tensor, slopes: Tensor) -> Tensor:
        """The estimate of ∇_φ L, [*batch, *event], attached to α, β and H."""
        score = variables.score(points)
        here, changed = self._surrogate_costs(variables, points, costs, slopes)
        if isinstance(variables, Bernoullis):
            # A bit is redrawn as the other one with probability |x - p|, and |x - p| (1 - 2 x) is minus the score.
            stein = variables.sum(score.abs() * (changed - unsqueeze_to(here, score.dim())))  # [k, *batch]
            vector = (unsqueeze_to(stein, score.dim()) - changed) * score
        else:
            weighed = variables.probs.detach() * changed
            resampled = weighed.sum(-1, keepdim=True)  # [k, *batch, *variables, 1]
            stein = variables.sum(resampled - unsqueeze_to(here, score.dim()))  # [k, *batch]
            vector = unsqueeze_to(stein, score.dim()) * score + weighed - resampled * points
        advantage = unsqueeze_to(costs - others(costs + self.alpha * stein), score.dim())  # [k, *batch, 1...]
        gradient: Tensor = (advantage * score + self.beta * vector).mean(0)
        return gradient

    def _surrogate_costs(
        self, variables: Discrete, points: Tensor, costs: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """h_i at x_i, [k, *batch], and at x_i with one variable changed, [k, *batch, *event]: to 1 - x, or to each class."""
        k = points.shape[0]
        order = torch.arange(k, device=points.device)
        column = order[:-1].expand(k, -1)
        index = column + (column >= order.unsqueeze(1))  # [k, k - 1]: row i holds the samples but i
        own, others = points.unsqueeze(1), points[index]  # [k, 1, *batch, *event] and [k, k - 1, *batch, *event]
        slope, cost = slopes[index], costs[index]
        tangent = variables.sum(slope * (own - others))  # [k, k - 1, *batch]
        if isinstance(variables, Bernoullis):
            step = slope * (1 - 2 * own)
        else:
            step = slope - (slope * own).sum(-1, keepdim=True)
        changed = self._h(unsqueeze_to(cost, step.dim()), unsqueeze_to(tangent, step.dim()) + step)
        return self._h(cost, tangent).mean(1), changed.mean(1)

    def _h(self, cost: Tensor, tangent: Tensor) -> Tensor:
        inputs = torch.stack((cost.expand_as(tangent), tangent), -1).to(self.alpha.dtype)
        learned: Tensor = self.network(inputs).squeeze(-1)
        return tangent + learned.to(tangent.dtype)
