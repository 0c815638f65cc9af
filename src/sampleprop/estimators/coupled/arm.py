"""Augment-REINFORCE-merge: the original antithetic estimator for Bernoulli variables.

Source: [yin2019arm], thm. 1. Differences from the paper: none.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks, sums
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import antithetic
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached; first every b, then every b̃
    u: Tensor  # [samples / 2, *batch, *event], the uniform numbers behind the pairs
    probes: None = None


class ARM(Estimator[Bernoullis, Draw]):
    r"""Multiplies the difference of f over an antithetic pair by the noise behind the pair.

    .. math::

        \nabla_{\phi_i} L \approx (f(b) - f(\tilde b)) (u_i - \tfrac12), \qquad
            b = \mathbb{1}[u > 1 - p], \quad \tilde b = \mathbb{1}[u < p], \quad u \sim U(0, 1)^D

    Unbiased, averaged over the pairs. f may be a black box; the variables are Bernoulli with logits φ. One evaluation
    of f for each sample. :class:`DisARM` averages u out, for the same evaluations, and its variance is never larger.
    If a probability is 0 or 1, the exact gradient for its logit is zero, but this estimate is not.

    Args:
        samples: evaluations of f, two for each pair: an even number, at least 2.

    Raises:
        ValueError: for another number of samples.

    Example, for p = 3/4 and u = 0.9: b = 1[0.9 > 1/4] = 1, b̃ = 1[0.9 < 3/4] = 0 and f = (3, 1) give
    (3 - 1) (0.9 - 1/2):

        >>> import torch, sampleprop as sp
        >>> logit = torch.tensor(3.0).log().requires_grad_()
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> draw = Draw(torch.tensor([1.0, 0.0]), torch.tensor([0.9]))
        >>> loss = sp.ARM().combine(q, draw, torch.tensor([3.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(2.), tensor(0.8000))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    reads_points = False
    samples_step = 2
    source = cited("yin2019arm", "thm. 1")

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("ARM", samples, least=2, step=2)
        self.samples = samples

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        return Draw(*antithetic.pairs(variables, self.draws, generator))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        weights = antithetic.weights(costs.points)  # [samples / 2, *batch]
        gradient = sums.over_samples(weights, draw.u - 0.5)  # [*batch, *event]
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
