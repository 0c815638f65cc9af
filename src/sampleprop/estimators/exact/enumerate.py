"""Exact enumeration of the joint support.

Source: the definition of the expectation of a discrete variable.
Differences from the paper: none.
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
from sampleprop.families import Discrete
from sampleprop.surrogate import unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [states, *batch, *event], detached; every state, with the mode in place of impossible ones
    probes: None = None


class Enumerate(Estimator[Discrete, Draw]):
    r"""Sums over every joint state: the exact value and the exact gradient, to any order.

    .. math:: L = \sum_x p_\phi(x) f(x)

    Exact. f may be a black box. As many evaluations of f as there are joint states, 2^D for D bits; a state of
    probability zero is not shown to f.

    Args:
        limit: the largest number of joint states to enumerate, at least 2.

    Raises:
        ValueError: for a limit below 2.
        TypeError: for a joint support above the limit.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.OneHotCategorical(logits=logits)
        >>> sp.expect(lambda x: x[..., 0], q, sp.Enumerate())
        tensor(0.3333, grad_fn=<SumBackward1>)
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    whole = True
    source = cited("mohamed2020monte", "eq. 1")

    def __init__(self, *, limit: int = 4096) -> None:
        super().__init__()
        checks.positive("Enumerate", "limit", limit, least=2)
        self.limit = limit

    @property
    def adds_dimension(self) -> bool:
        return True

    def highest_order(self, variables: Discrete) -> float:
        return math.inf

    def calls(self, variables: Discrete) -> tuple[int, int]:
        return variables.support_size, 0

    def refuses(self, variables: Discrete) -> str | None:
        if variables.support_size <= self.limit:
            return None
        return (
            f"{self.name} needs at most limit={self.limit} joint states; got {variables.support_size}. Raise the limit, or "
            "use LocalExpectation or a sampling estimator."
        )

    def draw(self, variables: Discrete, generator: Generator | None) -> Draw:
        support = variables.support()
        states = support.reshape(len(support), *(1,) * len(variables.batch_shape), *support.shape[1:])
        with torch.no_grad():
            possible = variables.support_log_prob() > -math.inf  # [states, *batch]
        return Draw(torch.where(unsqueeze_to(possible, states.dim()), states, variables.mode()))

    def estimate(self, variables: Discrete, draw: Draw, costs: Costs) -> Tensor:
        # The probabilities are those of the states, not of the points: the mode that stands in for an impossible
        # state counts with that state's probability, zero.
        return (variables.support_log_prob().exp() * costs.points).sum(0)
