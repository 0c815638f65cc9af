"""The constant of least variance, from the other samples.

Source: Greensmith, Bartlett and Baxter (2004), "Variance reduction techniques for gradient estimates in reinforcement
learning".
Differences from the paper: estimated by leaving one out, which keeps it unbiased.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from sampleprop import families
from sampleprop.baselines.baseline import Baseline
from sampleprop.estimator import Group, totals


class OptimalCoefficient(Baseline):
    r"""The mean cost of the other samples, weighted by their squared scores.

    .. math:: b_i = \frac{\sum_{j \ne i} f(x_j) \|s_j\|^2}{\sum_{j \ne i} \|s_j\|^2}, \qquad s = \nabla_\phi \log p_\phi(x)

    This estimates the constant that minimizes the variance, E[f‖s‖²] / E‖s‖². Scores are those by the logits, or by the
    parameters that the distribution was built with.

    Example:
        >>> import sampleprop as sp
        >>> sp.ScoreFunction(samples=4, baseline=sp.OptimalCoefficient())
        ScoreFunction(samples=4, baseline=OptimalCoefficient)
    """

    samples_least = 2

    def value(
        self,
        dist: Distribution,
        points: Tensor,
        costs: Tensor,
        probe_costs: Tensor | None,
        context: Tensor | None,
        keep: Tensor | None,
        group: Group | None,
    ) -> Tensor:
        scores = families.score(dist, points)
        squares = [s.square().unsqueeze(-1).flatten(costs.dim()).sum(-1) for s in scores]
        weight = torch.stack(squares).sum(0)  # [k, *batch]
        if keep is not None:
            weight = weight * keep
        weighted = weight * costs
        all_weighted, all_weight = totals(weighted, weight, group=group)
        rest = all_weight - weight
        return (all_weighted - weighted) / torch.where(rest > 0, rest, 1.0)
