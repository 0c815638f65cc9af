"""Sticking the landing: the pathwise gradient of the ELBO without the score of q.

Source: Roeder, Wu and Duvenaud (2017), "Sticking the landing: Simple, lower-variance gradient estimators for variational
inference".
Differences from the paper: log q is differentiated by z alone, instead of being built again from stopped parameters, so that
any distribution will do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Normal

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, average, kept_weights
from sampleprop.estimator import Estimator
from sampleprop.estimators.multisample.importance_weighted import rsample_refusal
from sampleprop.families import Variables
from sampleprop.surrogate import surrogate, unsqueeze_to
from sampleprop.tracing import value_and_grad


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class StickingTheLanding(Estimator[Variables, Draw]):
    r"""Differentiates the ELBO through the samples, and leaves out the part of log q whose mean is zero.

    .. math::

        L = \mathbb{E}[\log p_\theta(x, z) - \log q_\phi(z)], \qquad
        \nabla_\phi L \approx \frac1k \sum_i \Big(\frac{\partial z_i}{\partial \phi}\Big)^{\!T}
            \nabla_z \big(\log p_\theta(x, z_i) - \log q_\phi(z_i)\big)

    f returns :math:`\log p_\theta(x, z)`, without log q, and the result is to be maximized: it is the average of k one-sample bounds.
    Unbiased for f that is continuous in z; where f depends on φ besides through z, that gradient is kept. Without variance
    once q is the posterior; away from there the full pathwise gradient (:class:`ImportanceWeighted` with one sample) may
    be less noisy. k evaluations of f and k backward passes. The distribution needs `rsample` and a support that does not move.
    The bound of several samples under one logarithm would be biased by this: :class:`DoublyReparameterized` is its
    counterpart there.

    Args:
        samples: k, at least 1.
        allow_unused: let a cost pass that has no path to z.

    Raises:
        TypeError: for a distribution without `rsample`, a discrete one, and one whose support moves with φ.
        RuntimeError: for a cost with no path to z, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> posterior = torch.distributions.Independent(torch.distributions.Normal(torch.ones(3), 1.0), 1)
        >>> (-sp.expect(posterior.log_prob, q, sp.StickingTheLanding())).backward()
        >>> mean.grad.round(decimals=3)
        tensor([-1., -1., -1.])
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    objective = "elbo"
    source = cited("roeder2017sticking")

    def __init__(self, samples: int = 1, *, allow_unused: bool = False) -> None:
        super().__init__()
        checks.samples("StickingTheLanding", samples)
        self.samples = samples
        self.allow_unused = allow_unused

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws, self.draws

    def refuses(self, variables: Variables) -> str | None:
        refusal = rsample_refusal(self.name, variables, "ScoreFunction, with f less log q")
        return refusal or checks.moving_refusal(
            self.name, variables, "Use ImportanceWeighted, which differentiates all of log q."
        )

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.rsample(self.draws, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused)
        log_q, slopes = log_prob_and_slopes(variables, draw.points)
        weights = (
            torch.full_like(log_q, 1 / self.draws) if costs.keep is None else kept_weights(costs.keep, log_q.dtype)
        )
        # The costs are attached to the points, and bring ∂f/∂z; what is added is the derivative of -log q.
        added = -unsqueeze_to(weights, slopes.dim()) * slopes
        return through_points(
            self.name, average(costs.points - log_q, costs.keep), draw.points, added, len(variables.batch_shape)
        )


def log_prob_and_slopes(variables: Variables, points: Tensor) -> tuple[Tensor, Tensor]:
    """log q at the points, [k, *batch], and its derivative by the points at fixed φ, [k, *batch, *event]; no graph."""
    base = variables.base
    with torch.no_grad():
        if type(base) is Normal:  # written out, because it is the commonest
            steps = (noise.promote(points.detach()) - base.loc) / base.scale
            log_q = -steps.square() / 2 - base.scale.log() - math.log(2 * math.pi) / 2  # [k, *batch, *event]
            return variables.sum(log_q), -steps / base.scale
        log_q, (slopes,) = value_and_grad(variables.log_prob, points.detach())
    return log_q, slopes


def through_points(name: str, value: Tensor, points: Tensor, gradient: Tensor, batch_ndim: int) -> Tensor:
    """Return `value`, [*batch], with `gradient`, of the shape of the points, as a further derivative by them."""
    return surrogate(name, value, (points.movedim(0, batch_ndim),), (gradient.movedim(0, batch_ndim),))
