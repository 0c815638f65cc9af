"""RODEO: leave-one-out with two control variates made by a discrete Stein operator.

Source: [shi2022gradient], with the Gibbs operator. Differences from the paper: the operator sums over the variables
where the paper's averages, so that good coefficients do not grow with their number; the learned H starts at the
tangent; categorical variables are drawn anew one at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, others
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.control_variates import value_and_derivative
from sampleprop.families import Bernoullis, OneHots
from sampleprop.surrogate import surrogate, train, unsqueeze_to

HIDDEN = 8  # units of the network


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class RODEO(Estimator[Bernoullis | OneHots, Draw]):
    r"""Corrects the score function and its leave-one-out baseline by learned functions whose mean is always zero.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \Bigl[\Bigl(f(x_i)
            - \frac{1}{k-1} \sum_{j \ne i} \bigl(f(x_j) + \alpha (A h_j)(x_j)\bigr)\Bigr) s(x_i)
            + \beta\, (A (h_i s))(x_i)\Bigr]

        s = \nabla_\phi \log p_\phi, \qquad
            (A h)(x) = \sum_v \mathbb{E}\bigl[h(x \text{ with } x_v \text{ drawn anew})\bigr] - h(x)

        h_i(y) = \frac{1}{k-1} \sum_{j \ne i} H\bigl(f(x_j), \nabla f(x_j)^\top (y - x_j)\bigr)

    Unbiased for all α, β and H, because :math:`\mathbb{E}[A h] = 0` for every h. H(f, t) = t + network(f, t). α, β
    and the network start at 0, where this is the score function with its leave-one-out baseline, and all are trained to
    minimize the variance of the gradient.

    f must be differentiable at the discrete points; how it continues between them does not matter. 2 k evaluations of f
    (k of them for its derivative with respect to x, without gradient for θ), k backward passes through it, and
    k (k - 1) (D + 1) evaluations of the tiny network for D logits.

    Args:
        samples: k, at least 2.
        allow_steps: accept a cost with a step (round, sign) between the outcomes. The derivative ignores the step. The
            control variate is then worse, but the gradient stays unbiased.

    Raises:
        ValueError: for fewer samples than 2, and by `combine` without f.
        RuntimeError: for a cost with no path to x, and with a step on it, unless `allow_steps`.

    Example, for α = β = 1/4, p = 1/2, x = (1, 0) and f = x² + x, with costs (2, 0) and derivatives (3, 1). While H is
    the tangent, h₁(1) = 1, h₁(0) = 0, h₂(0) = -3 and h₂(1) = 0. A draws the bit anew: (A h₁)(1) = -1/2,
    (A h₂)(0) = 3/2, (A (h₁ s))(1) = 1/4 - 1/2 and (A (h₂ s))(0) = 3/4 - 3/2. The two terms are
    (2 - 3/8) · 1/2 - 1/16 = 3/4 and (0 - 2 + 1/8) · (-1/2) - 3/16 = 3/4:

        >>> import torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> draw = Draw(torch.tensor([1.0, 0.0]))
        >>> f = lambda x: x.square() + x
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.RODEO()
        >>> _ = [torch.nn.init.constant_(number, 0.25) for number in (estimator.alpha, estimator.beta)]
        >>> loss = estimator.combine(q, draw, f(draw.points), relaxed_f=f)
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(1.), tensor(0.7500))
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    family = "control variates"
    calls_f = True
    samples_least = 2
    source = cited("shi2022gradient")

    def __init__(self, samples: int = 2, *, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples("RODEO", samples, least=2)
        self.samples = samples
        self.allow_steps = allow_steps
        self.alpha = nn.Parameter(torch.tensor(0.0))
        self.beta = nn.Parameter(torch.tensor(0.0))
        last = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # The unit is piecewise linear, so that what H adds scales with f, whose scale is not known.
        self.network = nn.Sequential(nn.Linear(2, HIDDEN), nn.LeakyReLU(), last)

    def calls(self, variables: Bernoullis | OneHots) -> tuple[int, int]:
        return 2 * self.draws, self.draws

    def draw(self, variables: Bernoullis | OneHots, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis | OneHots, draw: Draw, costs: Costs) -> Tensor:
        _, derivatives = value_and_derivative(costs.f, draw.points, variables.logits.dtype)  # [k, *batch, *event]
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            gradient = self._gradient(variables, draw.points, costs.fixed, derivatives)
        result = surrogate(self.name, costs.mean(), (variables.logits,), (gradient.detach(),))
        return train(result, variables.sum(gradient.square())) if self.training else result

    def _gradient(self, variables: Bernoullis | OneHots, points: Tensor, costs: Tensor, derivatives: Tensor) -> Tensor:
        """Return the estimate of ∇_φ L, [*batch, *event], attached to α, β and H."""
        score = variables.score(points)
        h, changed = self._h(variables, points, costs, derivatives)
        if isinstance(variables, Bernoullis):
            # A bit is redrawn as the other one with probability |x - p|, and |x - p| (1 - 2 x) is minus the score.
            stein = variables.sum(score.abs() * (changed - unsqueeze_to(h, score.dim())))  # [k, *batch]
            vector = (unsqueeze_to(stein, score.dim()) - changed) * score
        else:
            weighted = variables.fixed_probs * changed
            redrawn = weighted.sum(-1, keepdim=True)  # [k, *batch, *variables, 1]
            stein = variables.sum(redrawn - unsqueeze_to(h, score.dim()))  # [k, *batch]
            vector = unsqueeze_to(stein, score.dim()) * score + weighted - redrawn * points
        costs = costs - costs[:1]  # differences are small numbers, and lose no digits to what all costs share
        advantage = unsqueeze_to(costs - others(costs + self.alpha * stein), score.dim())  # [k, *batch, 1...]
        gradient: Tensor = (advantage * score + self.beta * vector).mean(0)
        return gradient

    def _h(
        self, variables: Bernoullis | OneHots, points: Tensor, costs: Tensor, derivatives: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return h_i at x_i, [k, *batch], and with one variable changed to 1 - x or each class, [k, *batch, *event]."""
        k = points.shape[0]
        order = torch.arange(k, device=points.device)
        column = order[:-1].expand(k, -1)
        index = column + (column >= order.unsqueeze(1))  # [k, k - 1]: row i holds the samples but i
        own = points.unsqueeze(1)  # [k, 1, *batch, *event]
        derivative, cost = derivatives[index], costs[index]
        tangent = variables.sum(derivative * (own - points[index]))  # [k, k - 1, *batch]
        if isinstance(variables, Bernoullis):
            step = derivative * (1 - 2 * own)
        else:
            step = derivative - (derivative * own).sum(-1, keepdim=True)
        changed = self._learned(unsqueeze_to(cost, step.dim()), unsqueeze_to(tangent, step.dim()) + step)
        return self._learned(cost, tangent).mean(1), changed.mean(1)

    def _learned(self, cost: Tensor, tangent: Tensor) -> Tensor:
        """Return H(cost, tangent)."""
        inputs = torch.stack((cost.expand_as(tangent), tangent), -1).to(self.alpha.dtype)
        learned: Tensor = self.network(inputs).squeeze(-1)
        return tangent + learned.to(tangent.dtype)
