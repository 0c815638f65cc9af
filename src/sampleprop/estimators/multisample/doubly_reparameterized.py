"""The importance-weighted bound with a doubly reparameterized gradient (DReG).

Source: [tucker2019doubly]. Differences from the paper: none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.multisample.bound import importance_weighted_bound
from sampleprop.estimators.pathwise.path_derivative import add_through_samples, log_prob_and_gradient
from sampleprop.families import Variables
from sampleprop.tracing import derivatives, inspectable, value_and_grad


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class DoublyReparameterized(Estimator[Variables, Draw]):
    r"""Differentiates the K-sample bound through the samples, and reparameterizes the score of q once more.

    .. math::

        \nabla_\phi L_K \approx \sum_k \tilde w_k^2 \Big(\frac{\partial z_k}{\partial \phi}\Big)^{\!T}
            \nabla_z \log w(z_k), \qquad
        w(z) = \frac{p_\theta(x, z)}{q_\phi(z)}, \qquad \tilde w_k = \frac{w(z_k)}{\sum_j w(z_j)}

    f returns :math:`\log p_\theta(x, z)`, without log q, and the result is to be maximized. Unbiased for the bound, for
    f that is continuous in z. The gradient has no variance once q is the posterior. θ gets the ordinary :math:`\sum_k
    \tilde w_k \nabla_\theta \log p_\theta(x, z_k)`, and so does φ if f also depends on it directly. The distribution
    needs `rsample` and a support that does not move.

    K evaluations of f and 2K backward passes: one of the two ends at the points, because they have other weights than
    θ. Inside `torch.compile` and `torch.func` the graph of the costs is out of reach. There f is called a second time
    instead, and must return the same costs.

    Args:
        samples: K, at least 1.
        allow_unused: accept a cost without a path to z.
        allow_steps: accept a cost with a step (round, sign) on its path to z; the gradient for φ ignores the step.

    Raises:
        TypeError: for a distribution without `rsample`, a discrete one, and one whose support moves with φ.
        ValueError: inside `torch.compile` and `torch.func`, for `combine` without `relaxed_f`.
        RuntimeError: for a cost with no path to z, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for q normal around μ = 0, and f = z + log q(z). At z = μ + ε = (0, log 3) the weights are w = (1, 3), so
    the value is log 2 and w̃ = (1/4, 3/4). The derivative of log w with respect to z alone is 1, and so is dz/dμ.
    Therefore the gradient is the sum of w̃² = (1/16, 9/16):

        >>> import math, torch, sampleprop as sp
        >>> mean = torch.zeros((), requires_grad=True)
        >>> q, fixed = (torch.distributions.Normal(loc, 1.0) for loc in (mean, 0.0))
        >>> draw = Draw(mean + torch.tensor([0.0, math.log(3)]))
        >>> bound = sp.DoublyReparameterized(2).combine(q, draw, draw.points + fixed.log_prob(draw.points))
        >>> bound.backward()
        >>> bound.detach().exp(), mean.grad
        (tensor(2.), tensor(0.6250))
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    family = "multi-sample bounds"
    objective = "log-mean-exp"
    aliases = ("DReG",)
    source = cited("tucker2019doubly")

    def __init__(self, samples: int = 8, *, allow_unused: bool = False, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples(self.name, samples)
        self.samples = samples
        self.allow_unused = allow_unused
        self.allow_steps = allow_steps

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws, 2 * self.draws

    def refuses(self, variables: Variables) -> str | None:
        fix = "Use ImportanceWeighted, which differentiates all of log q."
        refusal = checks.rsample_refusal(self.name, variables, "VIMCO")
        return refusal or checks.moving_refusal(self.name, variables, fix)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.rsample(self.draws, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused, self.allow_steps)
        log_q, by_log_q = log_prob_and_gradient(variables, draw.points)
        log_weights = costs.points - log_q
        share = log_weights.detach().softmax(0)  # w̃, [k, *batch]
        squared = share.square()
        # Through the costs everything gets the weight w̃, which is right for θ; the points are to get w̃² instead.
        further = squared - share, self._gradient(costs, draw.points)
        value = importance_weighted_bound(log_weights)
        return add_through_samples(self.name, value, variables, draw.points, squared, by_log_q, further)

    def _gradient(self, costs: Costs, points: Tensor) -> Tensor:
        """The gradient of f at the points, [k, *batch, *event], without graph."""
        if inspectable(costs.points) and inspectable(points):
            if not (costs.points.requires_grad and points.requires_grad):
                return torch.zeros_like(points)
            return derivatives(costs.points, (points,), torch.ones_like(costs.points), keep_graph=True)[0]
        if costs.relaxed_f is None:  # the graph of the costs cannot be followed from here
            raise ValueError(
                f"{self.name} needs f itself inside torch.compile and torch.func; got costs alone. Pass relaxed_f=f."
            )
        with torch.no_grad():
            return value_and_grad(costs.f, points.detach())[1][0]
