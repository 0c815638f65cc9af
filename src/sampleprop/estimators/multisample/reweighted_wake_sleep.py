"""Reweighted wake-sleep with the wake-phase update of q.

Source: Bornschein and Bengio (2015), "Reweighted wake-sleep".
Differences from the paper: both updates in one value to be maximized; no sleep phase, which would need samples of p.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.multisample.importance_weighted import importance_weighted_bound
from sampleprop.estimators.multisample.vimco import through_log_prob
from sampleprop.families import Variables


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class ReweightedWakeSleep(Estimator[Variables, Draw]):
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
    whole = True
    objective = "log-mean-exp"
    source = cited("bornschein2015reweighted")

    def __init__(self, samples: int = 8) -> None:
        super().__init__()
        checks.samples("ReweightedWakeSleep", samples, least=2)
        self.samples = samples

    @property
    def samples_least(self) -> int:
        return 2

    def refuses(self, variables: Variables) -> str | None:
        return checks.moving_refusal(self.name, variables, "Use ImportanceWeighted.")

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        log_q = variables.log_prob(draw.points)  # [k, *batch], attached to φ
        log_weights = costs.points - log_q.detach()
        value = importance_weighted_bound(log_weights)
        return through_log_prob(self.name, value, log_q, log_weights.detach().softmax(0))
