"""The average of past costs.

Source: common practice, e.g. Mnih and Gregor (2014), "Neural variational inference and learning in belief networks",
sec. 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


class MovingAverage(Baseline):
    r"""The average cost of earlier steps, kept as a parameter.

    The parameter m learns from the loss ½(f - m)², whose gradient is m - f: with plain gradient descent at rate
    1 - d it is the exponential moving average m ← d m + (1 - d) f of decay d (for a loss averaged over the batch).
    The current cost enters after its own use, in `optimizer.step()`: an average that contains it would shrink the gradient.
    On several ranks m follows the costs of all of them, and stays the same on each, where it is a parameter of the module
    that averages its gradients (`DistributedDataParallel`, say).

    Args:
        start: the first guess of the cost.

    Example:
        >>> import torch, sampleprop as sp
        >>> estimator = sp.ScoreFunction(1, baseline=sp.MovingAverage())
        >>> optimizer = torch.optim.SGD(estimator.parameters(), lr=0.1)  # decay 0.9
    """

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.average = nn.Parameter(torch.tensor([float(start)]))  # not a scalar: FSDP takes none

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return self.average.to(costs.points.dtype).expand_as(costs.points)
