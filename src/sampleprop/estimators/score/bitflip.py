"""BitFlip-1: the cost difference of one flipped bit.

Source: Kunes, Yin, Land, Haviv, Pe'er and Tavaré (2023), "Gradient estimation for binary latent variables via gradient
variance clipping".
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
from sampleprop.families import Bernoullis, Discrete
from sampleprop.surrogate import surrogate, unsqueeze_to

SOURCE = cited("kunes2023gradient")


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached; for UGC the pivots first, then their partners
    probes: Tensor  # [pivots, *batch, *event], detached: each pivot with one bit flipped
    flipped: Tensor  # [pivots, *batch, *event], whether it is this bit


class BitFlip(Estimator[Bernoullis, Draw]):
    r"""Flips one bit, chosen at random, and gives its logit the whole difference of the cost.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i D\,\mathbb{1}[v = v_i]\, p_v (1 - p_v)
            \bigl(f(x_i \text{ with } x_{i,v} := 1) - f(x_i \text{ with } x_{i,v} := 0)\bigr)

    with :math:`v_i` uniform over the D bits. Unbiased. f may be a black box. Of low variance where the probabilities are near
    0 and 1, of high variance in between. 2 k evaluations of f; a flip of probability zero is not shown to f.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the flipped points.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.full((3,), 4.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.BitFlip(samples=2)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = SOURCE

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


def flip(variables: Discrete, points: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """The points with one bit flipped, unless that is impossible, and which bit was chosen."""
    shape = variables.event_logits_shape
    lead = points.shape[: points.dim() - len(shape)]
    bits = math.prod(shape)
    chosen = torch.randint(max(bits, 1), (*lead, 1), generator=generator, device=points.device)  # [k, *batch, 1]
    flipped = (torch.arange(bits, device=points.device) == chosen).reshape(points.shape)
    return torch.where(flipped & (variables.variance > 0), 1 - points, points), flipped


def by_flip(variables: Discrete, draw: Draw, costs: Tensor, probe_costs: Tensor) -> Tensor:
    """BitFlip-1's estimate from each pivot, whose costs are given: [pivots, *batch, *event]."""
    pivots = draw.points[: draw.probes.shape[0]]
    rise = unsqueeze_to(probe_costs - costs, pivots.dim()) * (1 - 2 * pivots)
    return draw.flipped * math.prod(variables.event_logits_shape) * variables.variance * rise
