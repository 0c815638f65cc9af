"""The mean cost of the other samples.

Source: [salimans2014using]; [kool2019buy]. Differences from the papers: none.
"""

from __future__ import annotations

from torch import Tensor

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs, others
from sampleprop.families import Variables


class LeaveOneOut(Baseline):
    r"""For each sample the mean cost of the others, :math:`b_i = \frac{1}{k-1} \sum_{j \ne i} f(x_j)`.

    The samples are those of one batch element, because only their costs are independent draws from one distribution.
    The samples of a program's other particles, and of the other ranks of a process group, are counted among them. For
    two samples with scores s the gradient is :math:`\frac12 (f(x_1) - f(x_2)) (s_1 - s_2)`. If no other sample has a
    finite cost, b is 0.

    Example, for costs (3, 1, 2): the means of the others are (1 + 2) / 2, (3 + 2) / 2 and (3 + 1) / 2:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.costs import Costs
        >>> variables = sp.families.recognize(torch.distributions.Bernoulli(torch.tensor(0.5)))
        >>> points, costs = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([3.0, 1.0, 2.0])
        >>> sp.LeaveOneOut().value(variables, points, Costs(costs))
        tensor([1.5000, 2.5000, 2.0000])
    """

    samples_least = 2

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return others(costs.points, group=costs.group)
