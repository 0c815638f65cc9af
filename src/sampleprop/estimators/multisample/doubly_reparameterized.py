"""The importance-weighted bound with a doubly reparameterized gradient (DReG).

Source: Tucker, Lawson, Gu and Maddison (2019), "Doubly reparameterized gradient estimators for Monte Carlo objectives".
Differences from the paper: none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs, F
from sampleprop.estimator import Estimator
from sampleprop.estimators.multisample.importance_weighted import importance_weighted_bound, rsample_refusal
from sampleprop.estimators.pathwise.sticking_the_landing import log_prob_and_slopes, through_points
from sampleprop.families import Variables
from sampleprop.surrogate import unsqueeze_to
from sampleprop.tracing import inspectable, value_and_grad


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class DoublyReparameterized(Estimator[Variables, Draw]):
    r"""Differentiates the K-sample bound through the samples, and reparameterizes the score of q once more.

    .. math::

        \nabla_\phi L_K \approx \sum_k \tilde w_k^2 \Big(\frac{\partial z_k}{\partial \phi}\Big)^{\!T} \nabla_z \log w(z_k), \qquad
        w(z) = \frac{p_\theta(x, z)}{q_\phi(z)}, \qquad \tilde w_k = \frac{w(z_k)}{\sum_j w(z_j)}

    f returns :math:`\log p_\theta(x, z)`, without log q, and the result is to be maximized. Unbiased for the bound, for f that is
    continuous in z, and without variance once q is the posterior. θ gets the ordinary
    :math:`\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)`, and so does φ where f depends on it besides through z. The distribution
    needs `rsample` and a support that does not move. K evaluations of f and 2K backward passes: one to the points only,
    which get other weights than θ. Inside `torch.compile` and `torch.func`, where the graph of the costs is out of reach, f
    is called a second time for that, and must give the same.

    Args:
        samples: K, at least 1.
        allow_unused: let a cost pass that has no path to z.

    Raises:
        TypeError: for a distribution without `rsample`, a discrete one, and one whose support moves with φ.
        ValueError: inside `torch.compile` and `torch.func`, for `combine` without `relaxed_f`.
        RuntimeError: for a cost with no path to z, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> log_joint = lambda z: -z.square().sum(-1) - (1 - z.sum(-1)).square()
        >>> (-sp.expect(log_joint, q, sp.DoublyReparameterized(samples=64))).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    whole = True
    objective = "log-mean-exp"
    source = cited("tucker2019doubly")

    def __init__(self, samples: int = 8, *, allow_unused: bool = False) -> None:
        super().__init__()
        checks.samples("DoublyReparameterized", samples)
        self.samples = samples
        self.allow_unused = allow_unused

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws, 2 * self.draws

    def refuses(self, variables: Variables) -> str | None:
        refusal = rsample_refusal(self.name, variables, "VIMCO")
        return refusal or checks.moving_refusal(
            self.name, variables, "Use ImportanceWeighted, which differentiates all of log q."
        )

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.rsample(self.draws, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused)
        log_q, slopes = log_prob_and_slopes(variables, draw.points)
        log_weights = costs.points - log_q
        share = unsqueeze_to(log_weights.detach().softmax(0), slopes.dim())  # w̃, [k, *batch, 1...]
        # Through the costs everything gets w̃, which is right for θ; the points are to get w̃² instead.
        added = (share.square() - share) * self._slopes(
            costs.points, draw.points, costs.relaxed_f
        ) - share.square() * slopes
        value = importance_weighted_bound(log_weights)
        return through_points(self.name, value, draw.points, added, len(variables.batch_shape))

    def _slopes(self, costs: Tensor, points: Tensor, relaxed_f: F | None) -> Tensor:
        """The derivative of the costs by the points, [k, *batch, *event], without graph."""
        if inspectable(costs) and inspectable(points):
            if not (costs.requires_grad and points.requires_grad):
                return torch.zeros_like(points)
            return torch.autograd.grad(costs.sum(), points, retain_graph=True, materialize_grads=True)[0].detach()
        if relaxed_f is None:  # the graph of the costs cannot be followed from here
            raise ValueError(
                f"{self.name} needs f itself inside torch.compile and torch.func; got costs alone. Pass relaxed_f=f."
            )
        with torch.no_grad():
            return value_and_grad(relaxed_f, points.detach())[1][0]
