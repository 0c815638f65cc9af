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
from torch.distributions import Distribution, Normal

from sampleprop import checks, families, noise
from sampleprop.estimator import Estimator, F, Source, Worked, average, kept_weights
from sampleprop.estimators.multisample.importance_weighted import rsample_refusal
from sampleprop.surrogate import surrogate, unsqueeze_to, value_and_grad


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class StickingTheLanding(Estimator[Draw]):
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
    source = Source(
        key="roeder2017sticking",
        authors="Geoffrey Roeder and Yuhuai Wu and David Duvenaud",
        year=2017,
        title="Sticking the landing: Simple, lower-variance gradient estimators for variational inference",
        venue="Advances in Neural Information Processing Systems 30",
        arxiv="1703.09194",
    )

    def __init__(self, samples: int = 1, *, allow_unused: bool = False) -> None:
        super().__init__()
        checks.samples("StickingTheLanding", samples)
        self.samples = samples
        self.allow_unused = allow_unused

    def evaluations(self, dist: Distribution) -> tuple[int, int]:
        return self.draws, self.draws

    def refusal(self, dist: Distribution) -> str | None:
        refusal = super().refusal(dist) or rsample_refusal(self.name, dist, "ScoreFunction, with f less log q")
        return refusal or checks.moving_refusal(
            self.name, dist, "Use ImportanceWeighted, which differentiates all of log q."
        )

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        return Draw(families.rsample(dist, self.draws, generator))

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
        checks.path(self.name, dist, costs, draw.points, self.allow_unused)
        log_q, slopes = log_prob_and_slopes(dist, draw.points)
        weights = torch.full_like(log_q, 1 / self.draws) if keep is None else kept_weights(keep, log_q.dtype)
        # The costs are attached to the points, and bring ∂f/∂z; what is added is the derivative of -log q.
        added = -unsqueeze_to(weights, slopes.dim()) * slopes
        return through_points(self.name, average(costs - log_q, keep), draw.points, added, len(dist.batch_shape))

    @classmethod
    def worked(cls) -> Worked:
        # f is such that log w = z at μ = 0. z = (0, log 3): the value is their mean. The derivative of log w by z alone
        # is 1 everywhere, and dz/dμ = 1.
        return Worked(
            estimator=cls(2),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda mean: Normal(mean, 1.0),
            draw=lambda dist: Draw(dist.loc + torch.tensor([0.0, math.log(3)], dtype=torch.float64)),
            f=lambda z: z - z.square() / 2 - math.log(2 * math.pi) / 2,
            value=torch.tensor(math.log(3) / 2, dtype=torch.float64),
            gradient=torch.tensor(1.0, dtype=torch.float64),
        )


def log_prob_and_slopes(dist: Distribution, points: Tensor) -> tuple[Tensor, Tensor]:
    """log q at the points, [k, *batch], and its derivative by the points at fixed φ, [k, *batch, *event]; no graph."""
    base, event_ndim = families.unwrap(dist)
    with torch.no_grad():
        if type(base) is Normal:  # written out: it is asked for most
            steps = (noise.raised(points.detach()) - base.loc) / base.scale
            log_q = -steps.square() / 2 - base.scale.log() - math.log(2 * math.pi) / 2  # [k, *batch, *event]
            return log_q.sum(tuple(range(-event_ndim, 0))) if event_ndim else log_q, -steps / base.scale
        log_q, (slopes,) = value_and_grad(lambda z: families.log_prob(dist, z), points.detach())
    return log_q, slopes


def through_points(name: str, value: Tensor, points: Tensor, gradient: Tensor, batch_ndim: int) -> Tensor:
    """Return `value`, [*batch], with `gradient`, of the shape of the points, as a further derivative by them."""
    return surrogate(name, value, (points.movedim(0, batch_ndim),), (gradient.movedim(0, batch_ndim),))
