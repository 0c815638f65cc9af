"""ARMS: any number of Bernoulli samples, every two of them negatively correlated.

Source: Dimitriev and Zhou (2021), "ARMS: Antithetic-REINFORCE-multi-sample gradient for binary variables".
Differences from the paper: the systematic copula, beside the Dirichlet one and before it, because its samples avoid each other
more; no Gaussian copula.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import comparable, copulas
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached
    probes: None = None


class ARMS(Estimator[Bernoullis, Draw]):
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
    source = cited("dimitriev2021arms")

    def __init__(self, samples: int = 4, *, copula: copulas.Copula = "systematic") -> None:
        super().__init__()
        checks.samples("ARMS", samples, least=2)
        copulas.known("ARMS", copula)
        self.samples = samples
        self.copula = copula

    @property
    def samples_least(self) -> int:
        return 2

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        logits = variables.logits.detach()
        u = copulas.uniforms(self.copula, (self.draws, *logits.shape), logits, generator)
        # The rarer value is where u < min(p, 1 - p): Dirichlet numbers avoid each other more below than above.
        rare = u < _rarer(logits)
        return Draw((rare ^ (logits > 0)).to(variables.dtype))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        value = costs.mean()
        advantage = costs.fixed - value.detach()  # [samples, *batch]
        if costs.keep is None:
            advantage = advantage / (costs.points.shape[0] - 1)
        else:
            comparable.require(self.name, costs.keep.sum(0) > 1, "two finite costs.points")
            advantage = costs.keep * advantage / (costs.keep.sum(0) - 1)
        with torch.no_grad():
            gradient = variables.weighted_score(draw.points, advantage)  # [*batch, *event]
        rarer = _rarer(variables.logits.detach())
        gradient = gradient / copulas.decorrelation(self.copula, draw.points.shape[0], rarer)
        return surrogate(self.name, value, (variables.logits,), (gradient,))


def _rarer(logits: Tensor) -> Tensor:
    """min(p, 1 - p), exact where p is close to 1."""
    return torch.sigmoid(-logits.abs())
