"""UGC: DisARM, with BitFlip-1 for the bits where that varies less.

Source: Kunes, Yin, Land, Haviv, Pe'er and Tavaré (2023), "Gradient estimation for binary latent variables via gradient
variance clipping".
Differences from the paper: none.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import antithetic
from sampleprop.estimators.score.bitflip import SOURCE, Draw, by_flip, flip
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate, unsqueeze_to


class UGC(Estimator[Bernoullis, Draw]):
    r"""Uses DisARM's estimate for each bit, but BitFlip-1's where the probability is near 0 or 1.

    .. math::

        \nabla_{\phi_v} L \approx \begin{cases}
            \text{BitFlip-1} & \min(p_v, 1 - p_v) < \frac{1}{2 D} \\
            \frac12 (f(x) - f(\tilde x)) (x_v - \tilde x_v)\, \sigma(|\phi_v|) & \text{else}
        \end{cases}

    with D bits, and x, x̃ an antithetic pair; averaged over the pairs. :class:`BitFlip` flips a bit of x, any of the D.

    Unbiased, as both are: φ alone decides which of them a bit uses, and not the sample. f may be a black box. Three
    evaluations of f for each pair; a flip of probability zero is not shown to f.

    Args:
        samples: the number of samples, two for each pair; even, at least 2.

    Raises:
        ValueError: for an odd number of samples, or one below 2, and when `combine` is not given the costs of the flipped
            points.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([4.0, -5.0, 0.3], requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.UGC()).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    whole = True
    samples_step = 2
    source = SOURCE

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("UGC", samples, least=2, step=2)
        self.samples = samples

    def calls(self, variables: Bernoullis) -> tuple[int, int]:
        return self.draws + self.draws // 2, 0

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        points, _ = antithetic.pairs(variables, self.draws, generator)
        return Draw(points, *flip(variables, points.chunk(2)[0], generator))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        logits = variables.logits.detach()
        difference = unsqueeze_to(antithetic.differences(costs.fixed), draw.points.dim())
        pair = difference / 2 * antithetic.differences(draw.points) * logits.abs().sigmoid()
        single = by_flip(variables, draw, costs.fixed.chunk(2)[0], costs.probes)
        edge = (-logits.abs()).sigmoid() < 1 / max(2 * math.prod(variables.event_logits_shape), 1)
        gradient = torch.where(edge, single, pair).mean(0)
        return surrogate(self.name, costs.points.mean(0), (variables.logits,), (gradient,))
