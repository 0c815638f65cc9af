"""UGC: DisARM, with BitFlip-1 for the bits where that varies less.

Source: [kunes2023gradient]. Differences from the paper: none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks, sums
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import antithetic
from sampleprop.estimators.score.bitflip import by_flip, flip
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached; first every b, then every b̃
    probes: Tensor  # [samples / 2, *batch, *event], detached: each b with one bit flipped
    flipped: Tensor  # [samples / 2, *batch], the number of the bit that was chosen
    bit: Tensor  # [samples / 2, *batch], what it was, in the dtype of the logits
    difference: Tensor  # [samples / 2, *batch, *event], b - b̃ in the dtype of the logits


class UGC(Estimator[Bernoullis, Draw]):
    r"""Uses DisARM's estimate for each bit, but BitFlip-1's where the probability is near 0 or 1.

    .. math::

        \nabla_{\phi_v} L \approx \begin{cases}
            \text{BitFlip-1} & \min(p_v, 1 - p_v) < \frac{1}{2 D} \\
            \frac12 (f(x) - f(\tilde x)) (x_v - \tilde x_v)\, \sigma(|\phi_v|) & \text{else}
        \end{cases}

    with D bits, and x, x̃ an antithetic pair; averaged over the pairs. :class:`BitFlip` flips a bit of x, any of the D.

    Unbiased, because both are unbiased, and the choice between them depends on φ but not on the sample. f may be a
    black box. Three evaluations of f for each pair; a flip of probability zero is not shown to f.

    Args:
        samples: the number of samples, two for each pair: even, at least 2.

    Raises:
        ValueError: for another number of samples, and by `combine` without the costs of the flipped points.

    Example, for p = (4/5, 1/2) and f = (x₁ + x₂)². The first bit is near 1, because 1/5 < 1/4: its flip in x = (1, 0)
    gives 2 · 4/25 · (1 - 0) = 0.32. The second bit differs in the pair x, x̃ = (1, 1), so it gets
    (1 - 4) / 2 · (0 - 1) · 1/2 = 0.75:

        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([4.0, 1.0]).log().requires_grad_()
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> points, flipped = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0])
        >>> draw = Draw(points, torch.zeros(1, 2), flipped, torch.tensor([1.0]), torch.tensor([[0.0, -1.0]]))
        >>> loss = sp.UGC().combine(q, draw, torch.tensor([1.0, 4.0]), probe_costs=torch.tensor([0.0]))
        >>> loss.backward()
        >>> loss.detach(), logits.grad
        (tensor(2.5000), tensor([0.3200, 0.7500]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    reads_points = False
    samples_step = 2
    source = cited("kunes2023gradient")

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("UGC", samples, least=2, step=2)
        self.samples = samples

    def calls(self, variables: Bernoullis) -> tuple[int, int]:
        return self.draws + self.draws // 2, 0

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        points, _ = antithetic.pairs(variables, self.draws, generator)
        flipped = flip(variables, points.chunk(2)[0], generator)
        return Draw(points, *flipped, antithetic.differences(variables.one_hot(points)))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        pair = sums.over_samples(antithetic.weights(costs.points) / 2, draw.difference) * variables.commoner
        single = by_flip(variables, draw.flipped, draw.bit, costs.probes - costs.fixed.chunk(2)[0])
        edge = variables.rarer < 1 / max(2 * math.prod(variables.event_logits_shape), 1)
        gradient = torch.where(edge, single, pair)
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
