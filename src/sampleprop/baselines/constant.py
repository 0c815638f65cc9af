"""A constant that you choose.

Source: [williams1992simple], sec. 4. Differences from the paper: none.
"""

from __future__ import annotations

from torch import Tensor

from sampleprop import checks
from sampleprop.baselines.baseline import Baseline
from sampleprop.costs import Costs
from sampleprop.families import Variables


class Constant(Baseline):
    """A fixed number. The number 0 means no baseline.

    Args:
        number: a typical cost, any finite number.

    Raises:
        ValueError: for a number that is not finite.

    Example, for p = 1/2 and x = 1, whose score is 1/2, with the cost 3: the gradient is (3 - 2) / 2:

        >>> import torch, sampleprop as sp
        >>> from sampleprop.estimators.score.score_function import Draw
        >>> logit = torch.zeros((), requires_grad=True)
        >>> q = torch.distributions.Bernoulli(logits=logit)
        >>> estimator = sp.ScoreFunction(1, baseline=sp.Constant(2.0))
        >>> estimator.combine(q, Draw(torch.ones(1)), torch.tensor([3.0])).backward()
        >>> logit.grad
        tensor(0.5000)
    """

    def __init__(self, number: float = 0.0) -> None:
        super().__init__()
        checks.finite_number("Constant", "number", number)
        self.number = number

    def value(self, variables: Variables, points: Tensor, costs: Costs) -> Tensor:
        return costs.points.new_full((), self.number).expand_as(costs.points)

    @property
    def label(self) -> str:
        return f"Constant({self.number:g})"
