"""The average of past costs.

Source: common practice, for instance [mnih2014neural], sec. 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


class MovingAverage(Baseline):
    r"""The average cost of earlier steps, kept as a parameter.

    The parameter m learns from the loss ½(f - m)², whose gradient is m - f. Plain gradient descent at rate 1 - d makes
    it the exponential moving average m ← d m + (1 - d) f of decay d, for a loss averaged over the batch. The current
    cost enters after its own use, in `optimizer.step()`, because an average that contains it would shrink the gradient.

    On several ranks m follows the costs of all of them, and stays the same on each, where it is a parameter of the
    module that averages its gradients (`DistributedDataParallel`, say).

    Args:
        start: the first guess of the cost.

    Example, for m = 1 and the cost 3, at decay 0.9: m becomes 0.9 · 1 + 0.1 · 3 = 1.2:

        >>> import torch, sampleprop as sp
        >>> baseline = sp.MovingAverage(start=1.0)
        >>> optimizer = torch.optim.SGD(baseline.parameters(), lr=0.1)
        >>> q = torch.distributions.Bernoulli(torch.tensor(0.5))
        >>> sp.expect(lambda x: torch.full_like(x, 3.0), q, sp.ScoreFunction(1, baseline=baseline)).backward()
        >>> optimizer.step()
        >>> baseline.average.detach()
        tensor([1.2000])
    """

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.average = nn.Parameter(torch.tensor([float(start)]))  # one dimension, because FSDP takes no scalar

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return self.average.to(costs.points.dtype).expand_as(costs.points)
