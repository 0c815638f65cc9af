"""DisARM, also known as U2G: the antithetic pair with its noise averaged out.

Source: Dong, Mnih and Tucker (2020), "DisARM: An antithetic gradient estimator for binary latent variables", sec. 3;
at the same time Yin, Ho, Yan, Qian and Zhou (2020), "Probabilistic best subset selection via gradient-based optimization",
as U2G.
Differences from the paper: none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.coupled import antithetic
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached; first every b, then every b̃
    probes: None = None


class DisARM(Estimator[Draw]):
    r"""Evaluates f at an antithetic pair, and credits the difference to the variables that differ.

    .. math::

        \nabla_{\phi_i} L \approx \tfrac12 (f(b) - f(\tilde b)) (b_i - \tilde b_i)\, \sigma(|\phi_i|), \qquad
            b = \mathbb{1}[u > 1 - p], \quad \tilde b = \mathbb{1}[u < p], \quad u \sim U(0, 1)^D

    Unbiased, averaged over the pairs. f may be a black box; the variables are Bernoulli with logits φ. One evaluation of f
    for each sample. For one variable the variance is at most that of leave-one-out with two samples. Several pairs learn
    nothing from each other: from four samples on, :class:`ARMS`, which compares all of them, is better.

    Args:
        samples: evaluations of f, two for each pair: an even number, at least 2.

    Raises:
        ValueError: for an odd number of samples.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.DisARM()).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    families = (families.Bernoullis,)
    samples_step: ClassVar[int] = 2
    source = Source(
        key="dong2020disarm",
        authors="Zhe Dong and Andriy Mnih and George Tucker",
        year=2020,
        title="DisARM: An antithetic gradient estimator for binary latent variables",
        venue="Advances in Neural Information Processing Systems 33",
        arxiv="2006.10680",
        where="sec. 3",
    )

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("DisARM", samples, least=2, step=2)
        self.samples = samples

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        points, _ = antithetic.pairs(families.variables(dist), self.draws, generator)
        return Draw(points)

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
        logits = families.variables(dist).logits
        weights = antithetic.weights(self.name, costs, keep)  # [samples / 2, *batch]
        weighted = unsqueeze_to(weights, draw.points.dim()) * antithetic.differences(draw.points)
        # Given b ≠ b̃, u is uniform on the outer tails, and the mean of |u - 1/2| there is half of σ(|φ|).
        gradient = weighted.sum(0) * logits.detach().abs().sigmoid() / 2  # [*batch, *event]
        return surrogate(self.name, average(costs, keep), (logits,), (gradient,))

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return cls(), cls(4)

    @classmethod
    def worked(cls) -> Worked:
        # p = 3/4 and u = 0.9: b = 1[0.9 > 0.25] = 1, b̃ = 1[0.9 < 0.75] = 0, f = (3, 1): the gradient is 1/2 · 2 · 1 · 3/4.
        return Worked(
            estimator=cls(),
            parameter=torch.tensor(math.log(3), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0, 0.0], dtype=torch.float64)),
            f=lambda x: 1 + 2 * x,
            value=torch.tensor(2.0, dtype=torch.float64),
            gradient=torch.tensor(0.75, dtype=torch.float64),
        )
