"""The reparameterization trick.

Source: [kingma2014auto], sec. 2.4. Differences from the paper: none.
"""

from __future__ import annotations

import math

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.estimators.through_points import Draw, ThroughPoints
from sampleprop.families import Variables
from sampleprop.surrogate import guarded


class Pathwise(ThroughPoints[Variables]):
    r"""Differentiates f through the sample, x = g(φ, ε).

    .. math::

        \nabla_\phi L \approx \frac1k \sum_i \nabla_\phi f(g(\phi, \varepsilon_i)),
            \qquad \varepsilon_i \sim p(\varepsilon)

    Unbiased for f that is continuous in x and differentiable almost everywhere. A jump in f causes a bias without an
    error; `check` finds it. The distribution needs `rsample`. k evaluations of f and k backward passes through it.
    Second derivatives are right where `rsample` is an explicit formula (Normal, for instance); otherwise they raise
    (Gamma).

    Args:
        samples: k, at least 1; None for one sample without a sample dimension in a program.
        allow_unused: accept a cost without a path to x; its gradient for φ is then zero.
        allow_steps: accept a cost with a step (round, sign) on its path to x; the gradient for φ ignores the step.

    Raises:
        ValueError: for a number of samples below 1.
        TypeError: for a distribution without `rsample`, and for a discrete one.
        RuntimeError: for a cost with no path to x, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for x = μ + ε with μ = 0, ε = (2, -1) and f = x²: the means of (4, 1) and of the derivatives 2x = (4, -2):

        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros((), requires_grad=True)
        >>> draw = Draw(mean + torch.tensor([2.0, -1.0]))
        >>> q = torch.distributions.Normal(mean, 1.0)
        >>> loss = sp.Pathwise(2).combine(q, draw, draw.points.square())
        >>> loss.backward()
        >>> loss.detach(), mean.grad
        (tensor(2.5000), tensor(1.))
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    family = "pathwise"
    aliases = ("reparameterization",)
    source = cited("kingma2014auto", "sec. 2.4")

    def highest_order(self, variables: Variables) -> float:
        return math.inf if variables.smooth else 1

    def refuses(self, variables: Variables) -> str | None:
        more = ", which is unbiased, or StraightThrough, which is not"
        return checks.rsample_refusal(self.name, variables, "ScoreFunction", more)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(self._points(variables, self.draws, generator))

    def one(self, variables: Variables, generator: Generator | None) -> Tensor:
        return self._points(variables, None, generator)

    def _points(self, variables: Variables, k: int | None, generator: Generator | None) -> Tensor:
        points = variables.rsample(k, generator)
        return points if variables.smooth else guarded(self.name, points)
