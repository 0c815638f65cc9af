"""Rao-Blackwellized score function: sum over the most probable states, sample from the rest.

Source: [liu2019rao]. Differences from the paper: the baseline is made from the states that are evaluated anyway.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, others
from sampleprop.estimator import Estimator
from sampleprop.estimators.exact import states
from sampleprop.families import Enumerable
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached: the summed states first; the mode where the weight is zero
    weights: Tensor  # [k, *batch], detached: p of a summed state; the draws share the probability of the rest equally
    probes: None = None


class RaoBlackwellized(Estimator[Enumerable, Draw]):
    r"""Sums over the most probable joint states exactly and draws only from the others.

    .. math::

        \nabla_\phi L \approx \sum_{c \in T} p_c\,(f(c) - b)\,\nabla_\phi \log p_c
            + \frac{1 - p(T)}{m} \sum_i (f(x_i) - b_i)\,\nabla_\phi \log p_\phi(x_i)

        x_i \sim p_\phi(x \mid x \notin T)

    where T holds the most probable states, and b is the mean of the :math:`b_i`. With several draws
    :math:`b_i = \sum_T p_c f(c) + (1 - p(T))\,\overline{f(x_j)}_{j \ne i}`, with one
    :math:`b = \sum_T p_c f(c) / p(T)`.

    Unbiased. The scores have mean zero only if both parts are taken together. Therefore the same baseline is subtracted
    from both. The variance is low if few states have most of the probability, and zero if T holds all possible states.
    f may be a black box. k evaluations of f; the probabilities of all joint states are enumerated, f is not.

    Args:
        samples: k, the summed and the drawn states together, at least drawn + 1.
        drawn: m, how many of them are drawn from the rest, at least 1.
        baseline: whether to subtract a baseline.
        limit: the largest number of joint states whose probabilities are enumerated, at least 2.

    Raises:
        ValueError: for fewer samples than drawn + 1, fewer than one drawn, and a limit below 2.
        TypeError: for more joint states than the limit.

    Example, for p = (1/2, 1/4, 1/4) and f = (1, 3, 5). State 0 is summed and state 2 is drawn: the value is
    1/2 · 1 + 1/2 · 5 = 3, and b = 1. State 0 has f - b = 0. The score (-1/2, -1/4, 3/4) of state 2 has the weight
    1/2 · (5 - 1) = 2:

        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([0.5, 0.25, 0.25]).log().requires_grad_()
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> draw = Draw(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0.5, 0.5]))
        >>> loss = sp.RaoBlackwellized(2).combine(q, draw, torch.tensor([1.0, 5.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad
        (tensor(3.), tensor([-1.0000, -0.5000,  1.5000]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "score function"
    source = cited("liu2019rao")

    def __init__(self, samples: int = 4, *, drawn: int = 1, baseline: bool = True, limit: int = 4096) -> None:
        super().__init__()
        checks.samples("RaoBlackwellized", drawn, argument="drawn states")
        checks.samples("RaoBlackwellized", samples, least=drawn + 1)
        checks.positive("RaoBlackwellized", "limit", limit, least=2)
        self.samples = samples
        self.drawn = drawn
        self.baseline = baseline
        self.limit = limit

    @property
    def samples_least(self) -> int:
        return self.drawn + 1

    def calls(self, variables: Enumerable) -> tuple[int, int]:
        return self._summed(variables) + self.drawn, 0

    def refuses(self, variables: Enumerable) -> str | None:
        return states.refusal(self.name, self.limit, variables)

    def draw(self, variables: Enumerable, generator: Generator | None) -> Draw:
        with torch.no_grad():
            log_probs = variables.support_log_prob()  # [states, *batch]
        log_top, top = log_probs.topk(self._summed(variables), 0)
        rest = log_probs.scatter(0, top, -math.inf)
        gumbel = noise.gumbel((self.drawn, *rest.shape), rest, generator)
        drawn = (rest + gumbel).argmax(1)  # [drawn, *batch]
        # The probability of the rest is summed. 1 - p(T) has no digits left where T holds nearly everything.
        share = rest.exp().sum(0) / self.drawn
        weights = torch.cat((log_top.exp(), share.expand_as(drawn)))  # [k, *batch]
        points = variables.states(torch.cat((top, drawn)))
        return Draw(states.shown_to_f(variables, points, weights > 0), weights)

    def estimate(self, variables: Enumerable, draw: Draw, costs: Costs) -> Tensor:
        advantages = draw.weights * (costs.fixed - self._baseline(draw.weights, costs.fixed))  # [k, *batch]
        gradient = variables.gradient_for_logits(draw.points, advantages)
        return surrogate(self.name, (draw.weights * costs.points).sum(0), (variables.logits,), (gradient,))

    def _summed(self, variables: Enumerable) -> int:
        """How many states are summed."""
        return min(self.draws - self.drawn, variables.support_size)

    def _baseline(self, weights: Tensor, costs: Tensor) -> Tensor:
        """Return b for each point, [k, *batch]; that of a drawn point leaves its own cost out."""
        if not self.baseline:
            return torch.zeros_like(costs)
        summed = costs.shape[0] - self.drawn
        known = (weights[:summed] * costs[:summed]).sum(0)
        if self.drawn == 1:
            return (known / weights[:summed].sum(0)).expand_as(costs)
        each = known + weights[summed:].sum(0) * others(costs[summed:])  # [drawn, *batch]
        return torch.cat((each.mean(0).expand(summed, *each.shape[1:]), each))
