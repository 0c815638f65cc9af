"""Sticking the landing: the pathwise gradient of the ELBO without the score of q.

Source: [roeder2017sticking]. Differences from the paper: log q is differentiated with respect to z alone, instead of
being built again from stopped parameters. Therefore any distribution can be taken.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.pathwise.path_derivative import add_through_samples, log_prob_and_gradient
from sampleprop.families import Variables


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class StickingTheLanding(Estimator[Variables, Draw]):
    r"""Differentiates the ELBO through the samples, and leaves out the part of log q whose mean is zero.

    .. math::

        L = \mathbb{E}[\log p_\theta(x, z) - \log q_\phi(z)], \qquad
        \nabla_\phi L \approx \frac1k \sum_i \Big(\frac{\partial z_i}{\partial \phi}\Big)^{\!T}
            \nabla_z \big(\log p_\theta(x, z_i) - \log q_\phi(z_i)\big)

    f returns :math:`\log p_\theta(x, z)`, without log q. The result is to be maximized: it is the average of k
    one-sample bounds. Unbiased for f that is continuous in z. If f also depends on φ directly, that part of the
    gradient is kept. The gradient has no variance once q is the posterior. Away from there the full pathwise gradient
    (:class:`ImportanceWeighted` with one sample) may be less noisy.

    k evaluations of f and k backward passes. The distribution needs `rsample` and a support that does not move. With
    several samples under one logarithm this gradient would be biased: :class:`DoublyReparameterized` is its counterpart
    there.

    Args:
        samples: k, at least 1.
        allow_unused: accept a cost without a path to z.
        allow_steps: accept a cost with a step (round, sign) on its path to z; the gradient for φ ignores the step.

    Raises:
        TypeError: for a distribution without `rsample`, a discrete one, and one whose support moves with φ.
        RuntimeError: for a cost with no path to z, unless `allow_unused`; with a step on it, unless `allow_steps`.

    Example, for q normal around μ = 0, and f = z² + log q(z). At z = μ + ε = (1, 2) the value is the mean of
    f - log q = (1, 4). The gradient is the mean of its derivatives with respect to z alone, 2z = (2, 4):

        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros((), requires_grad=True)
        >>> q, fixed = (torch.distributions.Normal(loc, 1.0) for loc in (mean, 0.0))
        >>> draw = Draw(mean + torch.tensor([1.0, 2.0]))
        >>> bound = sp.StickingTheLanding(2).combine(q, draw, draw.points.square() + fixed.log_prob(draw.points))
        >>> bound.backward()
        >>> bound.detach(), mean.grad
        (tensor(2.5000), tensor(3.))
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    family = "pathwise"
    objective = "elbo"
    aliases = ("STL",)
    source = cited("roeder2017sticking")

    def __init__(self, samples: int = 1, *, allow_unused: bool = False, allow_steps: bool = False) -> None:
        super().__init__()
        checks.samples(self.name, samples)
        self.samples = samples
        self.allow_unused = allow_unused
        self.allow_steps = allow_steps

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws, self.draws

    def refuses(self, variables: Variables) -> str | None:
        refusal = checks.rsample_refusal(self.name, variables, "ScoreFunction, with f less log q")
        fix = "Use ImportanceWeighted, which differentiates all of log q."
        return refusal or checks.moving_refusal(self.name, variables, fix)

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.rsample(self.draws, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused, self.allow_steps)
        log_q, gradient = log_prob_and_gradient(variables, draw.points)
        # The costs are attached to the points and bring ∇_z f; that of -log q is added here.
        value, share = costs.average(costs.points - log_q), 1 / log_q.shape[0]
        return add_through_samples(self.name, value, variables, draw.points, share, gradient)
