"""Simultaneous perturbation (SPSA): all parameters are moved at once, each by the same step up or down.

Source: [spall1992multivariate], eq. 2. Differences from the paper: the two sides draw their samples from the same
noise. Parameters with bounds are moved in coordinates without bounds. The step is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.estimators.smoothing.perturbation import PerturbedParameters


class SPSA(PerturbedParameters):
    r"""Moves every parameter by a random step up or down, and divides the change of the cost by each step.

    .. math::

        \partial_{u_j} L \approx \frac1k \sum_i \frac{f(x_i^+) - f(x_i^-)}{2 c\, \Delta_{i,j}}, \qquad
        x_i^\pm \sim p_{u \pm c\Delta_i} \text{ from the same noise}, \quad
        \Delta_{i,j} = \pm 1

    where u are the parameters of the distribution in coordinates without bounds: the logarithm of a scale, the logit of
    a probability, a mean as it is. Biased by the order c², unless L is a polynomial of second degree in u. The value,
    and the gradient for θ, are those of true samples and have no bias.

    f may be a black box, with jumps, and p needs no log-probability and no derivative, as for
    :class:`EvolutionStrategies`. There the directions are Gaussian; here they all have the same length, which makes the
    variance smaller. 3 k evaluations of f, two thirds of them without gradient, whatever the number of parameters.

    Args:
        samples: k, at least 1, each with its own moves.
        step: c, above 0, in the units of u.

    Raises:
        ValueError: for arguments out of range, and when `combine` is not given the costs at the perturbed parameters.
        TypeError: for a distribution that does not name its parameters, or whose parameters bound each other.

    Example, for a mean of 1 and a log-scale of 0, c = 1/2 and Δ = (1, -1): they are moved to 3/2 and -1/2, and to 1/2
    and 1/2. With the noise 0, x is 3/2 and 1/2, and f = x² is 9/4 and 1/4. The derivative for the mean is
    (9/4 - 1/4) / (2 · 1/2) = 2, and that for the log-scale is its negative. The sample x = 3 has f = 9:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.smoothing.perturbation import Draw
        >>> phi = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> q = torch.distributions.Normal(phi[0], phi[1].exp())
        >>> moves = {"loc": torch.tensor([1.0]), "scale": torch.tensor([-1.0])}
        >>> draw = Draw(torch.tensor([3.0]), torch.tensor([1.5, 0.5]), moves, step=0.5)
        >>> loss = sp.SPSA(step=0.5).combine(q, draw, draw.points.square(), probe_costs=draw.probes.square())
        >>> loss.backward()
        >>> loss.detach(), phi.grad
        (tensor(9.), tensor([ 2., -2.]))
    """

    source = cited("spall1992multivariate", "eq. 2")

    def __init__(self, samples: int = 1, *, step: float = 0.1) -> None:
        super().__init__(samples)
        checks.positive(self.name, "step", step)
        self.step = step

    @property
    def _step(self) -> float:
        return self.step

    @staticmethod
    def _direction(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
        coins = noise.fractions(shape, like, generator).mul_(2).floor_()
        return noise.cast(torch.rsub(coins, 1, alpha=2), like.dtype)  # = 1 / Δ
