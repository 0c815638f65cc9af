"""Evolution strategies: the gradient of L smoothed by Gaussian noise on the parameters, from differences of costs.

Source: [salimans2017evolution], sec. 2, with the antithetic pairs of sec. 2.1. Differences from the paper: costs are
not replaced by their ranks. The two sides of a pair draw their samples from the same noise. Parameters with bounds are
perturbed in coordinates without bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.estimators.smoothing.perturbation import PerturbedParameters


class EvolutionStrategies(PerturbedParameters):
    r"""Moves all parameters along a random direction and back, and weights the direction by the change of the cost.

    .. math::

        \nabla_u L \approx \frac1k \sum_i \frac{f(x_i^+) - f(x_i^-)}{2\sigma}\, \varepsilon_i, \qquad
        x_i^\pm \sim p_{u \pm \sigma\varepsilon_i} \text{ from the same noise}, \quad
        \varepsilon_i \sim \mathcal{N}(0, I)

    where u are the parameters of the distribution in coordinates without bounds: the logarithm of a scale, the logit of
    a probability, a mean as it is. Biased: it is the exact gradient of the smoothed :math:`\mathbb{E}_\varepsilon
    [L(u + \sigma\varepsilon)]`, which differs from that of L by the order σ². The value, and the gradient for θ, are
    those of true samples and have no bias.

    f may be a black box, with jumps, and p needs no log-probability and no derivative. It is enough that p keeps its
    parameters under the names in its `arg_constraints` and can be sampled. Only parameters that require a gradient are
    moved. 3 k evaluations of f, two thirds of them without gradient, whatever the number of parameters.

    The variance grows with the number of parameters. If x is discrete, or f has jumps, it also grows with 1/σ. It grows
    with 1/σ² if samples are drawn by rejection, because the two sides then use different noise (Gamma, Beta, Poisson on
    the CPU).

    Args:
        samples: k, at least 1, each with its own direction.
        sigma: σ, above 0, in the units of u.

    Raises:
        ValueError: for arguments out of range, and when `combine` is not given the costs at the perturbed parameters.
        TypeError: for a distribution that does not name its parameters, or whose parameters bound each other.

    Example, for a mean of 1, ε = 3 and σ = 1/2: the mean is moved to 5/2 and -1/2. With the noise 1, x is 7/2 and 1/2,
    and f = x² is 49/4 and 1/4. The gradient is (49/4 - 1/4) / (2 · 1/2) · 3 = 36; the sample x = 2 has f = 4:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.smoothing.perturbation import Draw
        >>> mean = torch.ones((), requires_grad=True)
        >>> q = torch.distributions.Normal(mean, 1.0)
        >>> draw = Draw(torch.tensor([2.0]), torch.tensor([3.5, 0.5]), {"loc": torch.tensor([3.0])}, step=0.5)
        >>> es = sp.EvolutionStrategies(sigma=0.5)
        >>> loss = es.combine(q, draw, draw.points.square(), probe_costs=draw.probes.square())
        >>> loss.backward()
        >>> loss.detach(), mean.grad
        (tensor(4.), tensor(36.))
    """

    aliases = ("ES",)
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
