"""The score of the noise in front of a solver.

Source: [berthet2020learning], prop. 3.1. Differences from the paper: of f of the solutions, not of the solutions
themselves, and with a leave-one-out baseline.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.families import Solutions
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    noise: Tensor  # [k, *batch, *scores], detached: the standard noise of each solution
    probes: None = None


class PerturbedScore(Estimator[Solutions, Draw]):
    r"""Multiplies how much each cost exceeds the others by the score of the noise that led to the solution.

    .. math::

        \nabla_\theta L \approx \frac1k \sum_i \bigl(f(y_i) - \overline{f(y_j)}_{j \ne i}\bigr)\,
            \frac{\nabla\nu(Z_i)}{\sigma}, \qquad y_i = \operatorname{solver}(\theta + \sigma Z_i),
            \quad p(Z) \propto e^{-\nu(Z)}

    Unbiased for the perturbed distribution, whatever σ is. f and the solver may be black boxes, and f may jump. It is
    the score function of the perturbed scores, with the solver as a part of f. k evaluations of f and k solutions. The
    variance grows as 1 / σ² and with the number of scores: a distribution that knows its log-probability has a better
    score.

    Args:
        samples: k, at least 1; from two on each cost is compared with the mean of the others.

    Raises:
        ValueError: for fewer samples than 1.
        TypeError: for any other distribution than :class:`PerturbAndMAP`.

    Example, for the larger of two scores θ = 0 with normal noise of σ = 2. Z = (1, -1) and (-1, 1) make the first and
    the second one larger, with the costs 3 and 1. Each cost exceeds the other by ±2, and the mean of ±2 Z / 2 is
    (1, -1):

        >>> import torch, sampleprop as sp
        >>> scores = torch.zeros(2, requires_grad=True)
        >>> q = sp.PerturbAndMAP(scores, lambda s: (s == s.amax(-1, keepdim=True)).to(s), scale=2.0)
        >>> noise = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> loss = sp.PerturbedScore(2).combine(q, Draw(torch.eye(2), noise), torch.tensor([3.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), scores.grad
        (tensor(2.), tensor([ 1., -1.]))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "solvers"
    compiles = "it calls the user's solver, which may be anything"
    source = cited("berthet2020learning", "prop. 3.1")

    def __init__(self, samples: int = 8) -> None:
        super().__init__()
        checks.samples("PerturbedScore", samples)
        self.samples = samples

    def draw(self, variables: Solutions, generator: Generator | None) -> Draw:
        noise = variables.standard_noise(self.draws, generator)
        return Draw(variables.solutions(noise), noise)

    def estimate(self, variables: Solutions, draw: Draw, costs: Costs) -> Tensor:
        alone = costs.points.shape[0] == 1
        weights = costs.shared(costs.fixed) if alone else costs.beyond_others()  # [k, *batch], divided by k
        with torch.no_grad():
            slopes = variables.base.slope(draw.noise) / variables.base.scale
            gradient = (unsqueeze_to(weights, slopes.dim()) * slopes).sum(0)  # [*batch, *scores]
        return surrogate(self.name, costs.mean(), (variables.scores_given,), (gradient,))
