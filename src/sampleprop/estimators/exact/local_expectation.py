"""Local expectation gradients: each variable is summed out in turn, while the others are held at a sample.

Source: [titsias2015local], sec. 3; also known as IndeCateR: [desmet2023differentiable].
Differences from the paper: the variables must be independent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.exact import changes
from sampleprop.families import Discrete
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached: the pivots
    probes: Tensor  # [(C - 1) * variables * k, *batch, *event], detached: each pivot with one variable changed


class LocalExpectation(Estimator[Discrete, Draw]):
    r"""Sums out one variable at a time, and holds the others at a sample, the pivot.

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \sum_v \sum_c f(x_i \text{ with } x_{i,v} := c)\,
            \nabla_\phi p_\phi(x_v = c), \qquad x_i \sim p_\phi

    Unbiased and without anything to tune. The variance is low, because only the noise of the other variables is left.
    f may be a black box; the variables must be independent. k (1 + D) evaluations of f for D bits,
    k (1 + V (C - 1)) for V variables of C classes; a change of probability zero is not shown to f.

    Args:
        samples: k, the number of pivots, at least 1.

    Raises:
        ValueError: for fewer samples than 1, and by `combine` without the costs of the changed points.

    Example, for p = (1/2, 1/2), x = (1, 0) and f = (1 + x₁) (2 + 3 x₂). f(1, 0) = 4, f(0, 0) = 2 and f(1, 1) = 10, so
    p (1 - p) = 1/4 times the differences is 1/4 · (4 - 2) and 1/4 · (10 - 4):

        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> draw = Draw(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        >>> loss = sp.LocalExpectation().combine(q, draw, torch.tensor([4.0]), probe_costs=torch.tensor([2.0, 10.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad
        (tensor(4.), tensor([0.5000, 1.5000]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "exact sums"
    aliases = ("LEG",)
    source = cited("titsias2015local", "sec. 3")

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("LocalExpectation", samples)
        self.samples = samples

    def calls(self, variables: Discrete) -> tuple[int, int]:
        changed = math.prod(changes.sites(variables)) * changes.other_classes(variables)
        return self.draws * (1 + changed), 0

    def draw(self, variables: Discrete, generator: Generator | None) -> Draw:
        points = variables.sample(self.draws, generator)
        changed = changes.all_changed(variables, points)
        return Draw(
            points, changes.one_at_a_time(points, changed, changes.sites(variables), len(variables.batch_shape))
        )

    def estimate(self, variables: Discrete, draw: Draw, costs: Costs) -> Tensor:
        # [C - 1, k, *batch, *variables]
        rises = changes.rises(costs.fixed, costs.probes, changes.sites(variables), changes.other_classes(variables))
        gradient = changes.derivative(variables, draw.points, rises)  # [k, *batch, *event]
        return surrogate(self.name, costs.mean(), (variables.logits,), (costs.average(gradient),))
