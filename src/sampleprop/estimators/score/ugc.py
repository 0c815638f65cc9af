"""UGC: DisARM, with BitFlip-1 for the bits where that varies less.

Source: Kunes, Yin, Land, Haviv, Pe'er and Tavaré (2023), "Gradient estimation for binary latent variables via gradient
variance clipping".
Differences from the paper: none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Worked
from sampleprop.estimators.coupled import antithetic
from sampleprop.estimators.score.bitflip import SOURCE, Draw, by_flip, flip
from sampleprop.surrogate import surrogate, unsqueeze_to


class UGC(Estimator[Draw]):
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
    families = (families.Bernoullis,)
    samples_step = 2
    source = SOURCE

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("UGC", samples, least=2, step=2)
        self.samples = samples

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return self.draws + self.draws // 2, 0

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        points, _ = antithetic.pairs(variables, self.draws, generator)
        return Draw(points, *flip(variables, points.chunk(2)[0], generator))

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
        checks.whole(self.name, keep)
        variables = families.variables(dist)
        logits = variables.logits.detach()
        difference = unsqueeze_to(antithetic.differences(costs.detach()), draw.points.dim())
        pair = difference / 2 * antithetic.differences(draw.points) * logits.abs().sigmoid()
        single = by_flip(self.name, dist, draw, costs.detach().chunk(2)[0], probe_costs)
        edge = (-logits.abs()).sigmoid() < 1 / max(2 * math.prod(variables.event_logits_shape), 1)
        gradient = torch.where(edge, single, pair).mean(0)
        return surrogate(self.name, costs.mean(0), (variables.logits,), (gradient,))

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(), cls(4))

    @classmethod
    def worked(cls) -> Worked:
        # p = (0.8, 0.5) and D = 2. 0.2 < 1/4: bit 1 of (1, 0) is flipped, 2 * 0.16 * (1 - 0). Bit 2 differs in the pair (1, 0),
        # (1, 1): (1 - 4)/2 * (0 - 1) * 1/2.
        return Worked(
            estimator=cls(),
            parameter=torch.tensor([math.log(4.0), 0.0], dtype=torch.float64),
            dist=lambda logits: Independent(Bernoulli(logits=logits), 1),
            draw=lambda dist: Draw(
                torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64),
                torch.tensor([[0.0, 0.0]], dtype=torch.float64),
                torch.tensor([[True, False]]),
            ),
            f=lambda x: x.sum(-1).square(),
            value=torch.tensor(2.5, dtype=torch.float64),
            gradient=torch.tensor([0.32, 0.75], dtype=torch.float64),
        )
