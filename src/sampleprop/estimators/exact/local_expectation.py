"""Local expectation gradients: each variable is summed out in turn, the others being held at a sample.

Source: Titsias and Lázaro-Gredilla (2015), "Local expectation gradients for black box variational inference", sec. 3.
Known as IndeCateR too: De Smet, Sansone and Zuidberg Dos Martires (2023), "Differentiable sampling of categorical
distributions using the CatLog-derivative trick".
Differences from the paper: none for independent variables; dependent ones are not supported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.exact import changes
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached: the pivots
    probes: Tensor  # [(C - 1) * variables * k, *batch, *event], detached: each pivot with one variable changed


class LocalExpectation(Estimator[Draw]):
    r"""Sums out one variable at a time, and holds the others at a sample, the pivot.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \sum_v \sum_c f(x_i \text{ with } x_{i,v} := c)\,\nabla_\phi p_\phi(x_v = c),
            \qquad x_i \sim p_\phi

    Unbiased, of low variance and without a knob: only the noise of the other variables is left. f may be a black box; the
    variables must be independent. k (1 + D) evaluations of f for D bits, k (1 + V (C - 1)) for V variables of C classes; a
    change of probability zero is not shown to f.

    Args:
        samples: k, the number of pivots, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the changes.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: x.sum(-1), q, sp.LocalExpectation()).backward()
        >>> logits.grad
        tensor([0.2500, 0.2500, 0.2500])
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    families = (families.Bernoullis, families.OneHots, families.Integers)
    source = Source(
        key="titsias2015local",
        authors="Michalis K. Titsias and Miguel Lázaro-Gredilla",
        year=2015,
        title="Local expectation gradients for black box variational inference",
        venue="Advances in Neural Information Processing Systems 28",
        arxiv="1503.01494",
        where="sec. 3",
    )

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("LocalExpectation", samples)
        self.samples = samples

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        variables = families.variables(dist)
        changed = math.prod(changes.sites(variables)) * changes.other_classes(variables)
        return self.draws * (1 + changed), 0

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        points = variables.sample(self.draws, generator)
        return Draw(points, _changes(variables, points))

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
        probe_costs = checks.probe_costs(self.name, dist, draw.probes, probe_costs, "the costs of the changes")
        variables = families.variables(dist)
        # [C - 1, k, *batch, *variables]
        rises = changes.rises(costs.detach(), probe_costs, changes.sites(variables), changes.other_classes(variables))
        gradient = changes.derivative(variables, draw.points, rises)  # [k, *batch, *event]
        return surrogate(self.name, average(costs, keep), (variables.logits,), (average(gradient, keep),))

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(), cls(2))

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, x = (1, 0), f = (1 + x₁)(2 + 3 x₂): f(1, 0) = 4, f(0, 0) = 2, f(1, 1) = 10; p (1 - p) = 1/4 times the
        # differences 4 - 2 and 10 - 4.
        return Worked(
            estimator=cls(),
            parameter=torch.zeros(2, dtype=torch.float64),
            dist=lambda logits: torch.distributions.Independent(Bernoulli(logits=logits), 1),
            draw=lambda dist: Draw(
                torch.tensor([[1.0, 0.0]], dtype=torch.float64),
                torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64),
            ),
            f=lambda x: (1 + x[..., 0]) * (2 + 3 * x[..., 1]),
            value=torch.tensor(4.0, dtype=torch.float64),
            gradient=torch.tensor([0.5, 1.5], dtype=torch.float64),
        )


def _changes(variables: families.Discrete, points: Tensor) -> Tensor:
    """The points with one variable changed, to every other class and for every variable, in this order."""
    changed = changes.all_changed(variables, points)
    return changes.one_at_a_time(points, changed, changes.sites(variables), len(variables.batch_shape))
