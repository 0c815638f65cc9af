"""The reparameterization trick.

Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", sec. 2.4.
Differences from the paper: none.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Normal

from sampleprop import families
from sampleprop.estimator import Source, Worked
from sampleprop.estimators.pathwise.through_points import Draw, ThroughPoints
from sampleprop.surrogate import guarded


class Pathwise(ThroughPoints):
    r"""Differentiates f through the sample, x = g(φ, ε).

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(g(\phi, \varepsilon_i)),
            \qquad \varepsilon_i \sim p(\varepsilon)

    Unbiased for f that is continuous in x and differentiable almost everywhere. A jump in f makes it silently biased:
    `check` finds that. The distribution needs `rsample`. k evaluations of f and k backward passes through it. Second
    derivatives are right where `rsample` is an explicit formula (Normal, for instance) and raise otherwise (Gamma, Beta).

    Args:
        samples: k, at least 1; None for one that adds no dimension in a program.
        allow_unused: let a cost pass that has no path to x, whose gradient for φ is then zero.

    Raises:
        ValueError: for a number of samples below 1.
        TypeError: for a distribution without `rsample`, and for a discrete one.
        RuntimeError: for a cost with no path to x, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> sp.expect(lambda x: x.square().sum(-1), q, sp.Pathwise(samples=2)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    source = Source(
        key="kingma2014auto",
        authors="Diederik P. Kingma and Max Welling",
        year=2014,
        title="Auto-encoding variational Bayes",
        venue="International Conference on Learning Representations",
        arxiv="1312.6114",
        where="sec. 2.4",
    )

    def __init__(self, samples: int | None = 1, *, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused)

    def order(self, dist: Distribution) -> float:
        return math.inf if families.smooth_rsample(dist) else 1

    def refusal(self, dist: Distribution) -> str | None:
        refusal = super().refusal(dist)
        if refusal is not None:
            return refusal
        discrete = families.is_discrete(dist)
        if not discrete and dist.has_rsample:
            return None
        kind = type(families.unwrap(dist)[0]).__name__
        if discrete:
            return (
                f"Pathwise needs a continuous distribution; got {kind}, whose samples have no derivative by φ. Use "
                "ScoreFunction, which is unbiased, or StraightThrough, which is not."
            )
        return f"Pathwise needs a distribution with rsample; got {kind}, which has none. Use ScoreFunction."

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        return Draw(self._attached(dist, families.rsample(dist, self.draws, generator)))

    def one(self, dist: Distribution, generator: Generator | None) -> Tensor:
        return self._attached(dist, families.rsample(dist, None, generator))

    def _attached(self, dist: Distribution, points: Tensor) -> Tensor:
        return points if self.order(dist) > 1 else guarded(self.name, points)

    @classmethod
    def worked(cls) -> Worked:
        # x = μ + ε with ε = (2, -1) at μ = 0 and f(x) = x²: the mean of (4, 1), and of 2x = (4, -2).
        return Worked(
            estimator=cls(2),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda mean: Normal(mean, 1.0),
            draw=lambda dist: Draw(dist.loc + torch.tensor([2.0, -1.0], dtype=torch.float64)),
            f=torch.square,
            value=torch.tensor(2.5, dtype=torch.float64),
            gradient=torch.tensor(1.0, dtype=torch.float64),
        )
