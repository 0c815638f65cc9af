"""The mean cost of the other samples.

Source: Salimans and Knowles (2014), "On using control variates with stochastic approximation for variational Bayes and
its connection to stochastic linear regression"; Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a
baseline for free!"
Differences from the papers: none.
"""

from __future__ import annotations

from torch import Tensor

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs, others
from sampleprop.families import Variables


class LeaveOneOut(Baseline):
    r"""For each sample the mean cost of the others, :math:`b_i = \frac{1}{k-1} \sum_{j \ne i} f(x_j)`.

    The samples are those of one batch element: only their costs are independent draws from one distribution. Those of a
    program's other particles, and of the other ranks of a process group, are among them. For two
    samples with scores s the gradient is :math:`\frac12 (f(x_1) - f(x_2)) (s_1 - s_2)`. Where no other sample has a finite
    cost, b is 0.

    Example:
        >>> import sampleprop as sp
        >>> sp.ScoreFunction(samples=4, baseline=sp.LeaveOneOut())
        ScoreFunction(samples=4, baseline=LeaveOneOut)
    """

    samples_least = 2

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return others(costs.points, costs.keep, costs.group)
