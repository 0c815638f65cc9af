"""Coupled perturbation: one alternative outcome, weighted by the rate at which a change of φ makes the sample jump.

Source: [arya2022automatic]; it is the smoothed perturbation analysis of [gong1987smoothed]. Differences from the paper:
one alternative serves all parameters, because its own parameter gets the weight of all alternatives. Between two
classes the jump starts from the more probable one, for all logits.
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
from sampleprop.families import Variables
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [k, *batch, *event], detached: each sample with one coordinate moved to a neighbouring outcome
    moved: Tensor  # [k, *batch], what is moved: sides * coordinate + side


class CoupledPerturbation(Estimator[Variables, Draw]):
    r"""Moves one coordinate to a neighbouring outcome, as a small change of the parameters would under the same noise.

    .. math::

        \nabla_{\phi_v} L \approx \frac1k \sum_i \mathbb{1}[v = v_i] \Bigl(\sum_u w_u\Bigr) s_v
            \bigl(f(x_i \text{ with } x_{i,v} \to x_{i,v} \pm 1) - f(x_i)\bigr), \qquad P(v_i = v) \propto w_v

    Here w is the rate of the jump with respect to φ, and s is its sign. A jump between neighbours can start from either
    side; the side with the smaller weight is taken. If the weight is zero, the sample is its own alternative:

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

    With respect to a probability p, it is the same divided by p (1 - p).

    Unbiased. f may be a black box. The variance is low where f changes little from one outcome to the next, so their
    order should mean something to f. 2 k evaluations of f, whatever the number of coordinates.

    Args:
        samples: k, at least 1.

    Raises:
        ValueError: for a number of samples below 1, and when `combine` is not given the costs of the moved points.
        TypeError: for a distribution that is not in the table, and for a total_count that requires a gradient.

    Example, for two Poisson rates: x = (1, 3), and the second coordinate moves to 4. The weights sum to 1 + 1, and
    f = x₁ x₂ rises from 3 to 4, so the second rate gets 2 · (4 - 3):

        >>> import torch, sampleprop as sp
        >>> rate = torch.full((2,), 2.0, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
        >>> draw = Draw(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([1]))
        >>> loss = sp.CoupledPerturbation().combine(q, draw, draw.points.prod(-1), probe_costs=draw.probes.prod(-1))
        >>> loss.backward()
        >>> loss.detach(), rate.grad
        (tensor(3.), tensor([0., 2.]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
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
        lead = 1 + len(variables.batch_shape)
        with torch.no_grad():
            neighbours, weights, _ = jumps.jumps(variables, points)
            weights, before = weights.flatten(lead), points.unsqueeze(-1).flatten(lead)  # [k, *batch, entries]
            moved = _one_entry(weights, generator)
            if not weights.shape[-1]:
                return Draw(points, points.clone(), moved)
            entry, coordinate = moved.unsqueeze(-1), moved.unsqueeze(-1) // neighbours.shape[-1]
            after = neighbours.flatten(lead).gather(-1, entry).to(points.dtype)
            after = torch.where(weights.gather(-1, entry) > 0, after, before.gather(-1, coordinate))
            return Draw(points, before.scatter(-1, coordinate, after).reshape(points.shape), moved)

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        lead = costs.points.dim()
        with torch.no_grad():
            _, weights, directions = jumps.jumps(variables, draw.points)
            rise = weights.flatten(lead).sum(-1) * (costs.probes - costs.points)  # [k, *batch]
            entries = directions.flatten(lead, weights.dim() - 1)  # [k, *batch, entries], or [k, *batch, entries, C]
            gradient = costs.average(_at_coordinates(rise, draw.moved, entries, weights.shape[-1]))
            gradient = gradient.reshape((*draw.points.shape[1:], *gradient.shape[lead:]))
        return surrogate(self.name, costs.mean(), (jumps.parameter_of(variables)[1],), (gradient,))


def _at_coordinates(rise: Tensor, moved: Tensor, entries: Tensor, sides: int) -> Tensor:
    """The product of each rise with the entry that was moved, at its coordinate: [k, *batch, coordinates, ...]."""
    lead, (count, *classes) = moved.dim(), entries.shape[moved.dim() :]
    if not count:
        return entries
    entry = unsqueeze_to(moved, entries.dim()).expand(*moved.shape, 1, *classes)
    moves = unsqueeze_to(rise, entries.dim()) * entries.gather(lead, entry)
    zero = moves.new_zeros(()).expand(*moved.shape, count // sides, *classes)
    return zero.scatter(lead, entry // sides, moves)


def _one_entry(weights: Tensor, generator: Generator | None) -> Tensor:
    """Draw the number of one entry with probability proportional to its weight: [..., entries] -> [...].

    Where all weights are 0, it is any entry.
    """
    if not weights.shape[-1]:
        return weights.new_zeros(weights.shape[:-1], dtype=torch.int64)
    upto = weights.cumsum(-1)
    u = noise.uniform((*weights.shape[:-1], 1), weights, generator)
    found = torch.searchsorted(upto, u * upto[..., -1:], right=True)  # the first one whose sum lies above
    return found.clamp_max(weights.shape[-1] - 1).squeeze(-1)
