"""The importance-weighted bound, differentiated through the samples.

Source: [burda2016importance], sec. 3. Differences from the paper: none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.multisample.bound import importance_weighted_bound
from sampleprop.estimators.pathwise.path_derivative import log_prob_of_samples
from sampleprop.families import Variables
from sampleprop.surrogate import guarded


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class ImportanceWeighted(Estimator[Variables, Draw]):
    r"""Differentiates the K-sample bound through the samples, z = g(φ, ε).

    .. math::

        L_K = \mathbb{E}\Big[\log \frac1K \sum_k w_k\Big], \qquad w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k)}

        \nabla_\phi L_K \approx \sum_k \tilde w_k \nabla_\phi \log w_k, \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    f returns :math:`\log p_\theta(x, z)`, without log q, and the result is to be maximized. Unbiased for the bound, for
    f that is continuous in z. The distribution needs `rsample` and `log_prob`. K evaluations of f and K backward
    passes. As K grows, the noise of φ's gradient falls more slowly than the gradient does. For more than a few samples
    use :class:`DoublyReparameterized`.

    Args:
        samples: K, at least 1.
        allow_unused: accept a cost without a path to z.
        allow_steps: accept a cost with a step (round, sign) on its path to z; the gradient for φ ignores the step.

    Raises:
        TypeError: for a distribution without `rsample`, and for a discrete one.
        RuntimeError: for a cost with no path to z, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for q normal around μ = 0, and p(z) = (2 + z) c with c = q(±1). At z = μ + ε = (-1, 1) the weights are
    w = (1, 3), so the value is log 2 and w̃ = (1/4, 3/4). Through the sample log q(μ + ε) does not change with μ.
    Therefore d log w / dμ = 1 / (2 + z) = (1, 1/3), and the gradient is 1/4 · 1 + 3/4 · 1/3 = 1/2:

        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Normal(mean, 1.0)
        >>> draw = Draw(mean + torch.tensor([-1.0, 1.0]))
        >>> costs = (2 + draw.points).log() + q.log_prob(torch.tensor(1.0)).detach()
        >>> bound = sp.ImportanceWeighted(2).combine(q, draw, costs)
        >>> bound.backward()
        >>> bound.detach().exp(), mean.grad
        (tensor(2.), tensor(0.5000))
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    family = "multi-sample bounds"
    objective = "log-mean-exp"
    aliases = ("IWAE",)
    source = cited("burda2016importance", "sec. 3")

    def __init__(self, samples: int = 8, *, allow_unused: bool = False, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples(self.name, samples)
        self.samples = samples
        self.allow_unused = allow_unused
        self.allow_steps = allow_steps

    def highest_order(self, variables: Variables) -> float:
        return math.inf if variables.smooth else 1

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws, self.draws

    def refuses(self, variables: Variables) -> str | None:
        return checks.rsample_refusal(self.name, variables, "VIMCO")

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        points = variables.rsample(self.draws, generator)
        return Draw(points if self.highest_order(variables) > 1 else guarded(self.name, points))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused, self.allow_steps)
        return importance_weighted_bound(costs.points - log_prob_of_samples(variables, draw.points))
