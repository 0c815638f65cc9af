"""BitFlip-1: the cost difference of one flipped bit.

Source: Kunes, Yin, Land, Haviv, Pe'er and Tavaré (2023), "Gradient estimation for binary latent variables via gradient
variance clipping".
Differences from the paper: none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.surrogate import surrogate, unsqueeze_to

SOURCE = Source(
    key="kunes2023gradient",
    authors="Russell Z. Kunes and Mingzhang Yin and Max Land and Doron Haviv and Dana Pe'er and Simon Tavaré",
    year=2023,
    title="Gradient estimation for binary latent variables via gradient variance clipping",
    venue="AAAI Conference on Artificial Intelligence",
    arxiv="2208.06124",
)


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached; for UGC the pivots first, then their partners
    probes: Tensor  # [pivots, *batch, *event], detached: each pivot with one bit flipped
    flipped: Tensor  # [pivots, *batch, *event], whether it is this bit


class BitFlip(Estimator[Draw]):
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
    families = (families.Bernoullis,)
    source = SOURCE

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("BitFlip", samples)
        self.samples = samples

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return 2 * self.draws, 0

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        points = variables.sample(self.draws, generator)
        return Draw(points, *flip(variables, points, generator))

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
        variables = families.variables(dist)
        gradient = by_flip(self.name, dist, draw, costs.detach(), probe_costs)
        return surrogate(self.name, average(costs, keep), (variables.logits,), (average(gradient, keep),))

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(),)

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, x = (1, 0), the second of D = 2 bits flipped: f goes from 1 to 4, and 2 * 1/4 * 3 is its derivative.
        return Worked(
            estimator=cls(),
            parameter=torch.zeros(2, dtype=torch.float64),
            dist=lambda logits: Independent(Bernoulli(logits=logits), 1),
            draw=lambda dist: Draw(
                torch.tensor([[1.0, 0.0]], dtype=torch.float64),
                torch.tensor([[1.0, 1.0]], dtype=torch.float64),
                torch.tensor([[False, True]]),
            ),
            f=lambda x: x.sum(-1).square(),
            value=torch.tensor(1.0, dtype=torch.float64),
            gradient=torch.tensor([0.0, 1.5], dtype=torch.float64),
        )


def flip(variables: families.Discrete, points: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """The points with one bit flipped, unless that is impossible, and which bit was chosen."""
    shape = variables.event_logits_shape
    lead = points.shape[: points.dim() - len(shape)]
    bits = math.prod(shape)
    chosen = torch.randint(max(bits, 1), (*lead, 1), generator=generator, device=points.device)  # [k, *batch, 1]
    flipped = (torch.arange(bits, device=points.device) == chosen).reshape(points.shape)
    return torch.where(flipped & (variables.variance > 0), 1 - points, points), flipped


def by_flip(name: str, dist: Distribution, draw: Draw, costs: Tensor, probe_costs: Tensor | None) -> Tensor:
    """BitFlip-1's estimate from each pivot, whose costs are given: [pivots, *batch, *event]."""
    probe_costs = checks.probe_costs(name, dist, draw.probes, probe_costs, "the costs of the flipped points")
    variables = families.variables(dist)
    pivots = draw.points[: draw.probes.shape[0]]
    rise = unsqueeze_to(probe_costs - costs, pivots.dim()) * (1 - 2 * pivots)
    return draw.flipped * math.prod(variables.event_logits_shape) * variables.variance * rise
