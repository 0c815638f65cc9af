"""Coupled perturbation: one alternative outcome of the draw, weighted by the rate at which φ makes the draw jump there.

Source: Arya, Schauer, Schäfer and Rackauckas (2022), "Automatic differentiation of programs with discrete randomness"; it
is the smoothed perturbation analysis of Gong and Ho (1987).
Differences from the paper: the gradient by all parameters at once, by giving the weight of all alternatives to the
parameter of the one that is kept; between two classes the jump starts from the more probable one, for all logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import jumps
from sampleprop.families import Variables, one_hot
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [k, *batch, *event], detached: each sample with one coordinate moved to the outcome next to it
    moved: Tensor  # [k, *batch, *event, sides], whether it is this coordinate, to this side


class CoupledPerturbation(Estimator[Variables, Draw]):
    r"""Moves one coordinate to the outcome next to it, as a small change of the parameters would under the same noise.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i \mathbb{1}[v = v_i] \Bigl(\sum_u w_u\Bigr) s_v
            \bigl(f(x_i \text{ with } x_{i,v} \to x_{i,v} \pm 1) - f(x_i)\bigr), \qquad P(v_i = v) \propto w_v

    where w is the rate of the jump by φ, and s its sign. Of the two sides from which a jump between neighbours can start,
    it is the one of the smaller weight; an alternative whose weight is zero has merged with its sample, and is dropped:

    =======================  ================  ======================================================
    parameter                jump              s w
    =======================  ================  ======================================================
    Poisson, rate            x + 1             1
    Binomial, logit          x + 1             (n - x) p, for p ≤ 1/2
    (Bernoulli: n = 1)       x - 1             -x (1 - p), for p > 1/2
    Geometric, logit         x + 1             -(x + 1)(1 - p)
    NegativeBinomial, logit  x + 1             (x + r) p
    Categorical, logits      to a neighbour    ∓∇F / π(x), F the probability below the edge between
                             less probable
    =======================  ================  ======================================================

    and by a probability p the same over p (1 - p).

    Unbiased. f may be a black box, but the order of the outcomes should mean something to it: of low variance for f that
    changes little from one outcome to the next. 2 k evaluations of f, whatever the number of coordinates.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the moved points.

    Example:
        >>> import torch, sampleprop as sp
        >>> rate = torch.full((3,), 2.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
        >>> sp.expect(lambda x: x.sum(-1).square(), q, sp.CoupledPerturbation(8)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    source = cited("arya2022automatic")

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        checks.samples("CoupledPerturbation", samples)
        self.samples = samples

    def calls(self, variables: Variables) -> tuple[int, int]:
        return 2 * self.draws, 0

    def refuses(self, variables: Variables) -> str | None:
        return jumps.refusal(self.name, variables)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        points = variables.sample(self.draws, generator)
        with torch.no_grad():
            neighbours, weights, _ = jumps.jumps(variables, points)
            scores = (weights.log() + noise.gumbel(weights.shape, weights, generator)).flatten(
                1 + len(variables.batch_shape)
            )
            count = scores.shape[-1]
            first = one_hot(scores.argmax(-1), count, torch.bool) if count else scores > 0
            moved = first.reshape(weights.shape)
            moves = moved & (weights > 0)
            target = (moves * neighbours).sum(-1) + points * ~moves.any(-1)  # [k, *batch, *event]
            return Draw(points, target.to(points.dtype), moved)

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        _, parameter = jumps.parameter_of(variables)
        with torch.no_grad():
            _, weights, directions = jumps.jumps(variables, draw.points)
            total = weights.flatten(costs.points.dim()).sum(-1)  # [k, *batch]
            kept = draw.moved * unsqueeze_to(total * (costs.probes - costs.points), draw.moved.dim())
            gradient = (unsqueeze_to(kept, directions.dim()) * directions).sum(kept.dim() - 1)  # [k, *batch, *event]
        return surrogate(self.name, costs.mean(), (parameter,), (costs.average(gradient),))
