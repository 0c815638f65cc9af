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
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import jumps
from sampleprop.estimators.exact import changes
from sampleprop.families import Integers, Variables
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [sides * coordinates * k, *batch, *event], detached: each sample with one coordinate moved


class GOGradient(Estimator[Variables, Draw]):
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
    source = cited("cong2019go")

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("GOGradient", samples)
        self.samples = samples

    def calls(self, variables: Variables) -> tuple[int, int]:
        sides = 2 if isinstance(variables, Integers) else 1
        return self.draws * (1 + sides * math.prod(variables.event_shape)), 0

    def refuses(self, variables: Variables) -> str | None:
        return jumps.refusal(self.name, variables)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        points = variables.sample(self.draws, generator)
        with torch.no_grad():
            neighbours, weights, _ = jumps.jumps(variables, points)
            moved = torch.where(weights > 0, neighbours, points.unsqueeze(-1)).to(points.dtype).movedim(-1, 0)
            return Draw(
                points, changes.one_at_a_time(points, moved, tuple(variables.event_shape), len(variables.batch_shape))
            )

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        _, parameter = jumps.parameter_of(variables)
        with torch.no_grad():
            _, weights, directions = jumps.jumps(variables, draw.points)
            rises = changes.rises(costs.points, costs.probes, tuple(variables.event_shape), weights.shape[-1])
            rises = rises.movedim(0, -1)  # [k, *batch, *event, sides]
            moves = unsqueeze_to(weights * rises, directions.dim()) * directions
            gradient = moves.sum(weights.dim() - 1)  # [k, *batch, *event] (and the classes of integers)
        return surrogate(self.name, costs.mean(), (parameter,), (costs.average(gradient),))
