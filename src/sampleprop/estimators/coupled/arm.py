"""Augment-REINFORCE-merge: the original antithetic estimator for Bernoulli variables.

Source: Yin and Zhou (2019), "ARM: Augment-REINFORCE-merge gradient for stochastic binary networks", thm. 1.
Differences from the paper: none.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import antithetic
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached; first every b, then every b̃
    u: Tensor  # [samples / 2, *batch, *event], the uniform numbers behind the pairs
    probes: None = None


class ARM(Estimator[Bernoullis, Draw]):
    r"""Weighs the difference of f over an antithetic pair with the noise behind the pair.

    .. math::

        \nabla_{\phi_i} L \approx (f(b) - f(\tilde b)) (u_i - \tfrac12), \qquad
            b = \mathbb{1}[u > 1 - p], \quad \tilde b = \mathbb{1}[u < p], \quad u \sim U(0, 1)^D

    Unbiased, averaged over the pairs. f may be a black box; the variables are Bernoulli. One evaluation of f for each
    sample. :class:`DisARM` is this with u averaged out, for the same evaluations: its variance is never larger, and,
    unlike here, its gradient is zero where a probability is 0 or 1.

    Args:
        samples: evaluations of f, two for each pair: an even number, at least 2.

    Raises:
        ValueError: for an odd number of samples.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> sp.expect(lambda x: (x - 0.4).square().sum(-1), q, sp.ARM()).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    samples_step: ClassVar[int] = 2
    source = cited("yin2019arm", "thm. 1")

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("ARM", samples, least=2, step=2)
        self.samples = samples

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        return Draw(*antithetic.pairs(variables, self.draws, generator))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        weights = antithetic.weights(self.name, costs.points, costs.keep)  # [samples / 2, *batch]
        gradient = (unsqueeze_to(weights, draw.u.dim()) * (draw.u - 0.5)).sum(0)  # [*batch, *event]
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
