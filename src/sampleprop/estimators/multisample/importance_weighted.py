"""The importance-weighted bound, differentiated through the samples.

Source: Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", sec. 3.
Differences from the paper: none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sampleprop import checks, noise
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.families import Variables
from sampleprop.surrogate import guarded
from sampleprop.tracing import inspectable


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], attached to φ by the reparameterization
    probes: None = None


class ImportanceWeighted(Estimator[Variables, Draw]):
    r"""Differentiates the K-sample bound through the samples, z = g(φ, ε).

    .. math::

        L_K = \mathbb{E}\Big[\log \frac1K \sum_k w_k\Big], \qquad w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k)}, \qquad
        \nabla_\phi L_K \approx \sum_k \tilde w_k \nabla_\phi \log w_k, \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    f returns :math:`\log p_\theta(x, z)`, without log q, and the result is to be maximized. Unbiased for the bound, for f that is
    continuous in z. The distribution needs `rsample` and `log_prob`. K evaluations of f and K backward passes. The noise of φ's
    gradient falls with K more slowly than the gradient does: for more than a few samples use
    :class:`DoublyReparameterized`.

    Args:
        samples: K, at least 1.
        allow_unused: let a cost pass that has no path to z.

    Raises:
        TypeError: for a distribution without `rsample`, and for a discrete one.
        RuntimeError: for a cost with no path to z, unless `allow_unused`.

    Example:
        >>> import torch, sampleprop as sp
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)
        >>> log_joint = lambda z: -z.square().sum(-1) - (1 - z.sum(-1)).square()
        >>> (-sp.expect(log_joint, q, sp.ImportanceWeighted(samples=4))).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "differentiable"
    whole = True
    objective = "log-mean-exp"
    source = cited("burda2016importance", "sec. 3")

    def __init__(self, samples: int = 8, *, allow_unused: bool = False) -> None:
        super().__init__()
        checks.samples("ImportanceWeighted", samples)
        self.samples = samples
        self.allow_unused = allow_unused

    def highest_order(self, variables: Variables) -> float:
        return math.inf if variables.smooth else 1

    def calls(self, variables: Variables) -> tuple[int, int]:
        return self.draws, self.draws

    def refuses(self, variables: Variables) -> str | None:
        return rsample_refusal(self.name, variables, "VIMCO")

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        points = variables.rsample(self.draws, generator)
        return Draw(points if self.highest_order(variables) > 1 else guarded(self.name, points))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        checks.path(self.name, variables, costs.points, draw.points, self.allow_unused)
        return importance_weighted_bound(costs.points - variables.log_prob(draw.points))


def importance_weighted_bound(log_weights: Tensor, dim: int = 0, *, points: Tensor | None = None) -> Tensor:
    r"""The K-sample bound from logarithms of weights that are already there: log 1/K Σ_k exp(log w_k).

    Autograd differentiates it as it stands, with the weights w̃_k. That is right for θ, and for φ only where the samples were
    reparameterized and the log-weights attached through them, log w = log p(x, g(φ, ε)) - log q_φ(g(φ, ε)). It adds no score
    of samples that were drawn without `rsample`: for those the gradient of φ would be wrong. Log-weights alone do not show it;
    with the samples as `points` it is refused.
    :class:`VIMCO`, :class:`DoublyReparameterized` and :class:`ReweightedWakeSleep` need log p, log q and the samples separately.

    Args:
        log_weights: log w, with the K samples of each bound along `dim`.
        dim: the dimension of the samples.
        points: the samples z, of any shape, if φ is to get a gradient: the log-weights then need a path to φ through them.

    Returns:
        The bound, without the dimension `dim`; in float32 at least.

    Raises:
        TypeError: for what is not a tensor of real floating-point numbers.
        ValueError: where there is no such dimension, or it is empty.
        RuntimeError: for log-weights that have no path to `points`, or points that have none to φ.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.importance_weighted_bound(torch.tensor([1.0, 3.0]).log()).exp()
        tensor(2.)
    """
    if not isinstance(log_weights, Tensor) or not log_weights.is_floating_point():
        got = log_weights.dtype if isinstance(log_weights, Tensor) else type(log_weights).__name__
        raise TypeError(f"importance_weighted_bound needs a tensor of real log-weights; got {got}. Pass log p - log q.")
    shape = list(log_weights.shape)
    if not -len(shape) <= dim < len(shape) or shape[dim] == 0:
        raise ValueError(
            f"importance_weighted_bound needs the samples along dim={dim}, at least one; got log-weights of shape {shape}. "
            "Name the dimension of the samples."
        )
    if points is not None and torch.is_grad_enabled() and inspectable(log_weights):
        attached = points.grad_fn is not None and checks.has_path(log_weights, points)
        if not attached:
            raise RuntimeError(
                "importance_weighted_bound needs log-weights that autograd can follow to φ through the points; got none such, "
                "so the gradient for φ would be wrong. Draw the points with rsample and do not detach them, or use VIMCO, "
                "which brings the score of the samples."
            )
    return noise.promote(log_weights).logsumexp(dim) - math.log(shape[dim])


def rsample_refusal(name: str, variables: Variables, instead: str) -> str | None:
    """Why samples cannot be differentiated with respect to φ, with the fix; None if they can."""
    kind = variables.kind
    if variables.is_discrete:
        return (
            f"{name} needs a continuous distribution; got {kind}, whose samples have no derivative by φ. Use {instead}."
        )
    if not variables.dist.has_rsample:
        return f"{name} needs a distribution with rsample; got {kind}, which has none. Use {instead}."
    return None
