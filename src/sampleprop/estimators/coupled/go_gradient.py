"""GO gradient: each coordinate is moved to a neighbouring outcome, weighted by the probability that crosses the edge.

Source: [cong2019go], for discrete variables. Differences from the paper: between two classes, and for a probability of
success above 1/2, the difference is taken from the more probable side, where its weight is the smaller one. For
continuous variables the paper's gradient is the implicit reparameterization, which is `Pathwise`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
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
    slopes: Tensor  # [k, *batch, *event, sides], or [..., sides, C] for integers: the gradient for a difference of 1


class GOGradient(Estimator[Variables, Draw]):
    r"""Takes the difference of f to the next outcome instead of its derivative, with the weight that a path would have.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i w_v(x_i) \bigl(f(x_i \text{ with } x_{i,v} + 1) - f(x_i)\bigr), \qquad
        w_v(x) = -\frac{\nabla_{\phi_v} F(x_v)}{p(x_v)}

    Here F is the distribution function of one coordinate. The weight is 1 for the rate of a Poisson variable. For
    logits it is (n - x) p (Binomial), -(x + 1)(1 - p) (Geometric) and (x + r) p (NegativeBinomial). For an f linear
    between the outcomes, this is the reparameterization gradient. For any f its mean is exact, by summation by parts:
    E[f ∇log p] = -Σ_x ∇F(x) (f(x + 1) - f(x)). Bernoulli and Binomial variables with p > 1/2 take the difference to
    x - 1 instead, and classes take it to both neighbours.

    Unbiased. f may be a black box, but the order of the outcomes should mean something to it. For each sample one
    evaluation of f, and one for each coordinate (two for a Categorical one). :class:`CoupledPerturbation` draws one
    coordinate instead. For bits and classes without an order :class:`LocalExpectation` has less variance.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the moved points.
        TypeError: for another distribution, and for a total_count that requires a gradient.

    Example, for two Poisson rates, where the weights are 1: x = (1, 3), and f = x₁ x₂ = 3 becomes 6 for x₁ = 2, and 4
    for x₂ = 4:

        >>> import torch, sampleprop as sp
        >>> rate = torch.full((2,), 2.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
        >>> draw = Draw(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 3.0], [1.0, 4.0]]), torch.ones(1, 2, 1))
        >>> loss = sp.GOGradient().combine(q, draw, draw.points.prod(-1), probe_costs=draw.probes.prod(-1))
        >>> loss.backward()
        >>> loss.detach(), rate.grad
        (tensor(3.), tensor([3., 1.]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "exact sums"
    reads_points = False
    aliases = ("GO",)
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
        checks.countable(self.name, variables, points)
        neighbours, weights, directions = jumps.jumps(variables, points)
        moved = noise.cast(torch.where(weights > 0, neighbours, points.unsqueeze(-1)), points.dtype).movedim(-1, 0)
        probes = changes.one_at_a_time(points, moved, variables.event_shape, len(variables.batch_shape))
        return Draw(points, probes, unsqueeze_to(weights, directions.dim()) * directions)

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        sides = draw.slopes.shape[draw.points.dim()]
        rises = changes.rises(costs.fixed, costs.probes, variables.event_shape, sides)
        gradient = jumps.gradient(rises.movedim(0, -1), draw.slopes)
        return surrogate(self.name, costs.mean(), (jumps.parameter_of(variables)[1],), (costs.average(gradient),))
