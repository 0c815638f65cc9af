"""The constant of least variance, from the other samples.

Source: [greensmith2004variance]. Differences from the paper: the constant is estimated from the other samples only,
which keeps it unbiased.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.baselines.baseline import Baseline, squared_length
from sampleprop.costs import Costs, totals
from sampleprop.families import Variables


class OptimalCoefficient(Baseline):
    r"""The mean cost of the other samples, weighted by their squared scores.

    .. math::

        b_i = \frac{\sum_{j \ne i} f(x_j) \|s_j\|^2}{\sum_{j \ne i} \|s_j\|^2}, \qquad s = \nabla_\phi \log p_\phi(x)

    This estimates the constant that minimizes the variance, E[f‖s‖²] / E‖s‖². The scores are the gradients with respect
    to the logits, or with respect to the parameters that the distribution was built with.

    Example, for p = 1/4, x = (1, 0, 0) and costs (3, 1, 2). The scores are (3/4, -1/4, -1/4), with squares proportional
    to (9, 1, 1). Therefore b is (1 + 2) / 2, (27 + 2) / 10 and (27 + 1) / 10:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.costs import Costs
        >>> variables = sp.families.recognize(torch.distributions.Bernoulli(torch.tensor(0.25)))
        >>> points, costs = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 2.0])
        >>> sp.OptimalCoefficient().value(variables, points, Costs(costs))
        tensor([1.5000, 2.9000, 2.8000])
    """

    samples_least = 2

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        weight = squared_length(variables.scores(points), costs.points.dim())  # [k, *batch]
        weighted = weight * costs.points
        all_weighted, all_weight = totals(weighted, weight, group=costs.group)
        rest = all_weight - weight
        return (all_weighted - weighted) / torch.where(rest > 0, rest, 1.0)
