"""ARMS: any number of Bernoulli samples, every two of them negatively correlated.

Source: Dimitriev and Zhou (2021), "ARMS: Antithetic-REINFORCE-multi-sample gradient for binary variables".
Differences from the paper: the systematic copula, beside the Dirichlet one and before it, because its samples avoid each other
more; no Gaussian copula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked, average
from sampleprop.estimators.coupled import comparable, copulas
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached
    probes: None = None


class ARMS(Estimator[Draw]):
    r"""Leave-one-out over samples that avoid each other, divided by how much they do.

    .. math::

        \nabla_{\phi_i} L \approx \frac{1}{1 - \rho_i}\, \frac{1}{k - 1} \sum_j (f(x_j) - \bar f)(x_{ji} - p_i), \qquad
            \rho_i = \operatorname{corr}(x_{ji}, x_{li}) \le 0

    Unbiased: dependent samples differ more often than independent ones, and 1 - ρ is by how much. f may be a black box; the
    variables are Bernoulli with logits φ. k evaluations of f. With two samples it is :class:`DisARM`.

    Args:
        samples: k, at least 2.
        copula: the joint law of the samples, for each variable on its own: "systematic", evenly spread uniform numbers in
            random order, which has the least ρ that k samples can have; or "dirichlet", the paper's, cheaper to draw.

    Raises:
        ValueError: for fewer than two samples, and for another copula.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.ARMS(samples=8)).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    families = (families.Bernoullis,)
    source = Source(
        key="dimitriev2021arms",
        authors="Aleksandar Dimitriev and Mingyuan Zhou",
        year=2021,
        title="ARMS: Antithetic-REINFORCE-multi-sample gradient for binary variables",
        venue="International Conference on Machine Learning",
        arxiv="2105.14141",
    )

    def __init__(self, samples: int = 4, *, copula: copulas.Copula = "systematic") -> None:
        super().__init__()
        checks.samples("ARMS", samples, least=2)
        copulas.known("ARMS", copula)
        self.samples = samples
        self.copula = copula

    @property
    def samples_least(self) -> int:
        return 2

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        variables = families.variables(dist)
        logits = variables.logits.detach()
        u = copulas.uniforms(self.copula, (self.draws, *logits.shape), logits, generator)
        # The rarer value is where u < min(p, 1 - p): Dirichlet numbers avoid each other more below than above.
        rare = u < _rarer(logits)
        return Draw((rare ^ (logits > 0)).to(variables.dtype))

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
        variables = families.variables(dist)
        value = average(costs, keep)
        advantage = costs.detach() - value.detach()  # [samples, *batch]
        if keep is None:
            advantage = advantage / (costs.shape[0] - 1)
        else:
            comparable.require(self.name, keep.sum(0) > 1, "two finite costs")
            advantage = keep * advantage / (keep.sum(0) - 1)
        with torch.no_grad():
            gradient = variables.weighed_score(draw.points, advantage)  # [*batch, *event]
        rarer = _rarer(variables.logits.detach())
        gradient = gradient / copulas.decorrelation(self.copula, draw.points.shape[0], rarer)
        return surrogate(self.name, value, (variables.logits,), (gradient,))

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return cls(), cls(2, copula="dirichlet")

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, x = (1, 0, 0), f = (3, 1, 1), so f - 5/3 = (4, -2, -2)/3 and x - p = ±1/2: the sum is 4/3, half of it 2/3.
        # P(x = x' = 1) = (2 √½ - 1)² = 3 - 2√2, so 1 - ρ = (1/2 - P) / (1/4) = 8√2 - 10.
        return Worked(
            estimator=cls(3, copula="dirichlet"),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)),
            f=lambda x: 1 + 2 * x,
            value=torch.tensor(5 / 3, dtype=torch.float64),
            gradient=torch.tensor(2 / 3 / (8 * math.sqrt(2) - 10), dtype=torch.float64),
        )


def _rarer(logits: Tensor) -> Tensor:
    """min(p, 1 - p), exact where p is close to 1."""
    return torch.sigmoid(-logits.abs())
