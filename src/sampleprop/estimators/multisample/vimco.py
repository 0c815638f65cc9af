"""VIMCO: the importance-weighted bound by the score function, with a baseline from the other samples.

Source: Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives".
Differences from the paper: the geometric mean only, which its authors prefer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution

from sampleprop import checks, families
from sampleprop.estimator import Estimator, F, Source, Worked
from sampleprop.estimators.multisample.importance_weighted import importance_weighted_bound
from sampleprop.surrogate import surrogate, unsqueeze_to


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class VIMCO(Estimator[Draw]):
    r"""Weighs the score of each sample with what it adds to the K-sample bound, as judged from the others.

    .. math::

        \nabla_\phi L_K \approx \sum_k (\hat L - \hat L_{-k} - \tilde w_k) \nabla_\phi \log q_\phi(z_k), \qquad
        \hat L = \log \frac1K \sum_k w_k, \qquad w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k)}

    :math:`\hat L_{-k}` is :math:`\hat L` with the geometric mean of the other weights for :math:`w_k`. f returns
    :math:`\log p_\theta(x, z)`, finite and without log q; the result is to be maximized. Unbiased for the bound. f may be a black box,
    and z discrete: the distribution needs a log-probability that is differentiable in φ and a support that does not move.
    θ gets :math:`\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)`, and so does φ where f depends on it besides through z. K evaluations of f.

    Args:
        samples: K, at least 2.

    Raises:
        TypeError: for a distribution whose support moves with φ.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> log_joint = lambda z: -(1 - z.sum(-1)).square()
        >>> (-sp.expect(log_joint, q, sp.VIMCO(samples=4))).backward()
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    objective = "log-mean-exp"
    source = Source(
        key="mnih2016variational",
        authors="Andriy Mnih and Danilo J. Rezende",
        year=2016,
        title="Variational inference for Monte Carlo objectives",
        venue="International Conference on Machine Learning",
        arxiv="1602.06725",
    )

    def __init__(self, samples: int = 8) -> None:
        super().__init__()
        checks.samples("VIMCO", samples, least=2)
        self.samples = samples

    @property
    def samples_least(self) -> int:
        return 2

    def refusal(self, dist: Distribution) -> str | None:
        return super().refusal(dist) or checks.moving_refusal(self.name, dist, "Use ImportanceWeighted.")

    def propose(self, dist: Distribution, *, context: Tensor | None = None, generator: Generator | None = None) -> Draw:
        return Draw(families.sample(dist, self.draws, generator))

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
        checks.whole(self.name, keep)
        log_q = families.log_prob(dist, draw.points)  # [k, *batch], attached to φ
        log_weights = costs - log_q.detach()
        value = importance_weighted_bound(log_weights)
        fixed = log_weights.detach()
        # The bound itself depends on φ through -log q, which brings -w̃.
        coefficients = value.detach() - _without_each(fixed) - fixed.softmax(0)
        return through_log_prob(self.name, value, log_q, coefficients)

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return cls(2), cls(3)

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, so log q = -log 2, and z = (1, 0) with w = (3, 1): L̂ = log 2, w̃ = (3/4, 1/4). With the other's weight
        # for its own, L̂₋ = (log 1, log 3). The scores are ±1/2: ½ (log 2 - 3/4) - ½ (log 2 - log 3 - 1/4).
        return Worked(
            estimator=cls(2),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0, 0.0], dtype=torch.float64)),
            f=lambda z: z * math.log(3) - math.log(2),
            value=torch.tensor(math.log(2), dtype=torch.float64),
            gradient=torch.tensor((math.log(3) - 0.5) / 2, dtype=torch.float64),
        )


def _without_each(log_weights: Tensor) -> Tensor:
    """The bound with each sample's log-weight replaced by the mean of the others': [k, *batch]."""
    k = log_weights.shape[0]
    own = unsqueeze_to(torch.eye(k, dtype=torch.bool, device=log_weights.device), log_weights.dim() + 1)
    # All k x k numbers: taking one term out of a sum of exponentials would cancel where it dominates.
    others = torch.where(own, 0.0, log_weights).sum(1, keepdim=True) / (k - 1)  # [k, 1, *batch]
    return importance_weighted_bound(torch.where(own, others, log_weights), 1)


def through_log_prob(name: str, value: Tensor, log_q: Tensor, coefficients: Tensor) -> Tensor:
    """Return `value`, [*batch], with the derivative Σ_k coefficients_k ∇ log q_k besides its own."""
    return surrogate(name, value, (log_q.movedim(0, -1),), (coefficients.movedim(0, -1),))
