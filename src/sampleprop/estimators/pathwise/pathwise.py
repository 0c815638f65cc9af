"""The reparameterization trick.

Source: Kingma and Welling (2014), "Auto-encoding variational Bayes", sec. 2.4.
Differences from the paper: none.
"""

from __future__ import annotations

import math

from torch import Generator, Tensor

from sampleprop.bibliography import cited
from sampleprop.estimators.pathwise.through_points import Draw, ThroughPoints
from sampleprop.families import Variables
from sampleprop.surrogate import guarded


class Pathwise(ThroughPoints[Variables]):
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
    source = cited("kingma2014auto", "sec. 2.4")

    def __init__(self, samples: int | None = 1, *, allow_unused: bool = False) -> None:
        super().__init__(samples, allow_unused)

    def highest_order(self, variables: Variables) -> float:
        return math.inf if variables.smooth else 1

    def refuses(self, variables: Variables) -> str | None:
        if variables.is_discrete:
            return (
                f"Pathwise needs a continuous distribution; got {variables.kind}, whose samples have no derivative by φ. Use "
                "ScoreFunction, which is unbiased, or StraightThrough, which is not."
            )
        if not variables.dist.has_rsample:
            return (
                f"Pathwise needs a distribution with rsample; got {variables.kind}, which has none. Use ScoreFunction."
            )
        return None

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(self._points(variables, self.draws, generator))

    def one(self, variables: Variables, generator: Generator | None) -> Tensor:
        return self._points(variables, None, generator)

    def _points(self, variables: Variables, k: int | None, generator: Generator | None) -> Tensor:
        points = variables.rsample(k, generator)
        return points if variables.smooth else guarded(self.name, points)
