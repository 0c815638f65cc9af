"""GO gradient: each coordinate of a count moved to the outcome next to it, weighted by what crosses the edge between them.

Source: Cong, Zhao, Bai and Carin (2019), "GO gradient for expectation-based objectives", for discrete variables.
Differences from the paper: between two classes, and for a probability of success above 1/2, the difference is taken from
the more probable side, where its weight is the smaller one. For continuous variables the paper's gradient is the implicit
reparameterization, which is `Pathwise`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.distributions as td
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.coupled import jumps
from sampleprop.estimators.exact import changes
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [sides * coordinates * k, *batch, *event], detached: each sample with one coordinate moved


class GOGradient(Estimator[Draw]):
    r"""Takes the difference of f to the next outcome in place of a derivative, and weighs it as a path would.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i w_v(x_i) \bigl(f(x_i \text{ with } x_{i,v} + 1) - f(x_i)\bigr), \qquad
        w_v(x) = -\frac{\nabla_{\phi_v} F(x_v)}{p(x_v)}

    with F the distribution function of one coordinate: 1 for the rate of a Poisson count, (n - x) p for the logit of a
    binomial one, -(x + 1)(1 - p) for a geometric and (x + r) p for a negative binomial one. It is the reparameterization
    gradient for f that is linear between the outcomes; for any f the sum by parts E[f ∇log p] = -Σ_x ∇F(x) (f(x + 1) - f(x))
    makes it exact. Bits with p > 1/2, binomial counts too, look at x - 1 instead; classes look at both neighbours.

    Unbiased. f may be a black box, but the order of the outcomes should mean something to it. For each sample one
    evaluation of f, and one for each coordinate (two for each Categorical). :class:`CoupledPerturbation` draws one coordinate
    instead of going through all; for bits and classes without an order :class:`LocalExpectation` has less noise.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the moved points.

    Example:
        >>> import torch, sampleprop as sp
        >>> rate = torch.full((3,), 2.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
        >>> sp.expect(lambda x: x.sum(-1).square(), q, sp.GOGradient(4)).backward()
        >>> sp.GOGradient(4).evaluations(q)
        (16, 0)
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = Source(
        key="cong2019go",
        authors="Yulai Cong and Miaoyun Zhao and Ke Bai and Lawrence Carin",
        year=2019,
        title="GO gradient for expectation-based objectives",
        venue="International Conference on Learning Representations",
        arxiv="1901.06020",
    )

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("GOGradient", samples)
        self.samples = samples

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        sides = 2 if isinstance(families.discrete(dist), families.Integers) else 1
        return self.draws * (1 + sides * math.prod(dist.event_shape)), 0

    def refusal(self, dist: Distribution) -> str | None:
        return super().refusal(dist) or jumps.refusal(self.name, dist)

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        points = families.sample(dist, self.draws, generator)
        with torch.no_grad():
            neighbours, weights, _ = jumps.jumps(dist, points)
            moved = torch.where(weights > 0, neighbours, points.unsqueeze(-1)).to(points.dtype).movedim(-1, 0)
            return Draw(points, changes.one_at_a_time(points, moved, tuple(dist.event_shape), len(dist.batch_shape)))

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
        probe_costs = checks.probe_costs(self.name, dist, draw.probes, probe_costs, "the costs of the moved points")
        _, parameter = jumps.given(dist)
        with torch.no_grad():
            _, weights, directions = jumps.jumps(dist, draw.points)
            rises = changes.rises(costs, probe_costs, tuple(dist.event_shape), weights.shape[-1])
            rises = rises.movedim(0, -1)  # [k, *batch, *event, sides]
            moves = unsqueeze_to(weights * rises, directions.dim()) * directions
            gradient = moves.sum(weights.dim() - 1)  # [k, *batch, *event] (and the classes of integers)
        return surrogate(self.name, average(costs, keep), (parameter,), (average(gradient, keep),))

    @classmethod
    def worked(cls) -> Worked:
        # x = (1, 3) with rates 2 and 2: the weights are 1, and f = x₁ x₂ = 3 becomes 6 for x₁ = 2, 4 for x₂ = 4.
        return Worked(
            estimator=cls(),
            parameter=torch.full((2,), 2.0, dtype=torch.float64),
            dist=lambda rate: td.Independent(td.Poisson(rate), 1),
            draw=lambda dist: Draw(
                torch.tensor([[1.0, 3.0]], dtype=torch.float64),
                torch.tensor([[2.0, 3.0], [1.0, 4.0]], dtype=torch.float64),
            ),
            f=lambda x: x.prod(-1),
            value=torch.tensor(3.0, dtype=torch.float64),
            gradient=torch.tensor([3.0, 1.0], dtype=torch.float64),
        )
