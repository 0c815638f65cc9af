"""Exact enumeration of the joint support.

Source: the definition of the expectation of a discrete variable.
Differences from the paper: none.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked
from sampleprop.surrogate import unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [states, *batch, *event], detached; every state, with the mode in place of impossible ones
    probes: None = None


class Enumerate(Estimator[Draw]):
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
    families = (families.Bernoullis, families.OneHots, families.Integers)
    source = Source(
        key="mohamed2020monte",
        authors="Shakir Mohamed and Mihaela Rosca and Michael Figurnov and Andriy Mnih",
        year=2020,
        title="Monte Carlo gradient estimation in machine learning",
        venue="Journal of Machine Learning Research 21",
        arxiv="1906.10652",
        where="eq. 1",
        kind="article",
    )

    def __init__(self, *, limit: int = 4096) -> None:
        super().__init__()
        checks.positive("Enumerate", "limit", limit, least=2)
        self.limit = limit

    @property
    def adds_dimension(self) -> bool:
        return True

    def order(self, dist: Distribution) -> float:
        return math.inf

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return families.variables(dist).support_size, 0

    def refusal(self, dist: Distribution) -> str | None:
        refusal = super().refusal(dist)
        if refusal is None and self.evaluations(dist)[0] > self.limit:
            return (
                f"{self.name} needs at most limit={self.limit} joint states; got {self.evaluations(dist)[0]}. Raise the "
                "limit, or use LocalExpectation or a sampling estimator."
            )
        return refusal

    def for_budget(self, dist: Distribution, evaluations: int) -> Self | None:
        return self if self.evaluations(dist)[0] <= evaluations else None

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        support = variables.support()
        states = support.reshape(len(support), *(1,) * len(variables.batch_shape), *support.shape[1:])
        with torch.no_grad():
            possible = variables.support_log_prob() > -math.inf  # [states, *batch]
        return Draw(torch.where(unsqueeze_to(possible, states.dim()), states, variables.mode()))

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
        # The probabilities are those of the states, not of the points: the mode that stands in for an impossible
        # state counts with that state's probability, zero.
        return (variables.support_log_prob().exp() * costs).sum(0)

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2: L = (f(0) + f(1)) / 2, and dL/dlogit = p (1 - p) (f(1) - f(0)).
        return Worked(
            estimator=cls(),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([0.0, 1.0], dtype=torch.float64)),
            f=lambda x: 3 - 2 * x,
            value=torch.tensor(2.0, dtype=torch.float64),
            gradient=torch.tensor(-0.5, dtype=torch.float64),
        )
