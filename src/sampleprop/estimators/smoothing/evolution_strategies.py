"""Evolution strategies: the gradient of L smoothed by Gaussian noise on the parameters, from differences of costs.

Source: Salimans, Ho, Chen, Sidor and Sutskever (2017), "Evolution strategies as a scalable alternative to reinforcement
learning", sec. 2, with the antithetic pairs of sec. 2.1.
Differences from the paper: costs are not replaced by their ranks; the two sides of a pair draw their samples from the
same noise; parameters with bounds are perturbed in coordinates without.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.estimators.smoothing.perturbation import PerturbedParameters


class EvolutionStrategies(PerturbedParameters):
    r"""Moves all parameters along a random direction, there and back, and follows it as far as the cost changed.

    .. math::

        \nabla_u L \approx \frac1k \sum_i \frac{f(x_i^+) - f(x_i^-)}{2\sigma}\, \varepsilon_i, \qquad
        x_i^\pm \sim p_{u \pm \sigma\varepsilon_i} \text{ from the same noise}, \quad
        \varepsilon_i \sim \mathcal{N}(0, I)

    where u are the parameters of the distribution in coordinates without bounds: the logarithm of a scale, the logit of a
    probability, a mean as it is. Biased: it is the exact gradient of the smoothed :math:`\mathbb{E}_\varepsilon
    [L(u + \sigma\varepsilon)]`, and differs from that of L in the order σ². The value, and the gradient for θ, are those of
    true samples and have no bias.

    f may be a black box, with jumps, and p needs no log-probability and no derivative: it is enough that it keeps its
    parameters under the names in its `arg_constraints` and can be sampled. Only parameters that require a gradient are
    moved. 3 k evaluations of f, two thirds of them without gradient, whatever the number of parameters; the variance grows
    with that number. Where x is discrete, or has jumps, it grows with 1/σ too; and with 1/σ² where sampling rejects, so
    that the same noise does not stay the same (Gamma, Beta, Poisson on the CPU).

    Args:
        samples: k, at least 1, each with its own direction.
        sigma: σ, above 0, in the units of u.

    Raises:
        ValueError: for arguments out of range, and when `combine` is not given the costs at the perturbed parameters.
        TypeError: for a distribution that does not name its parameters, or whose parameters bound each other.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> sp.expect(lambda x: (x > 0.5).float().sum(-1), q, sp.EvolutionStrategies(8, sigma=0.3)).backward()
    """

    source = cited("salimans2017evolution", "sec. 2")

    def __init__(self, samples: int = 1, *, sigma: float = 0.1) -> None:
        super().__init__(samples)
        checks.positive(self.name, "sigma", sigma)
        self.sigma = sigma

    @property
    def _step(self) -> float:
        return self.sigma

    @staticmethod
    def _direction(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
        return noise.normal(shape, like, generator)
