"""Sum the most probable outcomes, sample from the rest.

Source: Liu, Regier, Tripuraneni, Jordan and McAuliffe (2019), "Rao-Blackwellized stochastic gradients for discrete
distributions".
Differences from the paper: the baseline is made from the outcomes that are evaluated anyway.
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
from sampleprop.estimators.score import outcomes
from sampleprop.families import Discrete
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached: the summed outcomes first; the mode where the weight is zero
    weights: Tensor  # [k, *batch], detached: the probability of a summed outcome, that of the rest shared by its draws
    probes: None = None


class RaoBlackwellized(Estimator[Discrete, Draw]):
    r"""Sums the most probable joint outcomes exactly and draws only from the others.

    .. math::

        \nabla_\phi L \approx \sum_{c \in T} p_c\,(f(c) - b)\,\nabla_\phi \log p_c
            + \frac{1 - p(T)}{m} \sum_i (f(x_i) - b_i)\,\nabla_\phi \log p_\phi(x_i),
            \qquad x_i \sim p_\phi(x \mid x \notin T)

    where T holds the most probable outcomes, and b is the mean of the :math:`b_i`. Unbiased: the scores of both parts
    together have mean zero, so the same baseline must be subtracted from both. With several draws
    :math:`b_i = \sum_T p_c f(c) + (1 - p(T))\,\overline{f(x_j)}_{j \ne i}`, with one :math:`b = \sum_T p_c f(c) / p(T)`. Strong
    where few outcomes carry most of the probability; exact where T holds every possible outcome. f may be a black box. k
    evaluations of f; the joint probabilities are enumerated, f is not.

    Args:
        samples: k, the summed and the drawn outcomes together, at least drawn + 1.
        drawn: m, how many of them are drawn from the rest, at least 1.
        baseline: whether to subtract a baseline.
        limit: the largest number of joint outcomes whose probabilities are enumerated, at least 2.

    Raises:
        ValueError: for fewer samples than drawn + 1, fewer than one drawn, and a limit below 2.
        TypeError: for more joint outcomes than the limit.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0], requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.RaoBlackwellized(samples=3)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    whole = True
    source = cited("liu2019rao")

    def __init__(self, samples: int = 4, *, drawn: int = 1, baseline: bool = True, limit: int = 4096) -> None:
        super().__init__()
        if isinstance(drawn, bool) or not isinstance(drawn, int) or drawn < 1:
            raise ValueError(f"RaoBlackwellized needs a whole number of draws, at least 1; got drawn={drawn!r}.")
        checks.samples("RaoBlackwellized", samples, least=drawn + 1)
        checks.positive("RaoBlackwellized", "limit", limit, least=2)
        self.samples = samples
        self.drawn = drawn
        self.baseline = baseline
        self.limit = limit

    @property
    def samples_least(self) -> int:
        return self.drawn + 1

    def calls(self, variables: Discrete) -> tuple[int, int]:
        return self._summed(variables) + self.drawn, 0

    def refuses(self, variables: Discrete) -> str | None:
        return outcomes.refusal(self.name, self.limit, variables)

    def draw(self, variables: Discrete, generator: Generator | None) -> Draw:
        with torch.no_grad():
            log_probs = variables.support_log_prob()  # [outcomes, *batch]
        log_top, top = log_probs.topk(self._summed(variables), 0)
        rest = log_probs.scatter(0, top, -math.inf)
        gumbel = noise.gumbel((self.drawn, *rest.shape), rest, generator)
        drawn = (rest + gumbel).argmax(1)  # [drawn, *batch]
        # The mass of the rest is summed, not 1 - p(T), which has no digits left where T holds nearly everything.
        share = rest.exp().sum(0) / self.drawn
        weights = torch.cat((log_top.exp(), share.expand_as(drawn)))  # [k, *batch]
        points = variables.states(torch.cat((top, drawn)))
        return Draw(torch.where(unsqueeze_to(weights > 0, points.dim()), points, variables.mode()), weights)

    def estimate(self, variables: Discrete, draw: Draw, costs: Costs) -> Tensor:
        advantages = draw.weights * (costs.fixed - self._baseline(draw.weights, costs.fixed))  # [k, *batch]
        with torch.no_grad():
            gradient = variables.weighted_score(draw.points, advantages)
        return surrogate(self.name, (draw.weights * costs.points).sum(0), (variables.logits,), (gradient,))

    def _summed(self, variables: Discrete) -> int:
        return min(self.draws - self.drawn, variables.support_size)

    def _baseline(self, weights: Tensor, costs: Tensor) -> Tensor:
        """b for each point, [k, *batch]: a drawn point's leaves out its own cost."""
        if not self.baseline:
            return torch.zeros_like(costs)
        summed = costs.shape[0] - self.drawn
        known = (weights[:summed] * costs[:summed]).sum(0)
        if self.drawn == 1:
            return (known / weights[:summed].sum(0)).expand_as(costs)
        each = known + weights[summed:].sum(0) * others(costs[summed:])  # [drawn, *batch]
        return torch.cat((each.mean(0).expand(summed, *each.shape[1:]), each))
