"""ARMS: any number of Bernoulli samples, every two of them negatively correlated.

Source: [dimitriev2021arms]. Differences from the paper: the systematic copula is added and is the default, because no
other copula has samples that differ more often. The Gaussian copula is left out.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import copulas
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached
    probes: None = None


class ARMS(Estimator[Bernoullis, Draw]):
    r"""Leave-one-out over negatively correlated samples, divided by one minus their correlation.

    .. math::

        \nabla_{\phi_i} L \approx \frac{1}{1 - \rho_i}\, \frac{1}{k - 1} \sum_j (f(x_j) - \bar f)(x_{ji} - p_i), \qquad
            \rho_i = \operatorname{corr}(x_{ji}, x_{li}) \le 0

    Unbiased: these samples differ 1 - ρ times as often as independent ones, and the division corrects for that. f may
    be a black box; the variables are Bernoulli with logits φ. k evaluations of f. For k = 2 this is :class:`DisARM`.

    Args:
        samples: k, at least 2.
        copula: the joint distribution of the samples of one variable. "systematic" uses evenly spaced numbers in random
            order, and has the least ρ that k samples can have. "dirichlet" is the paper's, and cheaper to draw.

    Raises:
        ValueError: for fewer than two samples, and for another copula.

    Example, for k = 3 and p = 1/4: the number of ones is 0 or 1, with mean 3/4 and variance 3/16, which is
    3 · 3/16 · (1 + 2ρ), so 1 - ρ = 4/3. x = (1, 0, 0) and f = (4, 1, 1), with mean 2, give
    3/4 · 1/2 · (2 · 3/4 + 1 · 1/4 + 1 · 1/4):

        >>> import torch, sampleprop as sp
        >>> logit = torch.tensor(1 / 3).log().requires_grad_()
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> loss = sp.ARMS(3).combine(q, Draw(torch.tensor([1.0, 0.0, 0.0])), torch.tensor([4.0, 1.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(2.), tensor(0.7500))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    samples_least = 2
    source = cited("dimitriev2021arms")

    def __init__(self, samples: int = 4, *, copula: copulas.Copula = "systematic") -> None:
        super().__init__()
        checks.samples("ARMS", samples, least=2)
        copulas.known("ARMS", copula)
        self.samples = samples
        self.copula = copula

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        logits = variables.logits.detach()
        u = copulas.uniforms(self.copula, (self.draws, *logits.shape), logits, generator)
        # u < min(p, 1 - p) gives the rarer value: with the Dirichlet copula, 1[u < q] has less ρ for q than for 1 - q.
        rare = u < variables.rarer
        return Draw((rare ^ (logits > 0)).to(variables.dtype))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        gradient = variables.gradient_for_logits(draw.points, costs.beyond_others())  # [*batch, *event]
        gradient = gradient / copulas.decorrelation(self.copula, draw.points.shape[0], variables.rarer)
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
