"""Reweighted wake-sleep with the wake-phase update of q.

Source: Bornschein and Bengio (2015), "Reweighted wake-sleep".
Differences from the paper: both updates in one value to be maximized; no sleep phase, which would need samples of p.
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
from sampleprop.estimators.multisample.vimco import through_log_prob


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class ReweightedWakeSleep(Estimator[Draw]):
    r"""Fits p to the K-sample bound, and q to the posterior by weighted maximum likelihood.

    .. math::

        \nabla_\theta L_K \approx \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k), \qquad
        g_\phi = \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k) \approx -\nabla_\phi\, \mathrm{KL}(p_\theta(z | x) \,\|\, q_\phi)

    Two objectives: the value, and the gradient for θ, are those of the bound :math:`L_K`, unbiased. What φ gets is *not* the
    gradient of the bound, and counts as biased here: it is that of another divergence, up to a bias of order 1/K since the
    weights are normalized by their own sum. The direction is uphill for both, so that maximizing the result lowers
    :math:`\mathrm{KL}(p \| q)`. It does not fade as K grows, and q covers the posterior instead of one of its modes.

    f returns :math:`\log p_\theta(x, z)`, without log q, and may be a black box; where it depends on φ besides through z, φ gets the
    bound's gradient for that. z may be discrete: the distribution needs a log-probability that is differentiable in φ and a
    support that does not move. K evaluations of f.

    Args:
        samples: K, at least 2: one alone has the weight 1 and no gradient in the mean.

    Raises:
        TypeError: for a distribution whose support moves with φ.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> log_joint = lambda z: -(1 - z.sum(-1)).square()
        >>> (-sp.expect(log_joint, q, sp.ReweightedWakeSleep(samples=16))).backward()
    """

    unbiased = False
    exact_forward = True
    needs = "black box"
    objective = "log-mean-exp"
    source = Source(
        key="bornschein2015reweighted",
        authors="Jörg Bornschein and Yoshua Bengio",
        year=2015,
        title="Reweighted wake-sleep",
        venue="International Conference on Learning Representations",
        arxiv="1406.2751",
    )

    def __init__(self, samples: int = 8) -> None:
        super().__init__()
        checks.samples("ReweightedWakeSleep", samples, least=2)
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
        return through_log_prob(self.name, value, log_q, log_weights.detach().softmax(0))

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return (cls(2),)

    @classmethod
    def worked(cls) -> Worked:
        # p = 1/2, so log q = -log 2, and z = (1, 0) with w = (3, 1): the value is log 2, w̃ = (3/4, 1/4). The scores are
        # ±1/2: 3/8 - 1/8.
        return Worked(
            estimator=cls(2),
            parameter=torch.zeros((), dtype=torch.float64),
            dist=lambda logits: Bernoulli(logits=logits),
            draw=lambda dist: Draw(torch.tensor([1.0, 0.0], dtype=torch.float64)),
            f=lambda z: z * math.log(3) - math.log(2),
            value=torch.tensor(math.log(2), dtype=torch.float64),
            gradient=torch.tensor(0.25, dtype=torch.float64),
        )
