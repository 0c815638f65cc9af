"""The score function of the finite part of f: E[f | f is finite], for costs that are lost at some points.

Let A be the event that f is finite. Given A, the samples that are kept are independent draws from p(x | A), whose score
is ∇log p(x) - E[∇log p | A]. Therefore

    ∇E[f | A] = E[∇f | A] + Cov(f, ∇log p | A),

and the leave-one-out estimate over the kept samples is this covariance without bias, for any number of them from two
on. Any other baseline b leaves (E[f | A] - b) E[∇log p | A], which is not zero where x decides what is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop import checks
from sampleprop.costs import Costs, totals
from sampleprop.estimators.score.dice import require_possible
from sampleprop.families import Discrete, Variables
from sampleprop.surrogate import guarded, surrogate


def finite_part(name: str, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
    """Return [*batch]: the mean of the costs that are kept, with the gradient of E[f | f is finite]; of first order.

    Args:
        name: the estimator.
        variables: p_φ, attached to φ.
        points: [k, *batch, *event]; any of positive probability where no cost is kept.
        costs: with `keep`; the group's further samples count.

    Raises:
        ValueError: where fewer than two costs of a batch element are kept, those of the group counted.
    """
    assert costs.keep is not None
    group = costs.group
    if group is not None and group.dim is not None:
        raise ValueError(f"{name} needs every cost of a program's particles; got keep. Fix f.")
    one = costs.keep.to(costs.points.dtype)
    exact = costs.fixed.double()  # so that differences lose no digits to what all costs share
    total, count = totals(exact * one, one.double(), group=group)  # [1, *batch], over all ranks
    checks.two_kept(name, count.squeeze(0))
    ranks = 1 if group is None else group.size(costs.points) // costs.points.shape[0]
    share = (ranks * one / count).to(one.dtype)  # [k, *batch], sums to 1 averaged over the ranks
    value = (share * torch.where(costs.keep, costs.points, 0.0)).sum(0)
    beyond = (exact - (total - exact) / (count - 1)).to(one.dtype)
    weights = torch.where(costs.keep, share * beyond, 0.0)
    if isinstance(variables, Discrete):
        return surrogate(name, value, (variables.logits,), (variables.gradient_for_logits(points, weights),))
    log_prob = variables.log_prob(points)
    checks.scored(name, variables, log_prob)
    require_possible(log_prob, costs.keep)
    log_prob = torch.where(costs.keep, log_prob, 0.0)
    return guarded(name, value + (weights * (log_prob - log_prob.detach())).sum(0))
