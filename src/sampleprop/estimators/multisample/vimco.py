"""VIMCO: the importance-weighted bound with the score function, and a baseline from the other samples.

Source: [mnih2016variational]. Differences from the paper: the geometric mean only, which its authors prefer.
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


class VIMCO(Estimator[Variables, Draw]):
    r"""Weights the score of each sample by what the sample adds to the K-sample bound, as judged from the others.

    .. math::

        \nabla_\phi L_K \approx \sum_k (\hat L - \hat L_{-k} - \tilde w_k) \nabla_\phi \log q_\phi(z_k), \qquad
        \hat L = \log \frac1K \sum_k w_k, \qquad w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k)}

    :math:`\hat L_{-k}` is :math:`\hat L` with the geometric mean of the other weights in place of :math:`w_k`. f
    returns :math:`\log p_\theta(x, z)`, finite and without log q. The result is to be maximized. Unbiased for the
    bound.

    f may be a black box, and z discrete: the distribution needs a log-probability that is differentiable in φ and a
    support that does not move. θ gets :math:`\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)` with
    :math:`\tilde w_k = w_k / \sum_j w_j`, and so does φ if f also depends on it directly. K evaluations of f.

    Args:
        samples: K, at least 2.

    Raises:
        TypeError: for a distribution whose support moves with φ.

    Example, for p = 1/2 and z = (1, 0), with log-joints that make the weights w = (3, 1). Then L̂ = log 2 and
    w̃ = (3/4, 1/4). With the weight of the other sample in place of its own, L̂₋ = (log 1, log 3). The scores are ±1/2,
    so the gradient is (log 2 - 3/4) / 2 - (log 2 - log 3 - 1/4) / 2 = (log 3) / 2 - 1/4:

        >>> import math, torch, sampleprop as sp
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> log_joint = torch.tensor([3 / 2, 1 / 2]).log()
        >>> bound = sp.VIMCO(2).combine(q, Draw(torch.tensor([1.0, 0.0])), log_joint)
        >>> bound.backward()
        >>> bound.detach().exp(), logit.grad - math.log(3) / 2
        (tensor(2.), tensor(-0.2500))
    """

    unbiased = True
    exact_forward = True
    needs = "black box"
    family = "multi-sample bounds"
    objective = "log-mean-exp"
    samples_least = 2
    source = cited("mnih2016variational")

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
        fixed = log_weights.detach()
        # The bound itself depends on φ through -log q, which brings -w̃.
        coefficients = value.detach() - _without_each(fixed) - fixed.softmax(0)
        return add_scores(self.name, value, variables, draw.points, log_q, coefficients)


def _without_each(log_weights: Tensor) -> Tensor:
    """The bound with each sample's log-weight replaced by the mean of the others': [k, *batch]."""
    k = log_weights.shape[0]
    # All k × k numbers: taking one term out of a sum of exponentials would cancel where that term dominates.
    each = log_weights.expand(k, *log_weights.shape).clone()  # [k, k, *batch], the sample that is left out first
    own = each.diagonal(dim1=0, dim2=1)  # [*batch, k]
    own.zero_()
    own.copy_(each.sum(1).movedim(0, -1) / (k - 1))
    return importance_weighted_bound(each, 1)
