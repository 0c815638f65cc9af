"""The constant of least variance, from the other samples.

Source: Greensmith, Bartlett and Baxter (2004), "Variance reduction techniques for gradient estimates in reinforcement
learning".
Differences from the paper: estimated by leaving one out, which keeps it unbiased.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs, totals
from sampleprop.families import Variables


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

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        scores = variables.scores(points)
        squares = [s.square().unsqueeze(-1).flatten(costs.points.dim()).sum(-1) for s in scores]
        weight = torch.stack(squares).sum(0)  # [k, *batch]
        if costs.keep is not None:
            weight = weight * costs.keep
        weighted = weight * costs.points
        all_weighted, all_weight = totals(weighted, weight, group=costs.group)
        rest = all_weight - weight
        return (all_weighted - weighted) / torch.where(rest > 0, rest, 1.0)
