"""Reweighted wake-sleep with the wake-phase update of q.

Source: [bornschein2015reweighted]. Differences from the paper: both updates are in one value that is to be maximized.
There is no sleep phase, which would need samples of p.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Generator, Tensor

from sampleprop import checks
from sampleprop.bibliography import cited
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.estimators.multisample.bound import importance_weighted_bound
from sampleprop.estimators.multisample.scores import add_scores, log_prob
from sampleprop.families import Variables


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class ReweightedWakeSleep(Estimator[Variables, Draw]):
    r"""Fits p to the K-sample bound, and q to the posterior by weighted maximum likelihood.

    .. math::

        \nabla_\theta L_K \approx \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k), \qquad
        g_\phi = \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k)
            \approx -\nabla_\phi\, \mathrm{KL}(p_\theta(z | x) \,\|\, q_\phi)

    There are two objectives. The value, and the gradient for θ, are those of the bound :math:`L_K`, unbiased. What φ
    gets is *not* the gradient of the bound, and counts as biased here. It is the gradient of another divergence, up to
    a bias of order 1/K, because the weights are normalized by their own sum. Both go uphill: maximizing the result
    lowers :math:`\mathrm{KL}(p \| q)`. The gradient for φ does not fade as K grows, and q covers the whole posterior
    instead of one of its modes.

    f returns :math:`\log p_\theta(x, z)`, without log q, and may be a black box. If f also depends on φ directly, φ
    gets the bound's gradient for that part. z may be discrete: the distribution needs a log-probability that is
    differentiable in φ and a support that does not move. K evaluations of f.

    Args:
        samples: K, at least 2, because a single sample has the weight 1, and its gradient has mean zero.

    Raises:
        TypeError: for a distribution whose support moves with φ.

    Example, for p = 1/2 and z = (1, 0), with log-joints that make the weights w = (3, 1): the value is log 2, and
    w̃ = (3/4, 1/4). The scores are ±1/2, so the gradient is 3/4 · 1/2 - 1/4 · 1/2 = 1/4:

        >>> import torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> log_joint = torch.tensor([3 / 2, 1 / 2]).log()
        >>> bound = sp.ReweightedWakeSleep(2).combine(q, Draw(torch.tensor([1.0, 0.0])), log_joint)
        >>> bound.backward()
        >>> bound.detach().exp(), logit.grad
        (tensor(2.), tensor(0.2500))
    """

    unbiased = False
    exact_forward = True
    needs = "black box"
    family = "multi-sample bounds"
    objective = "log-mean-exp"
    samples_least = 2
    aliases = ("RWS",)
    source = cited("bornschein2015reweighted")

    def __init__(self, samples: int = 8) -> None:
        super().__init__()
        checks.samples(self.name, samples, least=2)
        self.samples = samples

    def refuses(self, variables: Variables) -> str | None:
        return checks.moving_refusal(self.name, variables, "Use ImportanceWeighted.")

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        log_q = log_prob(variables, draw.points)  # [k, *batch]
        log_weights = costs.points - log_q.detach()
        value = importance_weighted_bound(log_weights)
        return add_scores(self.name, value, variables, draw.points, log_q, log_weights.detach().softmax(0))
