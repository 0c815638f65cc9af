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
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate
from sampleprop.tracing import inspectable


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: Tensor  # [k, *batch, *event], detached: each point with one bit flipped
    flipped: Tensor  # [k, *batch], the number of the bit that was chosen
    bit: Tensor  # [k, *batch], what it was, in the dtype of the logits


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
        >>> draw = Draw(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1]), torch.tensor([1.0]))
        >>> loss = sp.BitFlip().combine(q, draw, torch.tensor([4.0]), probe_costs=torch.tensor([1.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad
        (tensor(4.), tensor([0.0000, 1.5000]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    reads_points = False
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
        gradient = by_flip(variables, draw.flipped, draw.bit, costs.probes - costs.fixed)
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))


def flip(variables: Bernoullis, points: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points with one bit flipped, unless that is impossible, the number of this bit, and what it was."""
    rows = _rows(variables, points)
    chosen = torch.randint(max(rows.shape[-1], 1), rows.shape[:-1], generator=generator, device=points.device)
    if not rows.shape[-1]:
        return points.clone(), chosen, chosen.to(variables.logits.dtype)
    index, variance = chosen.unsqueeze(-1), variables.variance
    bit = rows.gather(-1, index)
    other = 1 - bit
    some = inspectable(variance) and not variance.is_cuda and variance.numel()
    if not (some and variance.min().item() > 0):  # some flips may be impossible
        other = torch.where(_rows(variables, variance.expand_as(points)).gather(-1, index) > 0, other, bit)
    return _like(rows.scatter(-1, index, other), points), chosen, variables.one_hot(bit.squeeze(-1))


def by_flip(variables: Bernoullis, flipped: Tensor, bit: Tensor, rise: Tensor) -> Tensor:
    """Return the estimate of BitFlip-1, averaged over the pivots: [*batch, *event].

    Args:
        variables: Bernoulli variables.
        flipped: the number of the bit of each pivot that was flipped, [pivots, *batch], and
        bit: what it was.
        rise: the cost of each pivot with this bit flipped, less its own, [pivots, *batch].
    """
    bits = math.prod(variables.event_logits_shape)
    if not bits:
        return variables.variance
    share = bits / flipped.shape[0]
    rise = rise * torch.rsub(bit, share, alpha=2 * share)  # times 1 - 2 x: from 0 to 1
    shape = (*variables.batch_shape, bits)
    if flipped.shape[0] == 1:
        rises = rise.new_zeros(shape).scatter(-1, flipped.movedim(0, -1), rise.movedim(0, -1))
    else:  # added one after another, which in float32 would lose the digits of many pivots
        zeros = rise.new_zeros(shape, dtype=torch.float64)
        rises = zeros.scatter_add(-1, flipped.movedim(0, -1), rise.double().movedim(0, -1)).to(rise.dtype)
    return _like(rises, variables.logits) * variables.variance


def _like(x: Tensor, other: Tensor) -> Tensor:
    """`x` in the shape of the other one."""
    return x if x.shape == other.shape else x.reshape(other.shape)


def _rows(variables: Bernoullis, x: Tensor) -> Tensor:
    """[pivots, *batch, *event] -> [pivots, *batch, bits]."""
    return x if variables.event_ndim == 1 else x.unsqueeze(-1).flatten(x.dim() - variables.event_ndim)
