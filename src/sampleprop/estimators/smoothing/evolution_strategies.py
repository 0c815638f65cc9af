"""Evolution strategies: the gradient of L smoothed by Gaussian noise on the parameters, from differences of costs.

Source: Salimans, Ho, Chen, Sidor and Sutskever (2017), "Evolution strategies as a scalable alternative to reinforcement
learning", sec. 2, with the antithetic pairs of sec. 2.1.
Differences from the paper: costs are not replaced by their ranks; the two sides of a pair draw their samples from the
same noise; parameters with bounds are perturbed in coordinates without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor
from torch.distributions import Normal

from sampleprop import checks, noise
from sampleprop.estimator import Source, Worked
from sampleprop.estimators.smoothing.perturbation import Draw, PerturbedParameters


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

    source = Source(
        key="salimans2017evolution",
        authors="Tim Salimans and Jonathan Ho and Xi Chen and Szymon Sidor and Ilya Sutskever",
        year=2017,
        title="Evolution strategies as a scalable alternative to reinforcement learning",
        venue="arXiv preprint",
        arxiv="1703.03864",
        where="sec. 2",
        kind="misc",
    )

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

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(2, sigma=0.5),)  # with a bias that can be seen

    @classmethod
    def worked(cls) -> Worked:
        # μ = 1, ε = 3 and σ = 1/2 move the mean to 5/2 and -1/2; with the noise 1 of x, f = x² is (7/2)² and (1/2)²:
        # (49/4 - 1/4) / 1 · 3 = 36. The sample x = 2 has f = 4.
        return Worked(
            estimator=cls(sigma=0.5),
            parameter=torch.ones((), dtype=torch.float64),
            dist=lambda mean: Normal(mean, 1.0),
            draw=lambda dist: Draw(
                torch.tensor([2.0], dtype=torch.float64),
                torch.tensor([3.5, 0.5], dtype=torch.float64),
                {"loc": torch.tensor([3.0], dtype=torch.float64)},
                0.5,
            ),
            f=torch.square,
            value=torch.tensor(4.0, dtype=torch.float64),
            gradient=torch.tensor(36.0, dtype=torch.float64),
        )
