"""BitFlip-1: the difference of the cost when one bit is flipped.

Source: [kunes2023gradient]. Differences from the paper: none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate
from sampleprop.tracing import inspectable


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached; for UGC the pivots first, then their partners
    probes: Tensor  # [pivots, *batch, *event], detached: each pivot with one bit flipped
    flipped: Tensor  # [pivots, *batch], the number of the bit that was chosen


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
        >>> draw = Draw(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
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
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))


def flip(variables: Bernoullis, points: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Return the points with one bit flipped, unless that is impossible, and the number of the bit that was chosen."""
    rows = _rows(variables, points)
    chosen = torch.randint(max(rows.shape[-1], 1), rows.shape[:-1], generator=generator, device=points.device)
    if not rows.shape[-1]:
        return points.clone(), chosen
    index, variance = chosen.unsqueeze(-1), variables.variance
    bit = rows.gather(-1, index)
    other = 1 - bit
    if not inspectable(variance) or variance.is_cuda or not (variance > 0).all():  # some flips may be impossible
        other = torch.where(_rows(variables, variance.expand_as(points)).gather(-1, index) > 0, other, bit)
    return _like(rows.scatter(-1, index, other), points), chosen


def by_flip(variables: Bernoullis, draw: Draw, costs: Tensor, probe_costs: Tensor) -> Tensor:
    """Return the estimate of BitFlip-1 from the pivots, whose costs are given, averaged over them: [*batch, *event]."""
    count = draw.probes.shape[0]
    pivots = _rows(variables, draw.points if count == draw.points.shape[0] else draw.points[:count])
    bits = pivots.shape[-1]
    if not bits:
        return variables.variance
    # In the dtype of the logits, because D may be too large for that of the points.
    bit = variables.one_hot(pivots.gather(-1, draw.flipped.unsqueeze(-1)).squeeze(-1))  # [pivots, *batch]
    share = bits / count
    rise = (probe_costs - costs) * torch.rsub(bit, share, alpha=2 * share)  # times 1 - 2 x: from 0 to 1
    # Added one after another, which in float32 would lose the digits of many pivots.
    zeros = rise.new_zeros(pivots.shape[1:], dtype=torch.float64)
    rises = zeros.scatter_add(-1, draw.flipped.movedim(0, -1), rise.double().movedim(0, -1)).to(rise.dtype)
    return _like(rises, variables.logits) * variables.variance


def _like(x: Tensor, other: Tensor) -> Tensor:
    """`x` in the shape of the other one."""
    return x if x.shape == other.shape else x.reshape(other.shape)


def _rows(variables: Bernoullis, x: Tensor) -> Tensor:
    """[pivots, *batch, *event] -> [pivots, *batch, bits]."""
    return x if variables.event_ndim == 1 else x.unsqueeze(-1).flatten(x.dim() - variables.event_ndim)
