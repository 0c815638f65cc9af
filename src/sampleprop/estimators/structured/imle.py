"""Implicit maximum likelihood estimation: the difference of two solutions.

Source: [niepert2021implicit], alg. 1. Differences from the paper: the difference is divided by λ, without which the
length of the gradient depends on λ; the noise is that of the distribution; the symmetric difference is that of
[minervini2023adaptive], without its adaptation of λ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.score.control_variates import value_and_derivative
from sampleprop.families import Solutions
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    noise: Tensor  # [k, *batch, *scores], detached: the standard noise of each solution
    probes: None = None


class IMLE(Estimator[Solutions, Draw]):
    r"""Moves the perturbed scores against the derivative of f, solves again, and takes the difference of the solutions.

    .. math::

        \nabla_\theta L \approx \frac1k \sum_i \frac{y_i - \operatorname{solver}(\theta - \lambda \nabla f(y_i)
            + \sigma Z_i)}{\lambda}, \qquad y_i = \operatorname{solver}(\theta + \sigma Z_i)

    with the same noise in both. **Biased**: it shrinks the gradient, more so for a larger λ, and for f that is not
    linear. For linear f the bias vanishes as λ → 0, where most differences are 0 and the variance grows. The value and
    the gradient for θ of f are exact in the mean. f must be differentiable at the solutions, which have the shape of
    the scores. λ is in units of the derivative of one cost, so it does not depend on how costs are averaged.

    2 k evaluations of f (k of them for its derivative, without gradient for its own parameters), k backward passes
    through it, and 2 k solutions (3 k if symmetric).

    Args:
        samples: k, at least 1.
        step: λ, above 0.
        symmetric: whether to move the scores both ways, and to take half of the difference. That has less bias.

    Raises:
        ValueError: for arguments out of range, and by `combine` without f.
        TypeError: for any other distribution than :class:`PerturbAndMAP`, and where solutions are not of the shape of
            the scores.

    Example, for the larger of two scores θ = 0 with the noise Z = (1, 0), f = 2 y₁ and λ = 1. The first solution is
    (1, 0). The scores (1, 0) - (2, 0) have the solution (0, 1), and the difference is (1, -1):

        >>> import torch, sampleprop as sp
        >>> scores = torch.zeros(2, requires_grad=True)
        >>> q = sp.PerturbAndMAP(scores, lambda s: (s == s.amax(-1, keepdim=True)).to(s))
        >>> draw = Draw(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        >>> f = lambda y: 2 * y[..., 0]
        >>> loss = sp.IMLE().combine(q, draw, f(draw.points), relaxed_f=f)
        >>> loss.backward()
        >>> loss.detach(), scores.grad
        (tensor(2.), tensor([ 1., -1.]))
    """

    unbiased = False
    exact_forward = True
    needs = "differentiable"
    family = "solvers"
    calls_f = True
    compiles = "it calls the user's solver, which may be anything"
    source = cited("niepert2021implicit", "alg. 1")

    def __init__(self, samples: int = 1, *, step: float = 1.0, symmetric: bool = False) -> None:
        super().__init__()
        checks.samples("IMLE", samples)
        checks.positive("IMLE", "step", step)
        self.samples = samples
        self.step = step
        self.symmetric = symmetric

    def calls(self, variables: Solutions) -> tuple[int, int]:
        return 2 * self.draws, self.draws

    def refuses(self, variables: Solutions) -> str | None:
        scores = variables.scores_given.shape[len(variables.base.batch_shape) :]
        if variables.base.event_shape == scores:
            return None
        return (
            f"IMLE needs solutions of the shape of their scores, {list(scores)}, because it moves the scores by the "
            f"derivative of f; got {list(variables.base.event_shape)}. Use PerturbedScore."
        )

    def draw(self, variables: Solutions, generator: Generator | None) -> Draw:
        noise = variables.standard_noise(self.draws, generator)
        return Draw(variables.solutions(noise), noise)

    def estimate(self, variables: Solutions, draw: Draw, costs: Costs) -> Tensor:
        _, derivatives = value_and_derivative(costs.f, draw.points, variables.scores_given.dtype)
        moved = variables.solutions(draw.noise, -self.step * derivatives)
        other = variables.solutions(draw.noise, self.step * derivatives) if self.symmetric else draw.points
        width = 2 * self.step if self.symmetric else self.step
        with torch.no_grad():
            differences = (other - moved).to(variables.scores_given.dtype) / width
            # A solver has an answer even to NaN: 0 · NaN lets a cost that is not finite show in the gradient.
            gradient = costs.average(differences + unsqueeze_to(0 * costs.fixed, differences.dim()))
        return surrogate(self.name, costs.mean(), (variables.scores_given,), (gradient,))
