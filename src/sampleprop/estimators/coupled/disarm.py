"""DisARM, also known as U2G: the antithetic pair with its noise averaged out.

Source: [dong2020disarm], sec. 3; found at the same time by [yin2020probabilistic], as U2G. Differences from the paper:
none.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.coupled import antithetic
from sampleprop.families import Bernoullis
from sampleprop.sums import over_samples
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    points: Tensor  # [samples, *batch, *event], detached; first every b, then every b̃
    difference: Tensor  # [samples / 2, *batch, *event], b - b̃ in the dtype of the logits
    probes: None = None


class DisARM(Estimator[Bernoullis, Draw]):
    r"""Evaluates f at an antithetic pair, and credits the difference to the variables that differ.

    .. math::

        \nabla_{\phi_i} L \approx \tfrac12 (f(b) - f(\tilde b)) (b_i - \tilde b_i)\, \sigma(|\phi_i|)

        b = \mathbb{1}[u > 1 - p], \quad \tilde b = \mathbb{1}[u < p], \quad u \sim U(0, 1)^D

    Unbiased, averaged over the pairs. f may be a black box; the variables are Bernoulli with logits φ. One evaluation
    of f for each sample. For one variable the variance is at most that of leave-one-out with two samples. From four
    samples on, :class:`ARMS` is better, because it compares all of them, not only those of a pair.

    Args:
        samples: evaluations of f, two for each pair: an even number, at least 2.

    Raises:
        ValueError: for another number of samples.

    Example, for p = 3/4 and u = 0.9: b = 1[0.9 > 1/4] = 1, b̃ = 1[0.9 < 3/4] = 0 and f = (3, 1) give 1/2 · 2 · 1 · 3/4:

        >>> import torch, sampleprop as sp
        >>> logit = torch.tensor(3.0).log().requires_grad_()
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> loss = sp.DisARM().combine(q, Draw(torch.tensor([1.0, 0.0]), torch.tensor([1.0])), torch.tensor([3.0, 1.0]))
        >>> loss.backward()
        >>> loss.detach(), logit.grad
        (tensor(2.), tensor(0.7500))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "coupled samples"
    reads_points = False
    samples_step = 2
    samples: int
    aliases = ("U2G",)
    source = cited("dong2020disarm", "sec. 3")

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        checks.samples("DisARM", samples, least=2, step=2)
        self.samples = samples

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        points, _ = antithetic.pairs(variables, self.samples, generator)
        return Draw(points, antithetic.differences(variables.one_hot(points)), None)

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        weights = antithetic.weights(costs.points)  # [samples / 2, *batch]
        weighted = over_samples(weights / 2, draw.difference)
        # Given b ≠ b̃, u is uniform on the outer tails, and the mean of |u - 1/2| there is half of σ(|φ|).
        gradient = weighted * variables.commoner  # [*batch, *event]
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
