"""BitFlip-1: the difference of the cost when one bit is flipped.

Source: [kunes2023gradient]. Differences from the paper: none.
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
from sampleprop.estimators.exact import changes
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached; for UGC the pivots first, then their partners
    probes: Tensor  # [pivots, *batch, *event], detached: each pivot with one bit flipped
    flipped: Tensor  # [pivots, *batch, *event], whether it is this bit that was chosen


class BitFlip(Estimator[Bernoullis, Draw]):
    r"""Flips one bit, chosen at random, and gives its logit the whole difference of the cost.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i D\,\mathbb{1}[v = v_i]\, p_v (1 - p_v)
            \bigl(f(x_i \text{ with } x_{i,v} := 1) - f(x_i \text{ with } x_{i,v} := 0)\bigr)

    where :math:`v_i` is uniform over the D bits.

    Unbiased. f may be a black box. The variance is low where the probabilities are near 0 and 1, and high in between.
    2 k evaluations of f; a flip of probability zero is not shown to f.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for fewer samples than 1, and by `combine` without the costs of the flipped points.

    Example, for p = (1/2, 1/2) and f = (x₁ + x₂)². The second of D = 2 bits of x = (1, 1) is flipped, so f falls from 4
    to 1, and the second logit gets 2 · 1/4 · (4 - 1) = 3/2:

        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> draw = Draw(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[False, True]]))
        >>> loss = sp.BitFlip().combine(q, draw, torch.tensor([4.0]), probe_costs=torch.tensor([1.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad
        (tensor(4.), tensor([0.0000, 1.5000]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    source = cited("kunes2023gradient")

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("BitFlip", samples)
        self.samples = samples

    def calls(self, variables: Bernoullis) -> tuple[int, int]:
        return 2 * self.draws, 0

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        points = variables.sample(self.draws, generator)
        return Draw(points, *flip(variables, points, generator))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        gradient = by_flip(variables, draw, costs.fixed, costs.probes)
        return surrogate(self.name, costs.mean(), (variables.logits,), (costs.average(gradient),))


def flip(variables: Bernoullis, points: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Return the points with one bit flipped, unless that is impossible, and which bit was chosen."""
    shape = variables.event_logits_shape
    bits = math.prod(shape)
    lead = points.shape[: points.dim() - len(shape)]
    chosen = torch.randint(max(bits, 1), (*lead, 1), generator=generator, device=points.device)  # [k, *batch, 1]
    flipped = (torch.arange(bits, device=points.device) == chosen).reshape(points.shape)
    change = flipped & (variables.variance > 0)
    return (points - change.to(points.dtype)).abs(), flipped


def by_flip(variables: Bernoullis, draw: Draw, costs: Tensor, probe_costs: Tensor) -> Tensor:
    """Return the estimate of BitFlip-1 from each pivot, whose costs are given: [pivots, *batch, *event]."""
    pivots = draw.points[: draw.probes.shape[0]]
    rise = (probe_costs - costs) * math.prod(variables.event_logits_shape)
    return changes.derivative(variables, pivots, unsqueeze_to(rise, pivots.dim())[None]) * draw.flipped
