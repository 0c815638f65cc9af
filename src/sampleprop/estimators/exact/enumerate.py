"""Exact enumeration of the joint states.

Source: [mohamed2020monte], eq. 1, the definition of the expectation. Differences from the paper: none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.exact import states
from sampleprop.families import Enumerable


class Draw(NamedTuple):
    points: Tensor  # [states, *batch, *event], detached; every state, with the mode in place of impossible ones
    probes: None = None


class Enumerate(Estimator[Enumerable, Draw]):
    r"""Sums over every joint state: the exact value and the exact gradient, to any order.

    .. math:: L = \sum_x p_\phi(x) f(x)

    Exact. f may be a black box. As many evaluations of f as there are joint states, 2^D for D bits; a state of
    probability zero is not shown to f.

    Args:
        limit: the largest number of joint states to enumerate, at least 2.

    Raises:
        ValueError: for a limit below 2.
        TypeError: for more joint states than the limit.

    Example, for p = 1/2 and f = 3 - 2 x: the value is (f(0) + f(1)) / 2 = 2, and the gradient
    p (1 - p) (f(1) - f(0)) = 1/4 · (-2):

        >>> import torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> loss = sp.Enumerate().combine(q, Draw(torch.tensor([0.0, 1.0])), torch.tensor([3.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(2.), tensor(-0.5000))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "exact sums"
    can_drop = True
    source = cited("mohamed2020monte", "eq. 1")

    def __init__(self, *, limit: int = 4096) -> None:
        super().__init__()
        checks.positive("Enumerate", "limit", limit, least=2)
        self.limit = limit

    def highest_order(self, variables: Enumerable) -> float:
        return math.inf

    def calls(self, variables: Enumerable) -> tuple[int, int]:
        return variables.support_size, 0

    def refuses(self, variables: Enumerable) -> str | None:
        return states.refusal(self.name, self.limit, variables)

    def draw(self, variables: Enumerable, generator: Generator | None) -> Draw:
        support = variables.support()
        every = support.reshape(len(support), *(1,) * len(variables.batch_shape), *support.shape[1:])
        with torch.no_grad():
            possible = variables.support_log_prob() > -math.inf  # [states, *batch]
        return Draw(states.shown_to_f(variables, every, possible))

    def estimate(self, variables: Enumerable, draw: Draw, costs: Costs) -> Tensor:
        # The probabilities are those of the states, not of the points: the mode that stands in for an impossible
        # state counts with the probability of that state, zero.
        probs = variables.support_log_prob().exp()
        if costs.keep is None:
            return (probs * costs.points).sum(0)
        finite = torch.where(costs.keep, probs, 0.0)
        return (finite * costs.points).sum(0) / finite.sum(0)  # E[f | f is finite]
